"""Marker pen: strokes of felt-tip ink on the slide."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from milpath.slides.tissue.masks import (
    STRIP,
    Mask,
    count_cells,
    filter_square,
    make_disk,
    measure_areas,
    pick_labels,
)
from milpath.slides.tissue.stain import (
    OD_BOUNDS,
    Field,
    Pixels,
    density_strips,
    optical_density,
    stain_of,
)

_PEN_WIDTH_UM = 48.0  # marker strokes are wider than this; goblet cells are narrower
_PEN_RIM_UM = 16.0  # the blurred edge of a stroke
_MIN_PEN_AREA_UM2 = 15_000.0  # area of dense ink that a stroke has at least
_SMOOTH_INK_UM = 40.0  # side of the square that ink is smooth in; the nuclei of tissue are finer
_MIN_SMOOTH = 0.5  # fraction of a stroke's dense part
_SMOOTHNESS: tuple[tuple[float, float] | None, ...] = (None,) * 4 + ((0.08, 0.014),) * 3
"""Limits of `_find_smooth` for each ink; measured: ink 0.04 and 0.006, tissue 0.15 and 0.03.

Pure inks have none, since a translucent stroke over tissue shows the tissue's texture; dense light
green (Goldner) is therefore taken for blue ink.
"""


def find_pen(planes: Pixels, white: Pixels, valid: Mask, mpp: float) -> Mask:
    """Find strokes of a felt-tip pen: wide, dense, and of an ink's colour.

    Light and dark variants of an ink share their colours with stains (methyl blue and ponceau of
    Masson, light green, Alcian blue); of them a stroke is also smooth: one layer of one dye, out of
    focus, while stained tissue has nuclei and fibres of more than one colour. The faded part of a
    stroke touches its dense part and absorbs in the same proportion.
    """
    pen = np.zeros(valid.shape, np.bool_)
    square = np.ones((count_cells(_PEN_WIDTH_UM, mpp),) * 2, np.bool_)
    inks = np.zeros((len(_SMOOTHNESS), *valid.shape), np.bool_)
    for rows, od in density_strips(planes, white):
        dense = valid[rows] & (od.max(axis=0) > 0.22)
        inks[:, rows][:, dense] = _ink_colours(*od[:, dense])
    for core, limits in zip(inks, _SMOOTHNESS, strict=True):
        if core.sum() * mpp * mpp < _MIN_PEN_AREA_UM2:
            continue
        smooth = core if limits is None else core & _find_smooth(planes, white, mpp, limits)
        dense, core = core, ndimage.binary_opening(smooth, square)
        if core.sum() * mpp * mpp >= _MIN_PEN_AREA_UM2:
            ink = optical_density(planes[:, core], white).mean(axis=1)
            similar = core.copy()
            for rows, od in density_strips(planes, white):
                norm = np.sqrt((od * od).sum(axis=0))
                faded = (norm > 0.06) | (stain_of(od) > OD_BOUNDS[0])
                along = np.tensordot(ink / np.linalg.norm(ink), od, 1)
                similar[rows] |= faded & (along > 0.98 * norm)
            pen |= _keep_strokes(valid & similar, core, dense, smooth)
    if pen.any():
        pen = ndimage.binary_dilation(pen, make_disk(count_cells(_PEN_RIM_UM, mpp)))
    return pen


def _keep_strokes(similar: Mask, core: Mask, dense: Mask, smooth: Mask) -> Mask:
    """Keep the pieces of one hue that have a core and are smooth in most of their dense part.

    A smooth lake of mucin or collagen is not taken for ink, nor is the tissue around it.
    """
    labels, count = ndimage.label(similar)
    keep = measure_areas(labels * smooth, count) >= _MIN_SMOOTH * measure_areas(
        labels * dense, count
    )
    seeded = np.zeros(count + 1, np.bool_)
    seeded[labels[core & similar]] = True
    return pick_labels(labels, keep & seeded)


def _find_smooth(planes: Pixels, white: Pixels, mpp: float, limits: tuple[float, float]) -> Mask:
    """Find the cells within squares of one density and one hue.

    Parameters
    ----------
    limits : largest SD of the optical density relative to its mean, and of its direction (radians)
    """
    side = max(3, count_cells(_SMOOTH_INK_UM, mpp) // 2 * 2 + 1)
    margin = side // 2
    height = planes.shape[1]
    smooth = np.zeros(planes.shape[1:], np.bool_)
    for top in range(0, height, STRIP):
        low, high = max(0, top - margin), min(height, top + STRIP + margin)
        od = optical_density(planes[:, low:high], white).astype(np.float64)
        norm = np.sqrt((od * od).sum(axis=0))
        mean = ndimage.uniform_filter(norm, side)
        spread = ndimage.uniform_filter(norm * norm, side) - mean * mean
        hues = od / np.maximum(norm, 1e-3)
        turned = 1 - sum(ndimage.uniform_filter(hue, side) ** 2 for hue in hues)
        even = (spread <= (limits[0] * mean) ** 2) & (turned <= limits[1] ** 2)
        rows = slice(top, min(height, top + STRIP))
        smooth[rows] = even[top - low : rows.stop - low]
    return filter_square(smooth, side, grow=True)  # all of a square, not only its middle


def _ink_colours(red: Field, green: Field, blue: Field) -> tuple[Mask, ...]:
    """Classify inks by each channel's optical density, all (N,).

    The first four, black, blue, green and red, are dense and pure; the last three are light and
    dark variants of blue (and black), green and red that more stains resemble.
    """
    mean = (red + green + blue) / 3
    spread = np.ptp(np.stack([red, green, blue]), axis=0)
    light_blue = (red > 2.5 * green) & (red > 5 * blue)
    dark_blue = (red > 0.65) & (red > 0.9 * green) & (red > 1.6 * blue)
    blue_black = (mean > 0.6) & (spread < 0.3 * mean)
    crimson = (green > 0.4) & (red < 0.1 * green) & (blue > 0.45 * green)
    light_red = (green > 0.24) & (red < 0.25 * green) & (blue > 0.8 * green)
    return (
        (mean > 0.3) & (spread < 0.2 * mean),
        (red > 0.35) & (red > 1.4 * green) & (red > 2.5 * blue),
        (red - green > 0.2) & (blue - green > 0.1) & (np.maximum(red, blue) > 0.3),
        (green > 0.4) & (blue > 0.75 * green) & (red < 0.4 * green),
        light_blue | dark_blue | blue_black,
        (red - green > 0.1) & (blue > 0.85 * green),
        crimson | light_red,
    )
