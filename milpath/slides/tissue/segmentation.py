"""Tissue detection on the thumbnail: optical density against the background's own colour.

One global Otsu threshold [1]_ separates dark tissue from everything else, so a pale fragment beside
a dark one is lost. Here the colour and the noise of the background are measured, and tissue is
what absorbs or colours the light by more than a multiple of that noise.

.. [1] N. Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9 (1979).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from milpath.params import TissueParams
from milpath.slides.lattice import Lattice
from milpath.slides.thumbnail import Thumbnail
from milpath.slides.tissue.background import (
    MAX_BLACK,
    MIN_NEUTRAL,
    choose_white,
    find_saturated,
    is_grey,
    looks_fluorescent,
    measure_background,
)
from milpath.slides.tissue.fill import find_flat, grow_fill, leave_fringe
from milpath.slides.tissue.fold import find_folds
from milpath.slides.tissue.masks import (
    Mask,
    keep_seeded,
    make_disk,
    measure_areas,
    pick_labels,
    sample_cells,
)
from milpath.slides.tissue.pen import find_pen
from milpath.slides.tissue.stain import (
    GREY_BOUNDS,
    OD_BOUNDS,
    Field,
    Pixels,
    measure_darkness,
    measure_stain,
)

Background = Literal["bright", "dark"]
_SMOOTH_UM = 5.0  # sigma of the smoothing before a threshold: about a nucleus
_CLOSE_UM = 16.0  # gaps thinner than twice this (clefts, the inside of small glands) are tissue
_NOISE_SIGMAS = 6.0
_SEED_FACTOR = 2.0  # a piece must reach this many times the threshold somewhere
_DARK_BOUNDS = (0.03, 0.06)  # limits of the threshold for fluorescence, as a fraction of full scale
_MIN_GLASS = 160  # brightest channel of the background; scanners have 190 to 255
_MIN_CANVAS = 0.3  # fraction of the picture that a filled canvas covers


@dataclass(frozen=True)
class TissueMask:
    """Where the tissue is.

    Attributes
    ----------
    mask : boolean array (rows, cols), True = tissue
    lattice : where its cells lie on the slide
    background : `bright` (brightfield: H&E, IHC) or `dark` (fluorescence)
    pen : boolean array (rows, cols), True = excluded as marker pen
    fold : boolean array (rows, cols), True = tissue that lies on itself; None for fluorescence
    background_rgb : RGB of the empty slide in brightfield; None if no empty area is visible
    is_grey : whether the picture has no colour at all
    """

    mask: Mask
    lattice: Lattice
    background: Background
    pen: Mask
    fold: Mask | None = None
    background_rgb: tuple[int, int, int] | None = None
    is_grey: bool = False

    @property
    def has_colour_cast(self) -> bool:
        """Whether the background has a colour unlikely for brightfield: the colours are wrong."""
        rgb = self.background_rgb
        return rgb is not None and min(rgb) <= MIN_NEUTRAL * max(rgb)

    @property
    def is_underexposed(self) -> bool:
        """Whether the background is far darker than that of any scanner in brightfield."""
        return self.background_rgb is not None and max(self.background_rgb) < _MIN_GLASS

    @property
    def is_mostly_pen(self) -> bool:
        """Whether more of it is pen than tissue: the pen could be a stain."""
        return int(self.pen.sum()) > int(self.mask.sum())

    @property
    def fraction(self) -> float:
        """Fraction of the thumbnail that is tissue, 0 to 1."""
        return float(self.mask.mean()) if self.mask.size else 0.0


def segment_tissue(thumbnail: Thumbnail, params: TissueParams) -> TissueMask:
    """Separate tissue from background.

    Parameters
    ----------
    thumbnail : the slide as one small picture
    params : settings to adjust when the default is wrong

    Returns
    -------
    TissueMask on the thumbnail's lattice; empty if there is no tissue.
    """
    mpp = thumbnail.mpp
    planes = np.ascontiguousarray(np.moveaxis(thumbnail.rgb, 2, 0))
    saturated = find_saturated(planes)
    valid = ~(thumbnail.unreadable | saturated)
    flat = find_flat(planes, valid, mpp)
    empty = measure_background(planes, valid, flat)
    fill = grow_fill(planes, flat, empty, mpp)
    white = choose_white(empty, planes, saturated)
    pen = np.zeros(valid.shape, np.bool_)
    background: Background = "bright"
    grey = is_grey(planes)
    if empty is None and looks_fluorescent(planes, valid & ~fill if fill.any() else valid):
        background = "dark"
        mask = _above_noise(_emission(planes, valid), valid, _DARK_BOUNDS, mpp, params)
        valid &= ~fill
    else:
        if fill.mean() > _MIN_CANVAS:  # less of it could be an even stroke of a pen
            valid &= ~fill
        # Without colour, or under a strong cast (a wrong colour space), inks are not recognised.
        if params.exclude_pen and not grey and np.min(white) > MIN_NEUTRAL * np.max(white):
            pen = find_pen(planes, white, valid, mpp)
        valid &= ~(pen | fill)
        measure, bounds = (measure_darkness, GREY_BOUNDS) if grey else (measure_stain, OD_BOUNDS)
        if empty is None:
            bounds = bounds[:1] * 2  # noise is not measurable
        mask = _above_noise(measure(planes, white), valid, bounds, mpp, params)
    mask = leave_fringe(_clean_up(mask, mpp, params) & valid, fill, mpp)
    rgb = None if empty is None else (int(empty[0]), int(empty[1]), int(empty[2]))
    fold = None if background == "dark" else find_folds(measure_darkness(planes, white), mask, mpp)
    return TissueMask(mask, thumbnail.lattice, background, pen, fold, rgb, grey)


def _emission(planes: Pixels, valid: Mask) -> Field:
    """Compute the brightest channel above the darkest cells, (rows, cols), 1 = full scale."""
    light: Field = planes.max(axis=0).astype(np.float32)
    light /= 255
    light -= min(float(np.percentile(light[valid], 5)), MAX_BLACK)
    return light


def _above_noise(
    signal: Field, valid: Mask, bounds: tuple[float, float], mpp: float, params: TissueParams
) -> Mask:
    """Find cells above a multiple of the background noise, connected to cells well above it.

    Parameters
    ----------
    signal : higher in tissue than in the background, (rows, cols); smoothed in place
    valid : cells that may be tissue
    bounds : minimum and maximum threshold
    """
    signal[~valid] = 0
    smooth: Field = ndimage.gaussian_filter(signal, _SMOOTH_UM / mpp, truncate=2.0, output=signal)
    low, high = bounds
    sampled = sample_cells(valid)
    quiet = smooth[sampled][valid[sampled] & (smooth[sampled] < high)]
    limit = low
    if quiet.size:
        centre = float(np.median(quiet))
        spread = 1.4826 * float(np.median(np.abs(quiet - centre)))
        limit = min(max(centre + _NOISE_SIGMAS * spread, low), high)
    limit /= params.sensitivity
    return keep_seeded(smooth > limit, smooth > _SEED_FACTOR * limit) & valid


def _clean_up(mask: Mask, mpp: float, params: TissueParams) -> Mask:
    """Close clefts, remove specks and fill small holes, all by physical size.

    A ring of background around the picture prevents a gap at its edge from counting as a hole.
    """
    size = max(1, round(_CLOSE_UM / mpp))
    closed = ndimage.binary_closing(np.pad(mask, size, mode="edge"), make_disk(size))
    cell = mpp * mpp
    labels, count = ndimage.label(closed[size:-size, size:-size])
    large = measure_areas(labels, count) > int(params.min_area_um2 / cell)
    large[0] = False
    pieces = pick_labels(labels, large)
    labels, count = ndimage.label(np.pad(~pieces, 1, constant_values=True))
    hole = measure_areas(labels, count) * cell <= params.max_hole_um2
    hole[[0, labels[0, 0]]] = False
    return pieces | pick_labels(labels[1:-1, 1:-1], hole)
