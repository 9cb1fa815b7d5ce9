"""CLAM's `pt_files/<slide>.pt`, with the coordinates of `h5_files` or `patches` beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.formats.foreign.arrays import as_coords, pick_features
from milpath.formats.foreign.folders import find_files
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    SlideFeatures,
    find_mpp,
    scale_to_l0,
)
from milpath.store.foreign import ForeignH5, open_foreign_h5
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


def read_patch_size(folder: Path, name: str) -> tuple[int | None, float | None]:
    """Return the edge of a slide's patches, in pixels of their level and of level 0, if known.

    Parameters
    ----------
    folder : that holds CLAM's folders of features; `patches` lies in it or beside it
    name : of the slide's file in `patches`
    """
    for patches in (folder / "patches", folder.parent / "patches"):
        if (patches / name).is_file():
            with open_foreign_h5(patches / name) as h5:
                return _read_size(h5) if "coords" in h5 else (None, None)
    return None, None


def _read_places(folder: Path, slide_id: str, count: int) -> _Places:
    """Read the coordinates of the features, and the size of a patch from those of the patches."""
    name = f"{slide_id}.h5"
    places = _read_file(folder / "h5_files" / name, count)
    for patches in (folder / "patches", folder.parent / "patches"):
        if (patches / name).is_file():
            tiled = _read_file(patches / name, count)
            coords = tiled.coords if places.coords is None else places.coords
            return _Places(coords, tiled.patch_px, tiled.patch_size_l0)
    return places


def _read_file(path: Path, count: int) -> _Places:
    if not path.is_file():
        return _Places()
    with open_foreign_h5(path) as h5:
        if "coords" not in h5:
            return _Places()
        shape = h5.shape("coords")
        coords = as_coords(path, h5.read("coords", h5.dtype("coords"), shape), count)
        return _Places(coords, *_read_size(h5))


def _read_size(h5: ForeignH5) -> tuple[int | None, float | None]:
    """Return the edge of a patch in pixels of its level and of level 0."""
    size, level = h5.dataset_attr("coords", "patch_size"), h5.dataset_attr("coords", "patch_level")
    if size is None:
        return None, None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size < 1 << 16:
        raise h5.refuse(f"attribute 'patch_size' of 'coords' is {size}, expected pixels")
    downsample = h5.dataset_attr("coords", "downsample")
    if level == 0:
        return size, float(size)
    if isinstance(downsample, list | tuple) and downsample:
        downsample = downsample[0]
    if not isinstance(downsample, int | float) or not 1 <= downsample < 1 << 16:
        return size, None
    return size, size * float(downsample)
