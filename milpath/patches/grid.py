"""PatchGrid: where the patches of a slide lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from milpath.errors import UnsupportedSlideError, UsageError
from milpath.params import GridParams
from milpath.slides.lattice import Lattice
from milpath.slides.levels import choose_level
from milpath.slides.slide import Slide

if TYPE_CHECKING:
    from milpath.slides.tissue import TissueMask  # SciPy, which milpath info does without

MAX_CELLS = 1 << 20
MAX_CELLS_PER_PATCH = 1 << 12
"""Of the raster the patches lie on: it may be sparse, but few patches never need a huge one."""

_CELLS_PER_SIDE = 16  # of a free patch on its raster
_MAX_FREE_CELLS = 1 << 23  # 64 MB; above, the cells of free patches are wider

Places = Literal["grid", "free", "unknown"]
"""How coordinates lie: on the grid's lattice, anywhere, or at unknown places."""

_ROUNDING = 1e-6  # rounding error of a large mask's sums: a patch full of tissue must count as 1


@dataclass(frozen=True)
class PatchGrid:
    """The patches of one slide; in reading order (row by row) if milpath tiled it.

    Attributes
    ----------
    coords : int64 array (N, 2), level-0 (x, y) of each patch's top-left corner
    patch_px : side of a patch as the encoder sees it, pixels
    patch_size_l0 : side of a patch on the slide, level-0 pixels (rounded once, in `plan_grid`)
    stride_l0 : distance between neighbouring patches, level-0 pixels; of free patches the side of
        a cell of their heatmap
    origin_l0 : (x, y) of the corner of the grid, or of the heatmap of free patches
    patch_mpp : µm per pixel after that rounding, `patch_size_l0 * mpp / patch_px`
    level : the pyramid level the patches are read from
    places : "grid": every coordinate is origin + a multiple of the stride, as milpath tiles;
        "free": anywhere, and patches may overlap; "unknown": the files of features do not say
        where, and `coords` are zeros
    """

    coords: NDArray[np.int64]
    patch_px: int
    patch_size_l0: int
    stride_l0: int
    origin_l0: tuple[int, int]
    patch_mpp: float
    level: int
    places: Places = "grid"

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def lattice(self) -> Lattice:
        """The cells of one stride; the patches start at their corners, unless they are free."""
        return Lattice(self.origin_l0, (self.stride_l0, self.stride_l0))

    def select(self, rows: NDArray[np.int64]) -> PatchGrid:
        """Return the same grid with only the patches of these rows."""
        return replace(self, coords=self.coords[rows])


def plan_grid(slide: Slide, tissue: TissueMask, params: GridParams) -> PatchGrid:
    """Plan the patches of `slide` that contain enough tissue, on a regular grid.

    The grid is centred in the slide's bounds and has whole patches only: no patch is padded, and
    the remaining margin is split between the two edges.

    Raises
    ------
    ResolutionError : the slide's µm per pixel is missing, absurd or too coarse
    UnsupportedSlideError : the slide is smaller than one patch
    """
    level = choose_level(slide, params.mpp)
    side = round(params.patch_px * params.mpp / slide.mpp_mean)
    stride = round((params.patch_px - params.overlap_px) * params.mpp / slide.mpp_mean)
    x0, y0, width, height = slide.bounds_l0
    if min(width, height) < side:
        raise UnsupportedSlideError(
            f"{slide.name}: {width} x {height} px is smaller than one patch of {side} px "
            f"({params.patch_px} px at {params.mpp:g} µm per pixel); give a smaller --patch-size"
        )
    xs, ys = _starts(x0, width, side, stride), _starts(y0, height, side, stride)
    every = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    fraction = tissue_fraction(tissue, every, side)
    kept = every[fraction >= params.min_tissue - _ROUNDING]
    return PatchGrid(
        coords=kept,
        patch_px=params.patch_px,
        patch_size_l0=side,
        stride_l0=stride,
        origin_l0=(int(xs[0]), int(ys[0])),
        patch_mpp=side * slide.mpp_mean / params.patch_px,
        level=level,
    )


def free_grid(
    coords: NDArray[np.int64], patch_px: int, patch_size_l0: int, patch_mpp: float, level: int = 0
) -> PatchGrid:
    """Build the grid of patches that another tool placed.

    If all coordinates lie on one lattice that is not much finer than a patch, the grid is that
    lattice. Else the patches are free: `stride_l0` is 1/16 of a patch, or wider where the raster of
    the slide would be huge.

    Parameters
    ----------
    coords : whole numbers (N, 2), level-0 (x, y) of the patches' top-left corners, from 0; in any
        order, also repeated
    patch_px, patch_size_l0, patch_mpp, level : as in `PatchGrid`

    Raises
    ------
    ValueError : coordinates that are not whole numbers from 0, or sizes below 1
    """
    points = np.asarray(coords)
    if points.dtype.kind not in "iu" or points.ndim != 2 or points.shape[1:] != (2,):
        raise ValueError(f"coordinates of {points.dtype} {points.shape}; expected integers (N, 2)")
    if (points < 0).any() or min(patch_px, patch_size_l0) < 1:
        raise ValueError("a coordinate is below 0, or a patch has no size")
    points = points.astype(np.int64)
    origin = points.min(axis=0, initial=np.iinfo(np.int64).max) if len(points) else np.zeros(2, int)
    offsets = points - origin
    extent = offsets.max(axis=0, initial=0) + patch_size_l0
    step = _lattice_step(offsets, patch_size_l0)
    on_lattice = step is not None and count_cells(extent, step) <= max_cells(len(points))
    return PatchGrid(
        coords=points,
        patch_px=patch_px,
        patch_size_l0=patch_size_l0,
        stride_l0=step if step and on_lattice else _free_cell(extent, patch_size_l0, len(points)),
        origin_l0=(int(origin[0]), int(origin[1])),
        patch_mpp=patch_mpp,
        level=level,
        places="grid" if on_lattice else "free",
    )


