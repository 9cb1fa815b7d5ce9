"""PatchGrid: where the patches of a slide lie. The only frame arithmetic of milpath.

Slide positions are (x, y) in level-0 pixels; masks are [row, col]. Nowhere else are they swapped,
but in `milpath.figures.heatmap`, which goes the other way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from milpath.errors import UnsupportedSlideError
from milpath.params import GridParams
from milpath.slides.slide import Slide
from milpath.slides.tissue import TissueMask

_ROUNDING = 1e-6  # what the sums of a large mask may lose; a patch all of tissue must count as 1


@dataclass(frozen=True)
class PatchGrid:
    """The patches of one slide, in reading order (row by row).

    Attributes
    ----------
    coords : int64 array (N, 2), level-0 (x, y) of each patch's top-left corner
    patch_px : side of a patch as the encoder sees it, pixels
    patch_size_l0 : side of a patch on the slide, level-0 pixels (rounded once, here)
    stride_l0 : distance of neighbouring patches, level-0 pixels
    origin_l0 : (x, y) of the grid's corner; every coordinate is origin + a multiple of the stride
    patch_mpp : the µm per pixel that the rounding leaves, `patch_size_l0 * mpp / patch_px`
    level : the pyramid level the patches are read from
    """

    coords: NDArray[np.int64]
    patch_px: int
    patch_size_l0: int
    stride_l0: int
    origin_l0: tuple[int, int]
    patch_mpp: float
    level: int

    def __len__(self) -> int:
        return len(self.coords)

    def select(self, rows: NDArray[np.int64]) -> PatchGrid:
        """The same grid with some of its patches."""
        return replace(self, coords=self.coords[rows])


def plan_grid(slide: Slide, tissue: TissueMask, params: GridParams) -> PatchGrid:
    """The patches of `slide` that hold enough tissue, on a regular grid.

    The grid is centred in the slide's bounds, whole patches only: no patch is padded, and what does
    not fit is shared by the two edges.

    Raises
    ------
    ResolutionError : the slide's µm per pixel is missing, absurd or too coarse
    UnsupportedSlideError : the slide is smaller than one patch
    """
    level = slide.level_for(params.mpp)
    side = round(params.patch_px * params.mpp / slide.mpp_mean)
    stride = round((params.patch_px - params.overlap_px) * params.mpp / slide.mpp_mean)
    x0, y0, width, height = slide.bounds_l0
    if min(width, height) < side:
        raise UnsupportedSlideError(
            f"{slide.name}: {width} x {height} px is smaller than one patch of "
            f"{side} px ({params.patch_px} px at {params.mpp:g} µm); give a smaller --patch-size"
        )
    xs, ys = _starts(x0, width, side, stride), _starts(y0, height, side, stride)
    every = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    share = tissue_share(tissue, every, side)
    kept = every[share >= params.min_tissue - _ROUNDING]
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
    """Starts of the whole patches along one axis, the rest shared by both ends."""
    count = (length - side) // stride + 1
    rest = length - side - (count - 1) * stride
    return low + rest // 2 + stride * np.arange(count, dtype=np.int64)


def tissue_share(
    tissue: TissueMask, coords: NDArray[np.int64], patch_size_l0: int
) -> NDArray[np.float64]:
    """The share of each patch that is tissue, exact to the area of the mask's cells.

    Parameters
    ----------
    tissue : the mask, its own frame included
    coords : (N, 2), level-0 (x, y) of the patches' top-left corners
    patch_size_l0 : their side, level-0 pixels

    Returns
    -------
    (N,) array in 0..1; what lies outside the mask is not tissue.
    """
    return box_mean(tissue.mask, tissue.origin_l0, tissue.cell_l0, coords, patch_size_l0)


def box_mean(
    mask: NDArray[np.bool_],
    origin_l0: tuple[float, float],
    cell_l0: tuple[float, float],
    coords: NDArray[np.int64],
    size_l0: int,
) -> NDArray[np.float64]:
    """Mean of a mask over squares given in level-0 pixels, cells weighted by their covered area.

    A summed-area table, interpolated linearly, is exact for boxes that cut cells.
    """
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    table[1:, 1:] = mask.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    low = (coords - np.asarray(origin_l0)) / np.asarray(cell_l0)
    high = low + size_l0 / np.asarray(cell_l0)
    total = (
        _lookup(table, high[:, 1], high[:, 0])
        - _lookup(table, low[:, 1], high[:, 0])
        - _lookup(table, high[:, 1], low[:, 0])
        + _lookup(table, low[:, 1], low[:, 0])
    )
    share: NDArray[np.float64] = total / np.prod(size_l0 / np.asarray(cell_l0))
    return share.clip(0, 1)


def _lookup(
    table: NDArray[np.float64], rows: NDArray[np.float64], cols: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The table at fractional places, linear in both directions, constant beyond its edges."""
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
