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
        places = grid.lattice.index_of(grid.coords)
        rows, cols = (places.max(axis=0) + 1) if len(grid) else (0, 0)
        self._raster = np.full((rows, cols), -1, np.int32)
        self._raster[tuple(places.T)] = np.arange(len(grid))
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
        points = np.asarray(points, np.float64).reshape(-1, 2)
        cell = self.grid.lattice.index_of(points)
        found = np.full(len(cell), -1, np.int64)
        nearest = np.full(len(cell), np.inf)
        for down in range(self._reach):
            for right in range(self._reach):
                rows, distance = self._at(cell - (down, right), points)
                better = (rows >= 0) & (distance < nearest)
                found[better], nearest[better] = rows[better], distance[better]
        return found

    def _at(self, place: Rows, points: Points) -> tuple[Rows, Points]:
        """Return the patches at lattice cells, and the distances of their centres to the points."""
        inside = ((place >= 0) & (place < self._raster.shape)).all(axis=1)
        rows = np.full(len(place), -1, np.int64)
        rows[inside] = self._raster[tuple(place[inside].T)]
        half = self.grid.patch_size_l0 / 2
        away = np.abs(points - self.grid.lattice.to_l0(place) - half).max(axis=1)
        return np.where(away <= half, rows, -1), away