def unplaced_grid(count: int, patch_px: int, patch_mpp: float) -> PatchGrid:
    """Build the grid of `count` patches whose places are not known; see `PatchGrid.places`.

    Its sizes at level 0 are those of a slide that has `patch_mpp` there.
    """
    return PatchGrid(
        coords=np.zeros((count, 2), np.int64),
        patch_px=patch_px,
        patch_size_l0=patch_px,
        stride_l0=patch_px,
        origin_l0=(0, 0),
        patch_mpp=patch_mpp,
        level=0,
        places="unknown",
    )


def require_places(grid: PatchGrid, name: str) -> None:
    """Raise `UsageError` if the places of patches are not known; `name` begins the message."""
    if grid.places == "unknown":
        raise UsageError(
            f"{name}: the files of its features hold no coordinates, so it is not known where its "
            "patches lie, and nothing can be drawn"
        )


def max_cells(count: int) -> int:
    """Return how many cells the raster of `count` patches may have."""
    return MAX_CELLS + MAX_CELLS_PER_PATCH * count


def count_cells(extent_l0: NDArray[np.int64], cell_l0: int) -> int:
    """Return how many cells cover an extent (width, height), level-0 pixels."""
    return math.prod((-(-extent_l0 // cell_l0)).tolist())


def _lattice_step(offsets: NDArray[np.int64], side: int) -> int | None:
    """Return the step of the lattice that all offsets lie on: at most a side, and at least 1/16.

    Patches further apart than a side lie on a finer lattice too, whose cells have no gaps.
    """
    step = int(np.gcd.reduce(offsets.ravel())) if offsets.size else 0
    if step == 0:  # one place
        return side
    fine = -(-side // _CELLS_PER_SIDE)
    return next((cell for cell in range(min(step, side), fine - 1, -1) if step % cell == 0), None)


def _free_cell(extent: NDArray[np.int64], side: int, count: int) -> int:
    """Return the side of a cell of free patches: 1/16 of a patch, or as wide as it must be."""
    cell = -(-side // _CELLS_PER_SIDE)
    most = min(_MAX_FREE_CELLS, max_cells(count))
    while count_cells(extent, cell) > most:
        cell = -(-cell * 9 // 8)
    return cell


def _starts(low: int, length: int, side: int, stride: int) -> NDArray[np.int64]:
    """Return the starts of the whole patches along one axis, the margin split between both ends."""
    count = (length - side) // stride + 1
    rest = length - side - (count - 1) * stride
    return low + rest // 2 + stride * np.arange(count, dtype=np.int64)


def tissue_fraction(
    tissue: TissueMask, coords: NDArray[np.int64], patch_size_l0: int
) -> NDArray[np.float64]:
    """Return the fraction of each patch that is tissue, with mask cells weighted by covered area.

    Parameters
    ----------
    tissue : the mask and its lattice
    coords : (N, 2), level-0 (x, y) of the patches' top-left corners
    patch_size_l0 : their side, level-0 pixels

    Returns
    -------
    float64 array (N,) in 0..1; the area outside the mask is not tissue.
    """
    return box_mean(tissue.mask, tissue.lattice, coords, patch_size_l0)


def box_mean(
    mask: NDArray[np.bool_], lattice: Lattice, coords: NDArray[np.int64], size_l0: int
) -> NDArray[np.float64]:
    """Return the mean of a mask over squares, with its cells weighted by covered area.

    A summed-area table, interpolated linearly, is exact for squares that cut cells.

    Parameters
    ----------
    mask : boolean array (rows, cols)
    lattice : where its cells lie
    coords : (N, 2), level-0 (x, y) of the squares' top-left corners
    size_l0 : their side, level-0 pixels

    Returns
    -------
    float64 array (N,) in 0..1; the mask is False outside its array.
    """
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    table[1:, 1:] = mask.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    side = lattice.size_to_cells(size_l0)
    low = lattice.to_cells(coords)
    high = low + side
    total = (
        _lookup(table, high[:, 0], high[:, 1])
        - _lookup(table, low[:, 0], high[:, 1])
        - _lookup(table, high[:, 0], low[:, 1])
        + _lookup(table, low[:, 0], low[:, 1])
    )
    fraction: NDArray[np.float64] = total / np.prod(side)
    return fraction.clip(0, 1)


def _lookup(
    table: NDArray[np.float64], rows: NDArray[np.float64], cols: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate the table at fractional positions, linearly; constant beyond its edges."""
    rows = rows.clip(0, table.shape[0] - 1)
    cols = cols.clip(0, table.shape[1] - 1)
    top = np.minimum(rows.astype(np.intp), table.shape[0] - 2)
    left = np.minimum(cols.astype(np.intp), table.shape[1] - 2)
    down, right = rows - top, cols - left
    value: NDArray[np.float64] = (
        table[top, left] * (1 - down) * (1 - right)
        + table[top + 1, left] * down * (1 - right)
        + table[top, left + 1] * (1 - down) * right
        + table[top + 1, left + 1] * down * right
    )
    return value
