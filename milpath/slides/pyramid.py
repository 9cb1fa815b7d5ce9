"""Pyramid: by which factors the levels of a slide are smaller than level 0.

Writers cut, round or extend a level to whole pixels, so the ratio of two sizes is only nearly the
factor by which the picture was reduced, and differs between the axes: 24000 x 1004 px reduced 32
times are cut to 750 x 31 px, of which OpenSlide makes a factor of 32.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Size = tuple[int, int]
Factors = tuple[float, float]

_ROUNDING_PX = 1  # by which a level may be larger or smaller than the exact size


def find_factors(level_dimensions: Sequence[Size]) -> tuple[Factors, ...]:
    """Return how many pixels of level 0 one pixel of each level covers, (x, y).

    It is the power of two, else the whole number, that explains both sizes of a level within one of
    its pixels; else each axis has the ratio of its sizes. Either way no point of the level is off
    by more than one of its pixels.

    Parameters
    ----------
    level_dimensions : (width, height) of every level, level 0 first
    """
    return tuple(_factors(level_dimensions[0], size) for size in level_dimensions)


def _factors(full: Size, size: Size) -> Factors:
    if size == full:
        return 1.0, 1.0
    low = max(whole / (part + _ROUNDING_PX) for whole, part in zip(full, size, strict=True))
    high = min(
        whole / (part - _ROUNDING_PX) if part > _ROUNDING_PX else math.inf
        for whole, part in zip(full, size, strict=True)
    )
    long = 0 if full[0] >= full[1] else 1  # its ratio is the more precise one
    ratio = full[long] / size[long]
    for factor in (2.0 ** round(math.log2(ratio)), float(round(ratio))):
        if factor >= 1 and low <= factor <= high:
            return factor, factor
    return full[0] / size[0], full[1] / size[1]
