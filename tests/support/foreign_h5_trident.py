"""Feature files of TRIDENT, drawn by hand from their description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tests.support.foreign_tensors import Drawn


def describe_coords(drawn: Drawn, kind: Any = int, **more: Any) -> dict[str, Any]:
    """Return the attributes of coordinates; `kind` is float for those of many slides at once."""
    attrs = {
        "patch_size": drawn.patch_px,
        "patch_size_level0": kind(drawn.patch_size_l0),
        "level0_magnification": 40,
        "target_magnification": kind(20),
        "overlap": 0,
        "name": "slide",
        "savetodir": "job/20x_256px_0px_overlap",
        "level0_width": 60_000,
        "level0_height": 55_000,
    }
    return attrs | more


def write_trident(
    folder: Path,
    slide_id: str,
    drawn: Drawn,
    *,
    features: NDArray[Any] | None = None,
    attrs: dict[str, Any] | None = None,
    encoder: str | None = "net",
) -> Path:
    """Write the features of one slide: a chunk for each row, attributes on both datasets.

    Parameters
    ----------
    features : in place of those drawn, of any shape
    attrs : of the coordinates
    encoder : attribute of the features
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slide_id}.h5"
    stored = drawn.features if features is None else features
    with h5py.File(path, "w") as h5:
        made = _write(h5, "features", stored)
        made.attrs.update({"name": slide_id, "savetodir": str(folder)})
        if encoder is not None:
            made.attrs["encoder"] = encoder
        coords = _write(h5, "coords", drawn.coords)
        coords.attrs.update(describe_coords(drawn) if attrs is None else attrs)
    return path


def _write(h5: h5py.File, name: str, array: NDArray[Any]) -> h5py.Dataset:
    rest = array.shape[1:]
    return h5.create_dataset(name, data=array, chunks=(1, *rest), maxshape=(None, *rest))


def draw_empty(drawn: Drawn) -> Drawn:
    """Return a slide without tissue."""
    features = np.zeros((0,), np.float32)
    return Drawn(features, np.zeros((0, 2), np.int64), drawn.patch_size_l0, drawn.patch_px)
