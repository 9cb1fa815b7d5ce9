"""CLAM's `pt_files/<slide>.pt`, with the coordinates of `h5_files` or `patches` beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.formats.foreign.arrays import pick_features
from milpath.formats.foreign.clam_patches import find_patches, read_patch_size
from milpath.formats.foreign.folders import find_files
from milpath.formats.foreign.h5 import read_coords
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    SlideFeatures,
    find_mpp,
    scale_to_l0,
)
from milpath.store.foreign import open_foreign_h5
from milpath.store.torchfile import read_torch

_FOLDER = "pt_files"


class ClamTensorLayout:
    """Features that CLAM's `extract_features_fp.py` wrote, in the order of its coordinates.

    The folder is the one that holds `pt_files`, or `pt_files` itself. CLAM stores neither the
    encoder nor µm per pixel, and the size of a patch only with the coordinates in `patches`.
    """

    name = "clam-pt"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the tensor file of each slide by its id; empty without `pt_files`."""
        return find_files(folder if folder.name == _FOLDER else folder / _FOLDER, ".pt")

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        slide_id = path.name.removesuffix(".pt")
        features = pick_features(path, read_torch(path).tensors)
        places = _read_places(path.parent.parent, slide_id, len(features))
        patch_px = hints.patch_px or places.patch_px  # CLAM resizes patches for the encoder
        facts = FeatureFacts(
            layout=self.name,
            dim=features.shape[1],
            encoder=hints.encoder,
            patch_px=patch_px,
            mpp=find_mpp(hints.mpp, hints, patch_px, places.patch_size_l0),
            tool="CLAM",
        )
        size = places.patch_size_l0 or scale_to_l0(facts, hints)
        return SlideFeatures(slide_id, features, places.coords, size, facts)


@dataclass(frozen=True, eq=False)
class _Places:
    """Where the patches of a slide lie, None where no file says it."""

    coords: NDArray[np.int64] | None = None
    patch_px: int | None = None
    patch_size_l0: float | None = None


def _read_places(folder: Path, slide_id: str, count: int) -> _Places:
    """Read the coordinates of the features, and the size of a patch from those of the patches."""
    beside, patches = folder / "h5_files" / f"{slide_id}.h5", find_patches(folder, slide_id)
    coords = _read_coords(beside, count)
    if patches is None:
        return _Places(coords)
    size = read_patch_size(patches, count)
    return _Places(_read_coords(patches, count) if coords is None else coords, *size)


def _read_coords(path: Path, count: int) -> NDArray[np.int64] | None:
    if not path.is_file():
        return None
    with open_foreign_h5(path) as h5:
        return read_coords(path, h5, "coords", count) if "coords" in h5 else None
