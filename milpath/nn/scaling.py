"""Scaling of features: each has mean 0 and deviation 1 over the training set while a head learns.

After training the scaling becomes part of the head's projection, so that the stored model takes
features as they are. Importing this module imports no Keras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.nn.bags import ArrayBag, TrainingBag

_PER_BAG = 256  # instances of a bag that are read, evenly spaced
_MIN_SPREAD = 0.01  # of the median deviation: rare tiny values must not be made large


@dataclass(frozen=True, eq=False)
class Scaling:
    """``(x - mean) * factor`` for features x (..., D).

    Attributes
    ----------
    mean : (D,) float32
    factor : (D,) float32; 0 for a feature that does not vary, of which nothing can be learned
    """

    mean: NDArray[np.float32]
    factor: NDArray[np.float32]

    def apply(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Scale features (..., D)."""
        scaled = features.astype(np.float32)
        scaled -= self.mean  # in place: every epoch reads all features
        scaled *= self.factor
        return scaled

    def fold(
        self, kernel: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return a dense layer's kernel (D, P) and bias (P,) that take features unscaled."""
        wide = kernel.astype(np.float64) * self.factor[:, None]
        return wide.astype(np.float32), (bias - self.mean @ wide).astype(np.float32)


def fit_scaling(bags: Sequence[TrainingBag]) -> Scaling:
    """Fit a scaling to features (N, D) of the training bags; each bag has the same weight.

    Raises
    ------
    StoredFileError : a bag is damaged
    """
    means, squares = [], []
    for bag in bags:
        rows = np.unique(np.linspace(0, bag.size - 1, _PER_BAG).round().astype(np.int64))
        features = bag.read(rows).astype(np.float64)
        means.append(features.mean(axis=0))
        squares.append(np.square(features - means[-1]).mean(axis=0))
    mean = np.mean(means, axis=0)
    spread = np.sqrt(np.mean(squares, axis=0) + np.var(means, axis=0))
    varies = spread > 1e-6 * np.maximum(1e-6, np.abs(mean))  # rounding is no variation
    factor = np.zeros_like(spread)
    if varies.any():
        floor = _MIN_SPREAD * np.median(spread[varies])
        factor[varies] = 1 / np.maximum(spread[varies], floor)
    return Scaling(mean.astype(np.float32), factor.astype(np.float32))


@dataclass(frozen=True, eq=False)
class ScaledBag:
    """A bag of features that are scaled as they are read."""

    bag: TrainingBag
    scaling: Scaling

    @property
    def label(self) -> int:
        """Index of its class."""
        return self.bag.label

    @property
    def size(self) -> int:
        """N, its number of instances."""
        return self.bag.size

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read some instances, (n, D), scaled; raise `StoredFileError` if damaged."""
        return self.scaling.apply(self.bag.read(rows))


def scale_bags(bags: Sequence[TrainingBag], scaling: Scaling) -> list[TrainingBag]:
    """Scale bags: those in memory at once, stored ones as they are read."""
    return [
        ArrayBag(scaling.apply(bag.instances), bag.label)
        if isinstance(bag, ArrayBag)
        else ScaledBag(bag, scaling)
        for bag in bags
    ]
