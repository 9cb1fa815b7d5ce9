"""Thumbnail: a small picture of a whole slide, read in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milpath.errors import SlideReadError
from milpath.slides.slide import Slide

_BLOCK_PX = 1024  # side of the source blocks in which an thumbnail is read: 4 MB, resampled 13
# a block with a damaged tile is quartered; when it is this small, finer levels are tried too
_SMALL_BLOCK_PX = 32
_MIN_BLOCK_PX = 4  # thumbnail pixels: so a tile costs hardly more area than it has
_FINE_FAILURES = 2000  # after which blocks stay small: every failure costs OpenSlide milliseconds


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a whole slide.

    Attributes
    ----------
    rgb : uint8 array, (rows, cols, 3)
    origin_l0 : (x, y) of the picture's top-left corner, level-0 pixels
    cell_l0 : (width, height) of one of its pixels, level-0 pixels
    mpp : µm per pixel of the picture (geometric mean of both axes)
    unreadable : boolean array (rows, cols), True where the file could not be read
    """

    rgb: NDArray[np.uint8]
    origin_l0: tuple[int, int]
    cell_l0: tuple[float, float]
    mpp: float
    unreadable: NDArray[np.bool_]


def read_thumbnail(slide: Slide, mpp: float) -> Thumbnail:
    """The slide's bounds as one picture of about `mpp` µm per pixel.

    Read in blocks, so that a slide without small levels does not fill the memory. What cannot
    be read is painted as background and marked in `unreadable`.

    Raises
    ------
    ResolutionError : the slide's own resolution is missing or absurd
    SlideReadError : nothing at all can be read
    """
    x0, y0, width_l0, height_l0 = slide.bounds_l0
    finest = slide.mpp_mean
    target = max(mpp, finest)
    cols = max(1, round(width_l0 * finest / target))
    rows = max(1, round(height_l0 * finest / target))
    cell = (width_l0 / cols, height_l0 / rows)
    level = slide.level_for(target)
    rgb = np.empty((rows, cols, 3), np.uint8)
    rgb[:] = slide.background
    unreadable = np.zeros((rows, cols), np.bool_)
    failures: list[SlideReadError] = []
    side = max(_SMALL_BLOCK_PX, int(_BLOCK_PX * slide.level_downsamples[level] / max(cell)))
    blocks = [
        (row, col, min(side, rows - row), min(side, cols - col))
        for row in range(0, rows, side)
        for col in range(0, cols, side)
    ]
    while blocks:
        row, col, h, w = blocks.pop()
        where = np.s_[row : row + h, col : col + w]
        location = (x0 + col * cell[0], y0 + row * cell[1])
        # where a level is damaged, a finer one may be whole; only small blocks can afford it
        small = max(h, w) <= _SMALL_BLOCK_PX
        for source in range(level, -1, -1) if small else (level,):
            try:
                rgb[where] = slide.read_region(location, (w * cell[0], h * cell[1]), (w, h), source)
                break
            except SlideReadError as error:
                failures.append(error)
        else:
            fine = len(failures) < _FINE_FAILURES
            if max(h, w) <= (_MIN_BLOCK_PX if fine else _SMALL_BLOCK_PX):
                unreadable[where] = True
            else:
                blocks.extend(_quarters(row, col, h, w))
    if failures and unreadable.all():
        raise failures[0]
    return Thumbnail(rgb, (x0, y0), cell, finest * math.sqrt(cell[0] * cell[1]), unreadable)


def fit_thumbnail(slide: Slide, max_px: int) -> Thumbnail:
    """The slide's bounds as a picture whose longer side has at most `max_px` pixels."""
    return read_thumbnail(slide, max(slide.bounds_l0[2:]) / max_px * slide.mpp_mean)


def _quarters(row: int, col: int, h: int, w: int) -> list[tuple[int, int, int, int]]:
    """A block (row, col, height, width) cut in up to four that are not empty."""
    top, left = (h + 1) // 2, (w + 1) // 2
    pieces = [
        (row + i * top, col + j * left, (h - top) if i else top, (w - left) if j else left)
        for i in (0, 1)
        for j in (0, 1)
    ]
    return [piece for piece in pieces if piece[2] > 0 and piece[3] > 0]
