"""AtlasPatch's `patches/<slide>.h5`: patches, and the features of each encoder beside them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from milpath.errors import StoredFileError
from milpath.formats.foreign.h5 import (
    H5Sample,
    StoredRows,
    enter_h5,
    find_h5,
    get_number,
    get_whole,
    read_coords,
)
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    SlideFeatures,
    find_mpp,
    settle,
)
from milpath.slides.names import is_printable
from milpath.store.foreign import ForeignH5

_GROUP = "features/"
_UNFINISHED = "__tmp_"  # begin of the name of features that a killed run has left
_PLACE_COLUMNS = 5  # x, y, width and height as read, level


class AtlasPatchLayout:
    """Features named `features/<encoder>`, of patches that were resized to one size.

    The folder is the one of the files, or the one that holds it as `patches`. The files state the
    slide's µm per pixel where the slide does; that of the patches follows from it.
    """

    name = "atlaspatch"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the file of each slide by its id; empty if the folder is not of AtlasPatch."""
        return find_h5(folder, _fits) or find_h5(folder / "patches", _fits)

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        with ExitStack() as files:
            h5 = enter_h5(files, path)
            encoder = _pick_encoder(path, h5, hints.encoder)
            rows = StoredRows(path, h5, _GROUP + encoder)
            patch_px = get_whole(h5.attr("patch_size"))
            size = get_number(h5.attr("patch_size_level0"))
            width, height = (get_whole(h5.attr(f"level0_{edge}")) for edge in ("width", "height"))
            mpp = settle(path, "µm per pixel", _get_mpp(h5, patch_px, size), hints.mpp)
            facts = FeatureFacts(
                layout=self.name,
                dim=rows.shape[1],
                encoder=encoder,
                patch_px=settle(path, "patch size", patch_px, hints.patch_px),
                mpp=find_mpp(mpp, hints, patch_px, size),
                tool="AtlasPatch",
            )
            return SlideFeatures(
                slide_id=path.name.removesuffix(".h5"),
                features=rows,
                coords_l0=read_coords(path, h5, "coords", rows.shape[0]),
                patch_size_l0=size,
                facts=facts,
                size_l0=(width, height) if width and height else None,
                files=files.pop_all(),
            )


def _fits(sample: H5Sample) -> bool:
    places = sample.shapes.get("coords", ())
    grouped = any(name.startswith(_GROUP) for name in sample.shapes)
    return places[1:] == (_PLACE_COLUMNS,) and (grouped or "passport_format" in sample.attrs)


def _pick_encoder(path: Path, h5: ForeignH5, wanted: str | None) -> str:
    """Return the encoder that the user names, in any case of letters, or the only one."""
    names = [name.removeprefix(_GROUP) for name in h5.names if name.startswith(_GROUP)]
    names = sorted(
        name for name in names if is_printable(name) and not name.startswith(_UNFINISHED)
    )
    if not names:
        raise StoredFileError(
            f"{path.name}: has patches but no features; let AtlasPatch compute some"
        )
    same = [name for name in names if wanted is None or name.casefold() == wanted.casefold()]
    if len(same) == 1:
        return same[0]
    fact = "several encoders" if wanted is None else f"other encoders than {wanted}"
    raise StoredFileError(
        f"{path.name}: holds features of {fact}; name the one to read (--encoder-name): "
        f"{', '.join(names)}"
    )


def _get_mpp(h5: ForeignH5, patch_px: int | None, size: float | None) -> float | None:
    """Return µm per pixel of the patches, by that of the slide."""
    mpp = get_number(h5.attr("mpp"))
    return None if not (mpp and patch_px and size) else mpp * size / patch_px
