"""PatchGrid: where the patches of a slide lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from milpath.errors import UnsupportedSlideError
from milpath.params import GridParams
from milpath.slides.lattice import Lattice
from milpath.slides.levels import choose_level
from milpath.slides.slide import Slide

if TYPE_CHECKING:
    from milpath.slides.tissue import TissueMask  # SciPy, which milpath info does without

_CELLS = 16  # along the side of a patch, of a raster for patches that lie anywhere
_ROUNDING = 1e-6  # rounding error of a large mask's sums: a patch full of tissue must count as 1


Places = Literal["grid", "free", "unknown"]
"""What is known of where patches lie."""


@dataclass(frozen=True)
class PatchGrid:
    """The patches of one slide, in reading order (row by row).

    Attributes
    ----------
    coords : int64 array (N, 2), level-0 (x, y) of each patch's top-left corner
    patch_px : side of a patch as the encoder sees it, pixels
    patch_size_l0 : side of a patch on the slide, level-0 pixels (rounded once, in `plan_grid`)
    stride_l0 : distance between neighbouring patches, level-0 pixels
    origin_l0 : (x, y) of the grid's corner; every coordinate is origin + a multiple of the stride
    patch_mpp : µm per pixel after that rounding, `patch_size_l0 * mpp / patch_px`
    level : the pyramid level the patches are read from
    places : "grid" if every coordinate is origin + a multiple of the stride; "free" if patches lie
        anywhere; "unknown" if the files of features do not say where, and `coords` are zeros
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
        """The cells of one stride that the patches start at."""
        return Lattice(self.origin_l0, (self.stride_l0, self.stride_l0))

    def select(self, rows: NDArray[np.int64]) -> PatchGrid:
        """Return the same grid with only the patches of these rows."""
        return replace(self, coords=self.coords[rows])


def free_grid(
    coords: NDArray[np.int64], patch_px: int, patch_size_l0: int, patch_mpp: float
) -> PatchGrid:
    """Return the grid of patches that another program laid, wherever they lie.

    Patches on common steps, of a 16th of their side to the side, are a "grid"; others are "free",
    with a stride of a 16th of their side.

    Parameters
    ----------
    coords : (N, 2), level-0 (x, y) of each patch's top-left corner
    patch_px, patch_size_l0, patch_mpp : as in `PatchGrid`
    """
    low = coords.min(axis=0) if len(coords) else np.zeros(2, np.int64)
    origin = (int(low[0]), int(low[1]))
    step = int(np.gcd.reduce((coords - low).ravel())) if len(coords) else 0
    cell = max(1, -(-patch_size_l0 // _CELLS))
    if step == 0 or cell <= step <= patch_size_l0:
        stride = step or patch_size_l0
        return PatchGrid(coords, patch_px, patch_size_l0, stride, origin, patch_mpp, 0)
    return PatchGrid(coords, patch_px, patch_size_l0, cell, origin, patch_mpp, 0, "free")


def unplaced_grid(count: int, patch_px: int, patch_mpp: float) -> PatchGrid:
    """Return the grid of patches whose places are not known."""
    coords = np.zeros((count, 2), np.int64)
    return PatchGrid(coords, patch_px, patch_px, patch_px, (0, 0), patch_mpp, 0, "unknown")


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
