"""Levels: whether a level of the pyramid shows what level 0 shows.

A writer may leave a level blank or damaged, or put a label or a mask there. A level is compared
with level 0 before it is used, in a sample of places: one in each cell of a raster of 5 x 5 to
8 x 8 (about one per 256 x 256 px of the level), at the tile of level 0 with the most bytes where
the file says so, which is tissue if there is any. A level that is the same colour everywhere is
compared in 20 x 20 places. Each place costs one read of level 0, of 128 x 128 px or 8 x 8 px of the
level, and one of the level.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from milpath.errors import SlideReadError
from milpath.slides.slide import Slide

log = logging.getLogger(__name__)

_MAX_DIFFERENCE = 30  # grey levels between means, in two places: scanners' levels reach 15
_MAX_ONCE = 45  # in one place: tissue differs from background by 60 and more
_FLAT = 6  # grey levels between the means of all places of a level that shows nothing
_CELL_PX = 256  # of the level, one place each
_MIN_CELLS, _MAX_CELLS, _MANY_CELLS = 5, 8, 20  # per axis
_SIDE_L0, _MIN_SIDE, _MAX_SIDE = 128, 8, 64  # of a place, pixels of level 0 and of the level
_MAX_UNREADABLE = 8  # places; then what can be read decides: a failure costs milliseconds

Place = tuple[float, float]
Means = NDArray[np.float64]


def choose_level(slide: Slide, mpp: float) -> int:
    """Return the level for a resolution as `Slide.level_for`, or a finer one if that is wrong.

    A level that shows something else than level 0 is not used, which is logged.

    Raises
    ------
    ResolutionError : as `Slide.level_for`
    """
    return next(level for level in range(slide.level_for(mpp), -1, -1) if is_trusted(slide, level))


def is_trusted(slide: Slide, level: int) -> bool:
    """Return whether a level shows the same as level 0; each is compared once."""
    if level == 0:
        return True
    known = slide.trusted_levels
    if level not in known:
        known[level] = not slide.has_cut_columns(level) and _shows_level_0(slide, level)
        if not known[level]:
            width, height = slide.level_dimensions[level]
            log.warning(
                "%s: level %d (%d x %d px) shows something else than level 0 and is not used",
                *(slide.slide_id, level, width, height),
            )
    return known[level]


def _shows_level_0(slide: Slide, level: int) -> bool:
    longer = max(slide.level_dimensions[level])
    cells = min(max(-(-longer // _CELL_PX), _MIN_CELLS), _MAX_CELLS)
    pairs = list(_measure_all(slide, level, cells))
    if pairs and np.ptp([small for _, small in pairs], axis=0).max() <= _FLAT:
        pairs += _measure_all(slide, level, _MANY_CELLS)
    differences = sorted(float(np.abs(full - small).max()) for full, small in pairs)
    once, twice = [0.0, 0.0, *differences][-1:-3:-1]
    return once <= _MAX_ONCE and twice <= _MAX_DIFFERENCE


def _measure_all(slide: Slide, level: int, cells: int) -> Iterator[tuple[Means, Means]]:
    """Yield the mean RGB of level 0 and of a level at each place where both can be read."""
    unreadable = 0
    for place in _choose_places(slide, cells):
        try:
            pair = _measure(slide, level, place)
        except SlideReadError:
            unreadable += 1
            if unreadable == _MAX_UNREADABLE:
                return
        else:
            if pair is not None:
                yield pair


def _choose_places(slide: Slide, cells: int) -> Iterator[Place]:
    """Yield level-0 (x, y), one in each cell of a raster over the slide's bounds."""
    x0, y0, width, height = slide.bounds_l0
    detail = slide.tile_bytes
    for row in range(cells):
        for col in range(cells):
            left, right = (x0 + width * (col + each) / cells for each in (0, 1))
            top, bottom = (y0 + height * (row + each) / cells for each in (0, 1))
            place = (left + right) / 2, (top + bottom) / 2
            if detail is not None:
                place = _most_detailed(slide, detail, (left, top, right, bottom)) or place
            yield place


def _most_detailed(
    slide: Slide, detail: NDArray[np.int64], box: tuple[float, float, float, float]
) -> Place | None:
    """Return the middle of the tile with the most bytes in a box; None if all have as many."""
    (rows, cols), (width, height) = detail.shape, slide.dimensions
    left, right = (each * cols / width for each in box[::2])
    top, bottom = (each * rows / height for each in box[1::2])
    first_row, first_col = math.floor(top), math.floor(left)
    part = detail[first_row : max(first_row + 1, math.ceil(bottom)), first_col : math.ceil(right)]
    if not part.size or part.max() == part.min():
        return None
    row, col = np.unravel_index(part.argmax(), part.shape)
    return (first_col + int(col) + 0.5) * width / cols, (first_row + int(row) + 0.5) * height / rows


def _measure(slide: Slide, level: int, place: Place) -> tuple[Means, Means] | None:
    """Return the mean RGB around a place on level 0 and on a level; None if not all scanned."""
    factors, size = slide.level_factors[level], slide.level_dimensions[level]
    side = round(min(max(_SIDE_L0 / max(factors), _MIN_SIDE), _MAX_SIDE))
    extent = min(side, size[0]), min(side, size[1])
    first = [
        int(min(max(at / factor - side / 2, 0), whole - part))
        for at, factor, whole, part in zip(place, factors, size, extent, strict=True)
    ]
    corner = round(first[0] * factors[0]), round(first[1] * factors[1])
    area = max(1, round(extent[0] * factors[0])), max(1, round(extent[1] * factors[1]))
    address = [round(each * slide.level_downsamples[level]) for each in first]
    small = slide.read_level((address[0], address[1]), level, extent)
    full = slide.read_rgba(corner, 0, area)
    scanned = np.asarray(full.getchannel("A")) > 0
    if scanned.mean() < 1:  # what level 0 lacks is no evidence
        return None
    return _mean(full), small.mean(axis=(0, 1))


def _mean(picture: Image.Image) -> Means:
    mean: Means = np.asarray(picture.convert("RGB")).mean(axis=(0, 1))
    return mean
