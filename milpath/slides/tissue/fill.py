"""Artificial fill: canvas that a program painted in one colour."""

from __future__ import annotations

import numpy as np

from milpath.slides.tissue.background import BIN, MAX_BLACK
from milpath.slides.tissue.masks import (
    Mask,
    count_cells,
    filter_square,
    keep_seeded,
    open_square,
    widen,
)
from milpath.slides.tissue.stain import GREY_BOUNDS, OD_BOUNDS, Pixels, optical_density, stain_of

_FLAT_UM = 200.0  # artificial fill is wider than this
_FLAT_RIM_UM = 80.0  # how far compression changes the fill beside something else
_FLAT_FRINGE_UM = 48.0  # and how wide a false colour it may cause there
_MIN_FLAT_CELLS = 8
_PIECE_CELLS = 3  # how wide at least another piece is of the same strong colour as a fill
_STRONG = 0.1  # optical density of a colour that no background has
_GREY_TILE = 160  # a grey up to this level is no background, and no stain is that grey
_GREY_CHROMA = 6  # grey levels between the channels of a grey
_NOISY_CELLS = 7  # side of a square without two equal cells, wider than an edge
_MAX_FILLS = 8  # colours
_FILL_RINGING = 12  # grey levels by which compression changes a fill beside something else


def find_flat(planes: Pixels, valid: Mask, mpp: float) -> Mask:
    """Find wide areas of exactly one colour: canvas that was filled, or blank background.

    Whatever a camera sees has noise: a cell of tissue and its neighbours are never all equal over
    200 µm, though those of bright background may be. A dark grey needs no such width: it is a tile
    that was not scanned. A picture that has noise nowhere was drawn, and evenness says nothing
    about it.
    """
    equal = valid.copy()
    equal[1:-1, 1:-1] &= _has_equal_neighbours(planes)
    if not filter_square(valid & ~equal, _NOISY_CELLS, grow=False).any():
        return np.zeros(valid.shape, np.bool_)
    # the outer cells of an area have other neighbours
    wide = open_square(equal, max(_MIN_FLAT_CELLS, count_cells(_FLAT_UM, mpp)) - 2)
    brightest = planes.max(axis=0)
    grey = (brightest <= _GREY_TILE) & (brightest - planes.min(axis=0) <= _GREY_CHROMA)
    return wide | open_square(equal & grey, _MIN_FLAT_CELLS)


def grow_fill(planes: Pixels, flat: Mask, empty: Pixels | None, mpp: float) -> Mask:
    """Find artificial fill: `flat` areas of another colour than the background, and their rims."""
    fill = np.zeros(flat.shape, np.bool_)
    if empty is not None:
        flat = flat & ~_is_near(planes, empty, BIN)
    packed = planes[:, flat].astype(np.int32)
    colours, counts = np.unique(packed[0] << 16 | packed[1] << 8 | packed[2], return_counts=True)
    for colour in colours[np.argsort(counts)[::-1][:_MAX_FILLS]].tolist():
        rgb = np.array([colour >> 16, colour >> 8 & 255, colour & 255], np.uint8)
        if _could_be_tissue(rgb, empty):
            same = _is_near(planes, rgb, 0)
            same = open_square(same, _PIECE_CELLS) if _is_strong(rgb, empty) else same & flat
            rim = widen(same, _FLAT_RIM_UM, mpp) & _is_near(planes, rgb, _FILL_RINGING)
            fill |= keep_seeded(rim, same) | widen(same, 2 * mpp, mpp)
    return fill


def leave_fringe(mask: Mask, fill: Mask, mpp: float) -> Mask:
    """Remove the narrow false tissue that compression draws beside a fill."""
    if not fill.any():
        return mask
    wide = open_square(mask, count_cells(_FLAT_FRINGE_UM, mpp))
    return mask & (wide | ~widen(fill, _FLAT_RIM_UM, mpp))


def _could_be_tissue(rgb: Pixels, empty: Pixels | None) -> bool:
    """Return whether a flat colour would count as tissue; background and shadows do not matter."""
    if empty is None:
        return bool(rgb.max() > 255 * MAX_BLACK)
    od = optical_density(rgb[:, None], empty)
    return bool(stain_of(od)[0] > 0.5 * OD_BOUNDS[0] or od.mean() > 0.5 * GREY_BOUNDS[0])


def _is_strong(rgb: Pixels, empty: Pixels | None) -> bool:
    if empty is None:
        return False
    od = optical_density(rgb[:, None], empty)
    return bool(max(stain_of(od)[0], od.mean()) > _STRONG)


def _has_equal_neighbours(planes: Pixels) -> Mask:
    """Return which inner cells equal their eight neighbours, (rows - 2, cols - 2)."""
    rows, cols = planes.shape[1:]
    if min(rows, cols) < 3:
        return np.zeros((max(0, rows - 2), max(0, cols - 2)), np.bool_)
    across = (planes[:, :, 1:] == planes[:, :, :-1]).all(axis=0)
    down = (planes[:, 1:] == planes[:, :-1]).all(axis=0)
    across = across[:, 1:] & across[:, :-1]
    down = down[1:] & down[:-1]
    three: Mask = across[1:-1] & across[2:] & across[:-2] & down[:, 1:-1]
    return three


def _is_near(planes: Pixels, colour: Pixels, levels: int) -> Mask:
    """Return which cells have a colour to `levels` grey levels in every channel."""
    near = np.ones(planes.shape[1:], np.bool_)
    for plane, level in zip(planes, colour.astype(int), strict=True):
        near &= (plane >= max(0, level - levels)) & (plane <= min(255, level + levels))
    return near
