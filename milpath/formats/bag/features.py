"""Writing the features of a bag, with the precision that they need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.formats.bag.reading import Bag
from milpath.store import open_h5, publish_h5

_MAX_LOSS = 1e-3  # of the spread of features over patches, by rounding to float16
_MIN_SPREAD = 1e-6  # standard deviation of features over patches


def write_features(
    bag: Bag, batches: Iterable[NDArray[Any]], encoder: str, encoder_fingerprint: str, dim: int
) -> None:
    """Write features into a bag's file, replacing earlier ones; the whole file is rewritten.

    Parameters
    ----------
    bag : open bag with N patches
    batches : arrays (n, D) in the order of the patches, N rows in all
    encoder, encoder_fingerprint : name and fingerprint of the encoder
    dim : D

    They are stored as float16, or as float32 where float16 loses more than `_MAX_LOSS` of their
    spread over the patches.

    Raises
    ------
    StoredFileError : features are not finite or do not differ, or the bag's file was replaced
    OutputError : the file cannot be written; the old one is kept
    ValueError : not N rows
    """
    path = bag.path
    parts = [np.asarray(each, np.float32) for each in batches]
    features = np.concatenate([np.zeros((0, dim), np.float32), *parts])
    if len(features) != len(bag):
        raise ValueError(f"{len(features)} rows of features for {len(bag)} patches")
    stored = _choose_dtype(features, f"{path.name}: {encoder}")
    with publish_h5(path, "bag") as h5:
        _copy_patches(bag, h5)
        dataset = h5.create_dataset("features", data=stored)
        dataset.attrs["encoder"] = encoder
        dataset.attrs["encoder_fingerprint"] = encoder_fingerprint


def _choose_dtype(features: NDArray[np.float32], name: str) -> NDArray[np.floating[Any]]:
    """Give features (N, D) as float16 or float32; raise `StoredFileError` if they are useless."""
    if not np.isfinite(features).all():
        raise StoredFileError(f"{name} gives features that are not finite; check its weights")
    if len(features) == 0:
        return features.astype(np.float16)
    spread = _root_mean_square(features - features.mean(axis=0))
    if len(features) > 1 and spread < _MIN_SPREAD:
        raise StoredFileError(
            f"{name} gives the same features for all {len(features)} patches (they differ by "
            f"{spread:.1g}); check its weights"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # infinite where float16 overflows
        half = features.astype(np.float16)
        loss = _root_mean_square(half.astype(np.float32) - features)
    fits = loss <= _MAX_LOSS * (spread if len(features) > 1 else _root_mean_square(features))
    return half if fits else features


def _root_mean_square(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _copy_patches(bag: Bag, h5: h5py.File) -> None:
    """Copy all but the features of a bag, if its file is still the one that `bag` has opened."""
    with open_h5(bag.path, "bag") as old:
        same = old.attr("fingerprint") == bag.header.fingerprint
        if not same or not np.array_equal(old.read("coords", "int64", (None, 2)), bag.grid.coords):
            raise StoredFileError(
                f"{bag.path.name}: was replaced by another bag while it was embedded; "
                "embed it again"
            )
        old.copy(h5, without="features")
