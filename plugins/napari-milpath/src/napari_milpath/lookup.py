"""Lookup of the patch at a point, by work that does not depend on the number of patches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from milpath.patches.grid import PatchGrid

Points = NDArray[np.float64]
Rows = NDArray[np.int64]


class PatchLookup:
    """Find patches by their positions.

    Parameters
    ----------
    grid : its coordinates lie on its lattice
    """

    def __init__(self, grid: PatchGrid) -> None:
        self.grid = grid
        places = (grid.coords - grid.origin_l0) // grid.stride_l0
        cols, rows = (places.max(axis=0) + 1) if len(grid) else (0, 0)
        self._raster = np.full((rows, cols), -1, np.int32)
        self._raster[places[:, 1], places[:, 0]] = np.arange(len(grid))
        self._reach = -(-grid.patch_size_l0 // grid.stride_l0)

    def find(self, points: Points) -> Rows:
        """Find the patch at each point; of overlapping ones, the one with the nearest centre.

        Parameters
        ----------
        points : (n, 2), level-0 (x, y)

        Returns
        -------
        (n,) rows of the grid, -1 where there is no patch.
        """
        offset = np.asarray(points, np.float64).reshape(-1, 2) - self.grid.origin_l0
        cell = np.floor(offset / self.grid.stride_l0).astype(np.int64)
        found = np.full(len(cell), -1, np.int64)
        nearest = np.full(len(cell), np.inf)
        for down in range(self._reach):
            for right in range(self._reach):
                rows, distance = self._at(cell - (right, down), offset)
                better = (rows >= 0) & (distance < nearest)
                found[better], nearest[better] = rows[better], distance[better]
        return found

    def _at(self, place: Rows, offset: Points) -> tuple[Rows, Points]:
        """Return the patches at lattice cells, and the distances of their centres to the points."""
        height, width = self._raster.shape
        inside = ((place >= 0) & (place < (width, height))).all(axis=1)
        rows = np.full(len(place), -1, np.int64)
        rows[inside] = self._raster[place[inside, 1], place[inside, 0]]
        away = np.abs(offset - place * self.grid.stride_l0 - self.grid.patch_size_l0 / 2).max(
            axis=1
        )
        return np.where(away <= self.grid.patch_size_l0 / 2, rows, -1), away
