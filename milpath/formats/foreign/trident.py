"""TRIDENT's `features_<encoder>/<slide>.h5`; also what a program of the user's own writes so."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from milpath.formats.foreign.clam_patches import read_size
from milpath.formats.foreign.h5 import (
    H5Sample,
    StoredRows,
    enter_h5,
    find_h5,
    get_size,
    get_text,
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
from milpath.store.foreign import ForeignH5

_PREFIX = "features_"
_NONE = "None"  # as TRIDENT writes what it does not know


class TridentLayout:
    """Features of patches, with the patch sizes as attributes of the coordinates.

    TRIDENT stores no µm per pixel: its magnifications are nominal, "20x" may be 0.4 to 0.6. If the
    slide's µm per pixel is known, that of the patches follows from their size at level 0. Programs
    of the user's own may state it as an attribute `mpp` of the coordinates. Where TRIDENT took the
    coordinates of CLAM, the patch sizes are stated as CLAM does.
    """

    name = "trident"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the file of each slide by its id; empty if the folder is not of TRIDENT."""
        return find_h5(folder, _fits)

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        with ExitStack() as files:
            h5 = enter_h5(files, path)
            rows = StoredRows(path, h5, "features")
            coords = read_coords(path, h5, "coords", rows.shape[0])
            patch_px, size = _read_size(h5)
            stated = get_size(h5.dataset_attr("coords", "mpp"))
            mpp = settle(path, "µm per pixel", stated, hints.mpp)
            facts = FeatureFacts(
                layout=self.name,
                dim=rows.shape[1],
                encoder=settle(path, "encoder", _get_encoder(path, h5), hints.encoder),
                patch_px=settle(path, "patch size", patch_px, hints.patch_px),
                mpp=find_mpp(mpp, hints, patch_px, size),
                tool="TRIDENT",
            )
            width = get_whole(h5.dataset_attr("coords", "level0_width"))
            height = get_whole(h5.dataset_attr("coords", "level0_height"))
            return SlideFeatures(
                slide_id=path.name.removesuffix(".h5"),
                features=rows,
                coords_l0=coords,
                patch_size_l0=size,
                facts=facts,
                size_l0=(width, height) if width and height else None,
                files=files.pop_all(),
            )


def _fits(sample: H5Sample) -> bool:
    stated = "patch_size_level0" in sample.dataset_attrs.get("coords", {})
    written = {"encoder", "savetodir"} <= sample.dataset_attrs.get("features", {}).keys()
    return "coords" in sample.shapes and "features" in sample.shapes and (stated or written)


def _read_size(h5: ForeignH5) -> tuple[int | None, float | None]:
    """Return the edge of a patch, in pixels as it was encoded and of level 0, if known."""
    size = get_size(h5.dataset_attr("coords", "patch_size_level0"))
    if size is None:
        return read_size(h5)
    return get_whole(h5.dataset_attr("coords", "patch_size")), size


def _get_encoder(path: Path, h5: ForeignH5) -> str | None:
    stated = get_text(h5.dataset_attr("features", "encoder"))
    folder = path.absolute().parent.name
    named = folder.removeprefix(_PREFIX) if folder.startswith(_PREFIX) else None
    return stated if stated not in (None, _NONE) else named
