"""TRIDENT's `features_<encoder>/<slide>.h5`; also what a program of the user's own writes so."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from milpath.formats.foreign.h5 import (
    H5Sample,
    StoredRows,
    enter_h5,
    find_h5,
    get_number,
    get_text,
    get_whole,
    read_coords,
)
from milpath.formats.foreign.values import FeatureFacts, FeatureHints, SlideFeatures, settle
from milpath.store.foreign import ForeignH5

_PREFIX = "features_"


class TridentLayout:
    """Features of patches, with the patch sizes as attributes of the coordinates.

    TRIDENT stores no µm per pixel: its magnifications are nominal, "20x" may be 0.4 to 0.6. If the
    slide's µm per pixel is known, that of the patches follows from their size at level 0. Programs
    of the user's own may state it as an attribute `mpp` of the coordinates.
    """

    name = "trident"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the file of each slide by its id; empty if the folder is not of TRIDENT."""
        return find_h5(folder, _is_own)

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        with ExitStack() as files:
            h5 = enter_h5(files, path)
            rows = StoredRows(path, h5, "features")
            coords = read_coords(path, h5, "coords", rows.shape[0])
            patch_px = get_whole(h5.dataset_attr("coords", "patch_size"))
            size = get_number(h5.dataset_attr("coords", "patch_size_level0"))
            facts = FeatureFacts(
                layout=self.name,
                dim=rows.shape[1],
                encoder=settle(path, "encoder", _get_encoder(path, h5), hints.encoder),
                patch_px=settle(path, "patch size", patch_px, hints.patch_px),
                mpp=_settle_mpp(path, h5, hints, patch_px, size),
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


def _is_own(h5: H5Sample) -> bool:
    if "features" not in h5 or "coords" not in h5:
        return False
    return h5.dataset_attr("coords", "patch_size_level0") is not None


def _get_encoder(path: Path, h5: ForeignH5) -> str | None:
    stated = get_text(h5.dataset_attr("features", "encoder"))
    folder = path.absolute().parent.name
    named = folder.removeprefix(_PREFIX) if folder.startswith(_PREFIX) else None
    return stated or named


def _settle_mpp(
    path: Path, h5: ForeignH5, hints: FeatureHints, patch_px: int | None, size: float | None
) -> float | None:
    """Return the µm per pixel that the file states, the user gives, or the slide leads to."""
    stated = get_number(h5.dataset_attr("coords", "mpp"))
    found = settle(path, "µm per pixel", stated, hints.mpp)
    if found is not None or not (hints.slide_mpp and patch_px and size):
        return found
    return size * hints.slide_mpp / patch_px
