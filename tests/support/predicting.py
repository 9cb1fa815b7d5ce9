"""Generated grids and predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from milpath.formats.prediction import Prediction
from milpath.patches.grid import PatchGrid
from milpath.slides.facts import SlideFacts

Floats = NDArray[np.float64]

FACTS = SlideFacts("S1", "generic-tiff", 1500, 1100, 0.5, 0.5, "slide", None, "0")


def make_grid(
    places: NDArray[np.int64], side: int, stride: int, origin: tuple[int, int] = (0, 0)
) -> PatchGrid:
    """Return a grid of patches at lattice `places` (N, 2), (column, row)."""
    coords = np.asarray(origin) + stride * np.asarray(places, np.int64)
    return PatchGrid(coords, side, side, stride, origin, 0.5, 0)


def all_places(cols: int, rows: int) -> NDArray[np.int64]:
    return np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).reshape(-1, 2)


def make_prediction(
    grid: PatchGrid,
    seed: int = 0,
    members: int = 1,
    classes: tuple[str, ...] = ("normal", "tumour"),
) -> Prediction:
    rng = np.random.default_rng(seed)
    attention = rng.random((members, len(grid)))
    attention /= attention.sum(axis=1, keepdims=True)
    weights = rng.normal(size=(members, len(grid), len(classes)))
    return Prediction(
        slide=FACTS,
        grid=grid,
        status="ok" if len(grid) else "no_tissue",
        class_names=classes,
        member_attention=attention,
        member_contributions=attention[..., None] * weights,
        member_bias=rng.normal(size=(members, len(classes))),
        model="m",
    )


def extent(hot: NDArray[np.bool_], origin: tuple[int, int] = (0, 0), cell: int = 1) -> Floats:
    """Return (x0, y0, x1, y1) of the True cells of a raster."""
    rows, cols = (place.astype(float) for place in hot.nonzero())
    ends = [float(end) for end in (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)]
    box: Floats = np.array(ends) * cell + np.array([*origin, *origin])
    return box
