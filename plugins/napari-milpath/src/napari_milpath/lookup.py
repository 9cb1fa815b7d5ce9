"""Lookup of the patch at a point, by work that does not depend on the number of patches."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from milpath.patches.grid import PatchGrid
from milpath.slides.lattice import Lattice

Points = NDArray[np.float64]
Rows = NDArray[np.int64]

_MAX_PAIRS = 1 << 18  # of points and patches that are compared at once


class PatchLookup:
    """Find patches by their positions, on a grid or anywhere; none if their places are unknown.

    The slide is cut into cells as wide as a patch: a patch that holds a point begins in the point's
    cell, or in the one above it, to its left, or both.
    """

    def __init__(self, grid: PatchGrid) -> None:
        self.grid = grid if grid.places != "unknown" else grid.select(np.zeros(0, np.int64))
        side = self.grid.patch_size_l0
        low = self.grid.coords.min(axis=0) if len(self.grid) else np.zeros(2, np.int64)
        self._cells = Lattice((int(low[0]), int(low[1])), (side, side))
        first = self._cells.index_of(self.grid.coords)
        self._shape: Rows = first.max(axis=0, initial=0) + 1
        keys = first[:, 0] * self._shape[1] + first[:, 1]
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def find(self, points: Points) -> Rows:
        """Find the patch at each point; of overlapping ones, the one with the nearest centre.

        Parameters
        ----------
        points : (n, 2), level-0 (x, y)

        Returns
        -------
        (n,) rows of the grid, -1 where there is no patch; the first of patches at the same place.
        """
        points = np.asarray(points, np.float64).reshape(-1, 2)
        corner = self._cells.index_of(points)
        found = np.full(len(points), -1, np.int64)
        nearest = np.full(len(points), np.inf)
        for cell in (corner, corner - (0, 1), corner - (1, 0), corner - (1, 1)):
            inside = np.flatnonzero(((cell >= 0) & (cell < self._shape)).all(axis=1))
            keys = cell[inside, 0] * self._shape[1] + cell[inside, 1]
            start, stop = (np.searchsorted(self._keys, keys, side) for side in ("left", "right"))
            for block in _split(stop - start):
                which, rows = self._list(inside[block], start[block], stop[block])
                away = np.abs(points[which] - self._centres(rows)).max(axis=1)
                order = np.lexsort((rows, away, which))  # the nearest patch of each point first
                which, once = np.unique(which[order], return_index=True)
                rows, away = rows[order][once], away[order][once]
                tied = (away == nearest[which]) & (rows < found[which])
                better = (away <= self.grid.patch_size_l0 / 2) & ((away < nearest[which]) | tied)
                found[which[better]], nearest[which[better]] = rows[better], away[better]
        return found

    def _list(self, points: Rows, start: Rows, stop: Rows) -> tuple[Rows, Rows]:
        """Pair each of (n,) points with all patches `_order[start:stop]`: two arrays (m,)."""
        count = stop - start
        place = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
        return np.repeat(points, count), self._order[np.repeat(start, count) + place]

    def _centres(self, rows: Rows) -> Points:
        centres: Points = self.grid.coords[rows] + np.float64(self.grid.patch_size_l0 / 2)
        return centres


def _split(count: Rows) -> list[slice]:
    """Split (n,) numbers into runs whose sum, but for their last number, is not large."""
    total = count.cumsum()
    most = range(_MAX_PAIRS, int(total[-1]) if len(total) else 0, _MAX_PAIRS)
    ends = [0, *(np.searchsorted(total, list(most)) + 1).tolist(), len(count)]
    return [slice(one, two) for one, two in pairwise(ends) if two > one]
