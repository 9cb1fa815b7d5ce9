"""Folders of CLAM with features in HDF5, drawn by hand from their description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tests.support.foreign_tensors import Drawn


def write_clam_features(folder: Path, slide_id: str, drawn: Drawn, batch: int = 3) -> Path:
    """Write `h5_files/<slide>.h5`, which grows by a batch of patches at a time."""
    (folder / "h5_files").mkdir(parents=True, exist_ok=True)
    path = folder / "h5_files" / f"{slide_id}.h5"
    with h5py.File(path, "w") as h5:
        for at in range(0, len(drawn.features), batch):
            _append(h5, "features", drawn.features[at : at + batch])
            _append(h5, "coords", drawn.coords[at : at + batch].astype(np.int32))
    return path


def write_clam_patches(folder: Path, slide_id: str, drawn: Drawn, **more: Any) -> Path:
    """Write `patches/<slide>.h5`, at the level that the sizes of a patch imply."""
    (folder / "patches").mkdir(parents=True, exist_ok=True)
    path = folder / "patches" / f"{slide_id}.h5"
    scale = drawn.patch_size_l0 / drawn.patch_px
    attrs = {
        "patch_size": drawn.patch_px,
        "patch_level": round(np.log2(scale)),
        "downsample": np.array([scale, scale]),
        "downsampled_level_dim": np.array([30_000, 27_500]),
        "level_dim": np.array([30_000, 27_500]),
        "name": slide_id,
        "save_path": str(folder / "patches"),
    }
    with h5py.File(path, "w") as h5:
        _append(h5, "coords", drawn.coords)
        h5["coords"].attrs.update(attrs | more)
    return path


def _append(h5: h5py.File, name: str, array: NDArray[Any]) -> None:
    rest = array.shape[1:]
    if name not in h5:
        h5.create_dataset(name, data=array, chunks=(32, *rest), maxshape=(None, *rest))
        return
    stored = h5[name]
    stored.resize(len(stored) + len(array), axis=0)
    stored[-len(array) :] = array
