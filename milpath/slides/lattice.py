"""Lattice: equal cells laid over a slide, and every conversion between its coordinates.

Four kinds of coordinates exist, and they are converted here only:

- *level 0*: (x, y) in pixels of the full-size slide, from the top-left corner of its canvas;
- *cells*: [row, col] of an array laid over the slide, from the corner of cell [0, 0];
- *index*: the same from the centre of cell [0, 0], half a cell further, as NumPy, scikit-image and
  napari place the values of an array;
- *world*: (y, x) in µm from the centre of level-0 pixel (0, 0), as napari shows a slide.

Points are arrays (..., 2). Whole numbers are kept exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Pair = tuple[float, float]


@dataclass(frozen=True)
class Lattice:
    """Equal cells laid over a slide.

    Attributes
    ----------
    origin_l0 : (x, y) of the corner of cell [0, 0], level-0 pixels
    cell_l0 : (width, height) of a cell, level-0 pixels

    Raises
    ------
    ValueError : a cell without a finite size above 0
    """

    origin_l0: Pair
    cell_l0: Pair

    def __post_init__(self) -> None:
        if not all(0 < side < math.inf for side in self.cell_l0):
            raise ValueError(f"cells of {self.cell_l0} level-0 px; expected two sizes above 0")

    # -- points ----------------------------------------------------------------------------------

    def to_cells(self, points_l0: ArrayLike) -> Floats:
        """Convert level-0 (x, y) to fractional [row, col]."""
        cells: Floats = (np.asarray(points_l0) - np.asarray(self.origin_l0)) / self.cell_l0
        return cells[..., ::-1]

    def to_l0(self, cells: ArrayLike) -> NDArray[Any]:
        """Convert [row, col] to level-0 (x, y); whole numbers stay integers."""
        points: NDArray[Any] = self.size_to_l0(cells) + np.asarray(self.origin_l0)
        return points

    def to_index(self, points_l0: ArrayLike) -> Floats:
        """Convert level-0 (x, y) to [row, col] counted from the centre of cell [0, 0]."""
        return self.to_cells(points_l0) - 0.5

    def from_index(self, places: ArrayLike) -> Floats:
        """Convert [row, col] counted from the centre of cell [0, 0] to level-0 (x, y)."""
        return self.to_l0(np.asarray(places) + 0.5)

    def index_of(self, points_l0: ArrayLike) -> Indices:
        """Return the int64 [row, col] of the cell that each level-0 (x, y) lies in.

        A point on an edge belongs to the cell to its right or below.
        """
        return np.floor(self.to_cells(points_l0)).astype(np.int64)

    def locate(self, points_l0: ArrayLike) -> tuple[Indices, NDArray[Any]]:
        """Return `index_of` each point, and how far down and right of that cell's corner it lies.

        The distances are (..., 2), level-0 pixels, in the order of [row, col].
        """
        index = self.index_of(points_l0)
        return index, (np.asarray(points_l0) - self.to_l0(index))[..., ::-1]

    def contains(self, points_l0: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return whether each level-0 (x, y) lies in an array of `shape` (rows, cols, ...)."""
        cells = self.to_cells(points_l0)
        return np.asarray(((cells >= 0) & (cells < shape[:2])).all(axis=-1))

    # -- sizes -----------------------------------------------------------------------------------

    def size_to_cells(self, size_l0: ArrayLike) -> Floats:
        """Convert a level-0 (width, height), or the side of a square, to (rows, cols)."""
        cells: Floats = np.asarray(size_l0) / np.asarray(self.cell_l0)
        return cells[..., ::-1]

    def size_to_l0(self, cells: ArrayLike) -> NDArray[Any]:
        """Convert a number of (rows, cols) to a level-0 (width, height)."""
        size: NDArray[Any] = np.asarray(cells)[..., ::-1] * np.asarray(self.cell_l0)
        return size

    @property
    def cell_area_l0(self) -> float:
        """Area of a cell, square level-0 pixels."""
        return self.cell_l0[0] * self.cell_l0[1]

    def resized(self, shape: tuple[int, ...], new_shape: tuple[int, ...]) -> Lattice:
        """Return the lattice on which `new_shape` cells cover what `shape` cells cover here."""
        (rows, cols), (new_rows, new_cols) = shape[:2], new_shape[:2]
        width, height = self.cell_l0
        return Lattice(self.origin_l0, (width * cols / new_cols, height * rows / new_rows))

    def divided(self, factor: int) -> Lattice:
        """Return the lattice with each cell divided into `factor` x `factor`."""
        width, height = self.cell_l0
        return Lattice(self.origin_l0, (width / factor, height / factor))

    # -- axes ------------------------------------------------------------------------------------

    def edges(self, shape: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return level-0 y (rows + 1,) and x (cols + 1,) of the edges of an array's cells."""
        return self._axes_to_l0(np.arange(shape[0] + 1), np.arange(shape[1] + 1))

    def centres(self, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
        """Return level-0 y (rows,) and x (cols,) of the centres of an array's cells."""
        return self._axes_to_l0(np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5)

    def _axes_to_l0(
        self, rows: NDArray[Any], cols: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        (x, y), (width, height) = self.origin_l0, self.cell_l0
        return y + rows * height, x + cols * width

    def axes_to_cells(self, y_l0: ArrayLike, x_l0: ArrayLike) -> tuple[Floats, Floats]:
        """Convert level-0 y and x, each along its own axis, to fractional rows and columns."""
        (x, y), (width, height) = self.origin_l0, self.cell_l0
        return (np.asarray(y_l0) - y) / height, (np.asarray(x_l0) - x) / width

    # -- micrometres and napari ------------------------------------------------------------------

    def napari_transform(self, mpp: Pair | None) -> tuple[Pair, Pair]:
        """Return `scale` and `translate` of a napari layer of one pixel per cell, in (y, x).

        napari places the centre of a pixel at its index, so the corner of cell [0, 0] lies half a
        level-0 pixel off the origin: `translate` is (origin + (cell - 1) / 2) * mpp.

        Parameters
        ----------
        mpp : (x, y) µm per pixel at level 0; None for a world in level-0 pixels
        """
        step_x, step_y = mpp or (1.0, 1.0)
        (x, y), (width, height) = self.origin_l0, self.cell_l0
        return (
            (height * step_y, width * step_x),
            ((y + (height - 1) / 2) * step_y, (x + (width - 1) / 2) * step_x),
        )


LEVEL_0 = Lattice((0, 0), (1, 1))
"""The pixels of level 0 as cells."""


def to_um(points_l0: ArrayLike, mpp: Pair) -> Floats:
    """Convert level-0 (x, y) to µm from the top-left corner of the canvas, (x, y)."""
    points: Floats = np.asarray(points_l0) * mpp
    return points


def to_world(points_l0: ArrayLike, mpp: Pair) -> Floats:
    """Convert level-0 (x, y) to napari's world (y, x), µm."""
    return LEVEL_0.to_index(points_l0) * mpp[::-1]


def from_world(places: ArrayLike, mpp: Pair) -> Floats:
    """Convert napari's world (y, x), µm, to level-0 (x, y)."""
    return LEVEL_0.from_index(np.asarray(places) / mpp[::-1])
