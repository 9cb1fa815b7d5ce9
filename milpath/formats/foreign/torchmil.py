"""torchmil's folders: `features/<slide>.npy` and `coords/<slide>.npy`, or the same in `.h5`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from milpath.formats.foreign.arrays import as_coords, as_features
from milpath.formats.foreign.folders import find_files
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    SlideFeatures,
    scale_to_l0,
    settle,
)
from milpath.store.foreign import open_foreign_h5
from milpath.store.npyfile import read_npy

_PREFIX = "features_"  # of the folder of one encoder: features/features_UNI


class TorchmilLayout:
    """What torchmil's data sets read: a folder for each kind of array, a file for each slide.

    The folder is the one that holds `features` and `coords`. `features` may hold a folder
    `features_<encoder>` instead of the files.
    """

    name = "torchmil"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the features of each slide by its id; empty if the folder is not of torchmil."""
        if not (folder / "coords").is_dir():
            return {}
        named = sorted((folder / "features").glob(f"{_PREFIX}*"))
        for place in (folder / "features", *(named if len(named) == 1 else ())):
            for suffix in (".npy", ".h5"):
                found = find_files(place, suffix)
                if found:
                    return found
        return {}

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        named = path.parent.name.startswith(_PREFIX)
        encoder = path.parent.name.removeprefix(_PREFIX) if named else None
        root = path.parent.parent.parent if named else path.parent.parent
        features = as_features(path, _read_array(path, "features"))
        beside = root / "coords" / path.name
        coords = None
        if beside.is_file():
            coords = as_coords(beside, _read_array(beside, "coords"), len(features))
        facts = FeatureFacts(
            layout=self.name,
            dim=features.shape[1],
            encoder=settle(path, "encoder", encoder, hints.encoder),
            patch_px=hints.patch_px,
            mpp=hints.mpp,
            tool="torchmil",
        )
        slide_id = path.name.removesuffix(path.suffix)
        return SlideFeatures(slide_id, features, coords, scale_to_l0(facts, hints), facts)


def _read_array(path: Path, name: str) -> NDArray[Any]:
    if path.suffix == ".npy":
        return read_npy(path)
    with open_foreign_h5(path) as h5:
        if name not in h5:
            raise h5.refuse(f"has no dataset {name!r}")
        return h5.read(name, h5.dtype(name), h5.shape(name))
