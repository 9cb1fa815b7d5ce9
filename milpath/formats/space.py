"""FeatureSpace: how far a slide's patches lie from those of the training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.formats.model_spec import require_model
from milpath.store import open_h5, publish_h5

Floats = NDArray[np.float64]

_MAX_AXES = 64
_MIN_VARIANCE = 1e-6  # of the mean variance of the features; constant ones are not divided by 0
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """Where the patches of the training set lie among all features (D,).

    The distance of a patch is that of Mahalanobis, as for unfamiliar inputs in [1]_, divided by
    √D: about 1 in the training set. The covariance has R main axes, and one variance for the rest.
    The distance of a slide is the median of its patches', divided by the largest that a slide of
    the training cohort has.

    Attributes
    ----------
    mean : (D,)
    axes : (R, D), the main axes, each divided by its standard deviation
    rest : variance along all other axes
    limit : largest median distance of a slide of the training cohort

    .. [1] K. Lee, K. Lee, H. Lee, J. Shin, "A simple unified framework for detecting
           out-of-distribution samples and adversarial attacks", NeurIPS 2018.
    """

    mean: Floats
    axes: Floats
    rest: float
    limit: float

    def measure_patches(self, features: NDArray[np.floating]) -> Floats:
        """Measure the distance of each patch, (n, D) to (n,)."""
        apart = features.astype(np.float64) - self.mean
        along = apart @ self.axes.T
        lengths = np.linalg.norm(self.axes, axis=1)
        inside = np.square(along / lengths).sum(axis=1)
        beyond = np.maximum(np.square(apart).sum(axis=1) - inside, 0) / self.rest
        total: Floats = np.sqrt((np.square(along).sum(axis=1) + beyond) / len(self.mean))
        return total

    def measure_slide(self, distances: Floats) -> float | None:
        """Measure a slide by the distances of its patches, (N,); None without patches."""
        return float(np.median(distances) / self.limit) if len(distances) else None


def fit_space(slides: Sequence[NDArray[np.floating]]) -> FeatureSpace:
    """Fit a feature space to the training cohort.

    Parameters
    ----------
    slides : features (n, D) of some patches of each slide, n > 0
    """
    every = np.concatenate(slides).astype(np.float64)
    mean = every.mean(axis=0)
    count, dim = every.shape
    covariance = np.cov(every, rowvar=False, bias=True).reshape(dim, dim)
    values, vectors = np.linalg.eigh(covariance)
    floor = max(_MIN_VARIANCE * float(values.mean()), _TINY)
    kept = min(_MAX_AXES, dim, max(1, count // 2))
    main, others = values[-kept:], values[:-kept]
    rest = max(float(others.mean()) if len(others) else float(main[0]), floor)
    axes = (vectors[:, -kept:] / np.sqrt(np.maximum(main, rest))).T
    space = FeatureSpace(mean, axes, rest, 1.0)
    reached = [float(np.median(space.measure_patches(some))) for some in slides]
    return FeatureSpace(mean, axes, rest, max(*reached, floor))


def save_space(path: Path, space: FeatureSpace, model: str) -> None:
    """Write a feature space; `model` is the fingerprint of its model."""
    with publish_h5(path, "space") as h5:
        h5.attrs["model"] = model
        h5.attrs["rest"] = space.rest
        h5.attrs["limit"] = space.limit
        h5.create_dataset("mean", data=space.mean)
        h5.create_dataset("axes", data=space.axes)


def load_space(path: Path, model: str, dim: int) -> FeatureSpace:
    """Read the feature space of a model.

    Parameters
    ----------
    path : of `save_space`
    model : fingerprint of its model
    dim : D of the model's encoder

    Raises
    ------
    StoredFileError : missing, damaged, of another model, or of other features
    """
    with open_h5(path, "space") as h5:
        require_model(path, h5, model)
    space = read_space(path)
    if len(space.mean) != dim:
        raise StoredFileError(
            f"{path.name}: is of {len(space.mean)} features, the model has {dim}; train again"
        )
    return space


def read_space(path: Path) -> FeatureSpace:
    """Read a feature space; raise `StoredFileError` if it is damaged or cannot be one."""
    with open_h5(path, "space") as h5:
        mean = h5.read("mean", "float64", (None,))
        axes = h5.read("axes", "float64", (None, len(mean)))
        rest, limit = h5.require_attr("rest"), h5.require_attr("limit")
    lengths = np.linalg.norm(axes, axis=1)
    numbers = (rest, limit, *lengths.tolist())
    positive = all(isinstance(each, float) and 0 < each < np.inf for each in numbers)
    if not positive or not np.isfinite(mean).all():
        raise StoredFileError(f"{path.name}: its numbers cannot be a feature space; train again")
    return FeatureSpace(mean, axes, rest, limit)
