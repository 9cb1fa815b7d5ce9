"""A folder of NumPy's files: `<slide>.npz`, or `<slide>.npy` and `<slide>_coords.npy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.formats.foreign.arrays import COORD_NAMES, pick_coords, pick_features
from milpath.formats.foreign.folders import find_files
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    SlideFeatures,
    scale_to_l0,
)
from milpath.store.npyfile import read_npy, read_npz

_COORD_ENDS = tuple(f"{mark}{name}" for name in COORD_NAMES for mark in ("_", "."))


class NumpyLayout:
    """Files that a program of the user's own saved; they say nothing of how they were made.

    An `.npz` file holds `features` and, if they are known, `coords`; coordinates of features in an
    `.npy` file lie beside it. Coordinates are those of the top left corners in level-0 pixels.
    """

    name = "numpy"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the file of each slide by its id; empty without `.npz` or `.npy` files.

        Raises `StoredFileError` if a slide has both.
        """
        arrays = {
            slide_id: path
            for slide_id, path in find_files(folder, ".npy").items()
            if not slide_id.endswith(_COORD_ENDS)
        }
        archives = {
            slide_id: path
            for slide_id, path in find_files(folder, ".npz").items()
            if not slide_id.endswith((".index", *_COORD_ENDS))
        }
        for slide_id in arrays.keys() & archives.keys():
            raise StoredFileError(
                f"{slide_id}: has both an .npy and an .npz file of features; remove one of them"
            )
        return dict(sorted({**arrays, **archives}.items()))

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        arrays = read_npz(path) if path.suffix == ".npz" else _read_pair(path)
        features = pick_features(path, arrays)
        facts = FeatureFacts(
            layout=self.name,
            dim=features.shape[1],
            encoder=hints.encoder,
            patch_px=hints.patch_px,
            mpp=hints.mpp,
            tool="NumPy",
        )
        slide_id = path.name.removesuffix(path.suffix)
        coords = pick_coords(path, arrays, len(features))
        return SlideFeatures(slide_id, features, coords, scale_to_l0(facts, hints), facts)


def _read_pair(path: Path) -> dict[str, NDArray[Any]]:
    """Read features, and the coordinates beside them if they are there."""
    arrays = {"features": read_npy(path)}
    for name in COORD_NAMES:
        for mark in ("_", "."):
            beside = path.with_name(f"{path.name.removesuffix('.npy')}{mark}{name}.npy")
            if beside.is_file():
                arrays[name] = read_npy(beside)
    return arrays
