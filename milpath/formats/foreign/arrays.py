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
_BITS: dict[int, tuple[Any, int]] = {2: (np.uint16, 0x7C00), 4: (np.uint32, 0x7F800000)}
"""By bytes of a float: the integer of its bits, and infinity as bits; NaNs are above."""
_CHECKED_NUMBERS = 1 << 18  # at a time


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
    return as_rows(path, array)


def as_rows(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """Return floating-point numbers as contiguous float16 or float32.

    Raises `StoredFileError` unless all are finite, also as float32.
    """
    with np.errstate(over="ignore"):
        kind = np.float16 if array.dtype == np.float16 else np.float32
        features = np.ascontiguousarray(array, kind)
    if not _all_finite(features):
        raise StoredFileError(f"{path.name}: its features are not all finite; make it again")
    return features


def _all_finite(values: NDArray[Any]) -> bool:
    """Check the bits of blocks that fit in the cache, ten times as fast as `np.isfinite`."""
    kind, infinity = _BITS[values.dtype.itemsize]
    bits = values.reshape(-1).view(kind)
    magnitude = np.iinfo(kind).max >> 1  # all bits but the sign
    pieces = (bits[at : at + _CHECKED_NUMBERS] for at in range(0, len(bits), _CHECKED_NUMBERS))
    return all(int((piece & magnitude).max()) < infinity for piece in pieces)


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
    xy = array[:, :2]
    if xy.dtype.kind == "f" and not np.isfinite(xy).all():
        raise StoredFileError(f"{path.name}: its coordinates are not all finite; make it again")
    if (xy != np.floor(xy)).any() or (abs(xy.astype(np.float64)) >= _MAX_COORD).any():
        raise StoredFileError(
            f"{path.name}: its coordinates are not whole pixels; expected the top left corner of "
            "each patch in level-0 pixels"
        )
    return np.ascontiguousarray(xy, np.int64)
