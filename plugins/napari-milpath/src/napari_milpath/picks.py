"""Picks: the patches most worth looking at, not all from one place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from milpath.patches.grid import PatchGrid


def pick_patches(
    grid: PatchGrid,
    scores: NDArray[np.float64],
    count: int,
    *,
    weakest: bool = False,
    apart_l0: float | None = None,
) -> NDArray[np.int64]:
    """The patches with the greatest (or least) scores, that keep their distance.

    Parameters
    ----------
    grid, scores : N patches and their (N,) scores; those that are NaN are passed over
    count : how many at most
    weakest : take the least scores instead
    apart_l0 : least distance of two centres along x or y, level-0 pixels; one patch by default,
        so that overlapping neighbours do not fill the list

    Returns
    -------
    (n,) rows of the grid, the first pick first.
    """
    apart = grid.patch_size_l0 if apart_l0 is None else apart_l0
    order = np.argsort(scores if weakest else -scores, kind="stable")
    picked: list[int] = []
    corners = np.empty((count, 2), np.int64)
    for row in order.tolist():
        if len(picked) == count or np.isnan(scores[row]):  # NaN sorts last
            break
        away = np.abs(corners[: len(picked)] - grid.coords[row]).max(axis=1)
        if (away >= apart).all():
            corners[len(picked)] = grid.coords[row]
            picked.append(row)
    return np.asarray(picked, np.int64)
