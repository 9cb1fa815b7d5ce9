"""Features and coordinates among the named arrays of one slide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError

FEATURE_NAMES = ("features", "feats", "embeddings", "X")
COORD_NAMES = ("coords", "coordinates")
_MAX_COORD = 1 << 31


def pick_features(path: Path, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return the one array that holds features: the only one, or the one of a known name."""
    found = [name for name in FEATURE_NAMES if name in arrays]
    if len(arrays) == 1:
        found = found or list(arrays)
    if len(found) != 1:
        names = ", ".join(sorted(repr(name) for name in arrays)[:8]) or "no array"
        raise StoredFileError(
            f"{path.name}: holds {names}; expected one array of features, named "
            f"{' or '.join(FEATURE_NAMES)}"
        )
    return as_features(path, arrays[found[0]])


def pick_coords(
    path: Path, arrays: Mapping[str, NDArray[Any]], count: int
) -> NDArray[np.int64] | None:
    """Return the array that holds coordinates of `count` patches, None without one."""
    found = [name for name in COORD_NAMES if name in arrays]
    if len(found) > 1:
        raise StoredFileError(f"{path.name}: holds both {' and '.join(found)}; remove one")
    return as_coords(path, arrays[found[0]], count) if found else None


def as_features(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """Return features as a contiguous (N, D) array of float16 or float32.

    A leading axis of length 1, which some tools add, is dropped. Raises `StoredFileError` for
    other shapes, types that are not floating-point, and numbers that float32 cannot hold.
    """
    if array.ndim == 3 and len(array) == 1:
        array = array[0]
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise StoredFileError(
            f"{path.name}: its features are {array.dtype} of shape {array.shape}; expected "
            "floating-point numbers of shape (patches, dimension)"
        )
    with np.errstate(over="ignore"):
        kind = np.float16 if array.dtype == np.float16 else np.float32
        features = np.ascontiguousarray(array, kind)
    return _require_finite(path, "features", features)


def as_coords(path: Path, array: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return x and y of `count` patches, the first two columns, as (N, 2) int64.

    Raises `StoredFileError` for other shapes, and for numbers that are not whole or too large.
    """
    if array.ndim == 3 and len(array) == 1:
        array = array[0]
    if array.size == 0 and count == 0:
        return np.empty((0, 2), np.int64)
    if array.ndim != 2 or array.shape[1] < 2 or array.dtype.kind not in "iuf":
        raise StoredFileError(
            f"{path.name}: its coordinates are {array.dtype} of shape {array.shape}; expected "
            "numbers of shape (patches, 2)"
        )
    if len(array) != count:
        raise StoredFileError(
            f"{path.name}: has coordinates of {len(array)} patches, but features of {count}; "
            "write both again"
        )
    xy = _require_finite(path, "coordinates", array[:, :2])
    if (xy != np.floor(xy)).any() or (abs(xy.astype(np.float64)) >= _MAX_COORD).any():
        raise StoredFileError(
            f"{path.name}: its coordinates are not whole pixels; expected the top left corner of "
            "each patch in level-0 pixels"
        )
    return np.ascontiguousarray(xy, np.int64)


def _require_finite(path: Path, what: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise StoredFileError(f"{path.name}: its {what} are not all finite; make it again")
    return array
