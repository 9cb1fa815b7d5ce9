"""Thumbnail: a small picture of a whole slide, read in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milpath.errors import SlideReadError
from milpath.slides.lattice import Lattice
from milpath.slides.levels import choose_level, is_trusted
from milpath.slides.slide import Slide

_BLOCK_PX = 1024  # side of the source blocks in which a thumbnail is read: 4 MB, resampled 13
# a block with a damaged tile is quartered; when it is this small, finer levels are tried too
_SMALL_BLOCK_PX = 32
_MIN_BLOCK_PX = 4  # thumbnail pixels: a damaged tile costs hardly more area than its own
_MAX_FINE_FAILURES = 2000  # then blocks stay small: every failure costs OpenSlide milliseconds


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a whole slide.

    Attributes
    ----------
    rgb : uint8 array (rows, cols, 3)
    lattice : where its pixels lie on the slide
    mpp : µm per pixel of the picture (geometric mean of both axes)
    unreadable : boolean array (rows, cols), True where the file could not be read
    """

    rgb: NDArray[np.uint8]
    lattice: Lattice
    mpp: float
    unreadable: NDArray[np.bool_]


def read_thumbnail(slide: Slide, mpp: float) -> Thumbnail:
    """Read the slide's bounds as one picture of about `mpp` µm per pixel.

    The slide is read in blocks, so that one without small levels does not fill the memory.
    Unreadable areas show the background colour and are marked in `unreadable`.

    Raises
    ------
    ResolutionError : the slide's own resolution is missing or implausible
    SlideReadError : no part of the slide can be read
    UnsupportedSlideError : no part of it is opaque
    """
    x0, y0, width_l0, height_l0 = slide.bounds_l0
    finest = slide.mpp_mean
    target = max(mpp, finest)
    cols = max(1, round(width_l0 * finest / target))
    rows = max(1, round(height_l0 * finest / target))
    lattice = Lattice((x0, y0), (width_l0 / cols, height_l0 / rows))
    level = choose_level(slide, target)
    rgb = np.empty((rows, cols, 3), np.uint8)
    rgb[:] = slide.background
    unreadable = np.zeros((rows, cols), np.bool_)
    failures: list[SlideReadError] = []
    factor = min(slide.level_factors[level])
    side = max(_SMALL_BLOCK_PX, int(_BLOCK_PX * factor / max(lattice.cell_l0)))
    blocks = [
        (row, col, min(side, rows - row), min(side, cols - col))
        for row in range(0, rows, side)
        for col in range(0, cols, side)
    ]
    while blocks:
        row, col, h, w = blocks.pop()
        where = np.s_[row : row + h, col : col + w]
        x, y = lattice.to_l0((row, col)).tolist()
        width, height = lattice.size_to_l0((h, w)).tolist()
        # where a level is damaged, a finer one may be intact; only small blocks can afford it
        small = max(h, w) <= _SMALL_BLOCK_PX
        for source in range(level, -1, -1) if small else (level,):
            if source != level and not is_trusted(slide, source):
                continue
            try:
                rgb[where] = slide.read_region((x, y), (width, height), (w, h), source)
                break
            except SlideReadError as error:
                failures.append(error)
        else:
            fine = len(failures) < _MAX_FINE_FAILURES
            if max(h, w) <= (_MIN_BLOCK_PX if fine else _SMALL_BLOCK_PX):
                unreadable[where] = True
            else:
                blocks.extend(_quarter(row, col, h, w))
    if failures and unreadable.all():
        raise failures[0]
    slide.check_opaque()
    return Thumbnail(rgb, lattice, finest * math.sqrt(lattice.cell_area_l0), unreadable)


def fit_thumbnail(slide: Slide, max_px: int) -> Thumbnail:
    """Read the slide's bounds as a picture whose longer side has at most `max_px` pixels."""
    return read_thumbnail(slide, max(slide.bounds_l0[2:]) / max_px * slide.mpp_mean)


def _quarter(row: int, col: int, h: int, w: int) -> list[tuple[int, int, int, int]]:
    """Cut a block (row, col, height, width) into up to four that are not empty."""
    top, left = (h + 1) // 2, (w + 1) // 2
    pieces = [
        (row + i * top, col + j * left, (h - top) if i else top, (w - left) if j else left)
        for i in (0, 1)
        for j in (0, 1)
    ]
    return [piece for piece in pieces if piece[2] > 0 and piece[3] > 0]
