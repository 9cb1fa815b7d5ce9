"""Tissue detection on the thumbnail: optical density against the background's own colour.

One global Otsu threshold [1]_ separates dark tissue from everything else, so a pale fragment beside
a dark one is lost. Here the colour and the noise of the background are measured, and tissue is
what absorbs or colours the light by more than a multiple of that noise. Optical density (Beer and
Lambert) makes stain amounts additive [2]_ and cancels the colour and the brightness of the
illumination.

.. [1] N. Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9 (1979).
.. [2] A. C. Ruifrok, D. A. Johnston, "Quantification of histochemical staining by color
       deconvolution", Anal. Quant. Cytol. Histol. 23 (2001).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from milpath.params import TissueParams
from milpath.slides.lattice import Lattice
from milpath.slides.thumbnail import Thumbnail

Background = Literal["bright", "dark"]
Mask = NDArray[np.bool_]
Field = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Labels = NDArray[np.int32]

_SMOOTH_UM = 5.0  # sigma of the smoothing before a threshold: about a nucleus
_CLOSE_UM = 16.0  # gaps thinner than twice this (clefts, the inside of small glands) are tissue
_PEN_WIDTH_UM = 48.0  # marker strokes are wider than this; goblet cells are narrower
_PEN_RIM_UM = 16.0  # the blurred edge of a stroke
_MIN_PEN_AREA_UM2 = 15_000.0  # area of dense ink that a stroke has at least
_SMOOTH_INK_UM = 40.0  # side of the square that ink is smooth in; the nuclei of tissue are finer
_FLAT_UM = 200.0  # artificial fill is wider than this
_FLAT_RIM_UM = 80.0  # how far compression changes the fill beside something else
_FLAT_FRINGE_UM = 48.0  # and how wide a false colour it may cause there
_MIN_CANVAS = 0.3  # fraction of the picture that a filled canvas covers
_NOISE_SIGMAS = 6.0
_SEED_FACTOR = 2.0  # a piece must reach this many times the threshold somewhere
_OD_BOUNDS = (0.012, 0.025)  # limits of the threshold for any noise: pale tissue has 0.04
_GREY_BOUNDS = (0.012, 0.04)  # the same for a grey slide, where all that is dark is tissue
_DARK_BOUNDS = (0.03, 0.06)  # the same for fluorescence, as a fraction of full scale
_MAX_BLACK = 0.2  # greatest level of a dark background: camera offset and autofluorescence
_GREY = 0.15  # chroma over darkness; shadows, dust and carbon have less, every stain has more
_OPAQUE = 0.25  # optical density above which even grey is tissue: a fold, a tattoo, ink on a margin
_MIN_NEUTRAL = 0.7  # minimum ratio of the darkest to the brightest channel of a real background
_STRIP = 64  # rows processed at a time to limit memory
_SAMPLE = 1_000_000  # cells that estimates are made from


@dataclass(frozen=True)
class TissueMask:
    """Where the tissue is.

    Attributes
    ----------
    mask : boolean array (rows, cols), True = tissue
    lattice : where its cells lie on the slide
    background : `bright` (brightfield: H&E, IHC) or `dark` (fluorescence)
    pen : boolean array (rows, cols), True = excluded as marker pen
    background_rgb : RGB of the empty slide in brightfield; None if no empty area is visible
    is_grey : whether the picture has no colour at all
    """

    mask: Mask
    lattice: Lattice
    background: Background
    pen: Mask
    background_rgb: tuple[int, int, int] | None = None
    is_grey: bool = False

    @property
    def has_colour_cast(self) -> bool:
        """Whether the background has a colour unlikely for brightfield: the colours are wrong."""
        rgb = self.background_rgb
        return rgb is not None and min(rgb) <= _MIN_NEUTRAL * max(rgb)

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
    saturated = _find_saturated(planes)
    valid = ~(thumbnail.unreadable | saturated)
    flat = _find_flat(planes, valid, mpp)
    empty = _measure_background(planes, valid, flat)
    fill = _grow_fill(planes, flat, empty, mpp)
    pen = np.zeros(valid.shape, np.bool_)
    background: Background = "bright"
    grey = _is_grey(planes)
    if empty is None and _looks_fluorescent(planes, valid & ~fill if fill.any() else valid):
        background = "dark"
        mask = _above_noise(_emission(planes, valid), valid, _DARK_BOUNDS, mpp, params)
        valid &= ~fill
    else:
        if fill.mean() > _MIN_CANVAS:  # less of it could be an even stroke of a pen
            valid &= ~fill
        white = _choose_white(empty, planes, saturated)
        # Without colour, or under a strong cast (a wrong colour space), inks are not recognised.
        if params.exclude_pen and not grey and np.min(white) > _MIN_NEUTRAL * np.max(white):
            pen = _find_pen(planes, white, valid, mpp)
        valid &= ~(pen | fill)
        stain, bounds = (_darkness, _GREY_BOUNDS) if grey else (_stain, _OD_BOUNDS)
        if empty is None:
            bounds = bounds[:1] * 2  # noise is not measurable
        mask = _above_noise(stain(planes, white), valid, bounds, mpp, params)
    mask = _clean_up(mask, mpp, params) & valid
    if fill.any():
        mask &= _open_square(mask, _cells(_FLAT_FRINGE_UM, mpp)) | ~_widen(fill, _FLAT_RIM_UM, mpp)
    rgb = None if empty is None else (int(empty[0]), int(empty[1]), int(empty[2]))
    return TissueMask(mask, thumbnail.lattice, background, pen, rgb, grey)


# -- background ------------------------------------------------------------------------------------

_FLAT = 4  # grey levels between neighbours; background is flatter than any tissue
_BIN = 8  # grey levels of a bin of the colour histogram
_SATURATED = 253  # white from this level up
_MAX_DIM = 64  # of fluorescence between its cells


def _find_saturated(planes: Pixels) -> Mask:
    """Find areas of white or black, 3 x 3 cells or more: not scanned, or out of range."""
    flat: Mask = (planes.min(axis=0) >= _SATURATED) | (planes.max(axis=0) == 0)
    if not flat.any():
        return flat
    saturated: Mask = ndimage.binary_opening(flat, np.ones((3, 3), np.bool_))
    return saturated


def _measure_background(planes: Pixels, valid: Mask, fill: Mask) -> Pixels | None:
    """Measure the colour of the empty slide, (3,); None if the picture shows no empty area.

    It is the brightest of the frequent colours of wide flat areas. A strong colour cast (a wrong
    colour space, the illumination) must cover a large part of the picture: it could be smooth
    tissue. An artificial fill is the background only if no other colour could be.
    """
    flat = valid & (planes.max(axis=0) >= 100)
    flat[[0, -1]] = flat[:, [0, -1]] = False  # the outer cells may lie half outside the scan
    for plane in planes:
        flat[:-1] &= np.maximum(plane[1:], plane[:-1]) - np.minimum(plane[1:], plane[:-1]) <= _FLAT
        right, left = plane[:, 1:], plane[:, :-1]
        flat[:, :-1] &= np.maximum(right, left) - np.minimum(right, left) <= _FLAT
    flat = ndimage.binary_erosion(flat, np.ones((3, 3), np.bool_))
    sampled = _sampled(flat)
    chosen = flat[sampled]
    colours, filled = planes[:, *sampled][:, chosen], fill[sampled][chosen]
    counted = int(valid[sampled].sum())
    colour, cells = _brightest(colours, counted)
    if colour is None:
        return None
    if filled[cells].mean() > 0.5:
        scanned, others = _brightest(colours[:, ~filled], counted)
        if scanned is not None and _is_neutral(scanned, 0.95) and others.sum() > 0.02 * counted:
            apart = np.abs(scanned.astype(int) - colour.astype(int)).max()
            return scanned if apart > _FLAT else colour  # background may be even in parts
        rest = planes[:, *sampled][:, (valid & ~fill)[sampled]]
        if not _is_neutral(colour) and rest.size and np.median(rest.max(axis=0)) < _MAX_DIM:
            return None  # a fill beside fluorescence
    return colour if _is_neutral(colour) or cells.sum() > 0.1 * counted else None


def _brightest(colours: Pixels, counted: int) -> tuple[Pixels | None, Mask]:
    """Find the brightest of the frequent colours (3, N), and which of the N are near it."""
    shape = (256 // _BIN,) * 3
    bins = np.ravel_multi_index(tuple(colours // _BIN), shape)
    counts = np.bincount(bins, minlength=math.prod(shape))
    frequent = np.flatnonzero(counts > max(0.1 * np.max(counts), 0.005 * counted))
    if not frequent.size:
        return None, np.zeros(colours.shape[1], np.bool_)
    centres = np.stack(np.unravel_index(frequent, shape), axis=1) * _BIN + _BIN // 2
    brightest = centres[np.argmax(centres.sum(axis=1))]
    near = (np.abs(colours.astype(np.int16) - brightest[:, None]) <= _BIN).all(axis=0)
    return np.median(colours[:, near], axis=1).astype(np.uint8), near


def _is_neutral(colour: Pixels, ratio: float = 0.82) -> bool:
    return bool(np.max(colour) >= 180 and np.min(colour) >= ratio * np.max(colour))


def _is_grey(planes: Pixels) -> bool:
    """Return whether all cells are grey to a level; a camera's colours are never that equal."""
    first = planes[0].astype(np.int16)
    return all(bool((np.abs(plane - first) <= 1).all()) for plane in planes[1:])


# -- artificial fill -------------------------------------------------------------------------------


def _find_flat(planes: Pixels, valid: Mask, mpp: float) -> Mask:
    """Find wide areas of exactly one colour: canvas that was filled, or blank background.

    Whatever a camera sees has noise: a cell of tissue and its neighbours are never all equal over
    200 µm, though those of bright background may be. A picture that has noise nowhere was drawn,
    and evenness says nothing about it.
    """
    equal = valid.copy()
    equal[1:-1, 1:-1] &= _has_equal_neighbours(planes)
    if not _square_filter(valid & ~equal, _NOISY_CELLS, grow=False).any():
        return np.zeros(valid.shape, np.bool_)
    # the outer cells of an area have other neighbours
    return _open_square(equal, max(_MIN_FLAT_CELLS, _cells(_FLAT_UM, mpp)) - 2)


def _grow_fill(planes: Pixels, flat: Mask, empty: Pixels | None, mpp: float) -> Mask:
    """Find artificial fill: `flat` areas of another colour than the background, and their rims."""
    fill = np.zeros(flat.shape, np.bool_)
    if empty is not None:
        flat = flat & ~_is_near(planes, empty, _BIN)
    packed = planes[:, flat].astype(np.int32)
    colours, counts = np.unique(packed[0] << 16 | packed[1] << 8 | packed[2], return_counts=True)
    for colour in colours[np.argsort(counts)[::-1][:_MAX_FILLS]].tolist():
        rgb = np.array([colour >> 16, colour >> 8 & 255, colour & 255], np.uint8)
        if _could_be_tissue(rgb, empty):
            same = flat & _is_near(planes, rgb, 0)
            rim = _widen(same, _FLAT_RIM_UM, mpp) & _is_near(planes, rgb, _FILL_RINGING)
            fill |= _keep_seeded(rim, same) | _widen(same, 2 * mpp, mpp)
    return fill


def _could_be_tissue(rgb: Pixels, empty: Pixels | None) -> bool:
    """Return whether a flat colour would count as tissue; background and shadows do not matter."""
    if empty is None:
        return bool(rgb.max() > 255 * _MAX_BLACK)
    od = _optical_density(rgb[:, None], empty)
    return bool(_stain_of(od)[0] > 0.5 * _OD_BOUNDS[0] or od.mean() > 0.5 * _GREY_BOUNDS[0])


def _cells(length_um: float, mpp: float) -> int:
    return max(1, round(length_um / mpp))


def _widen(mask: Mask, by_um: float, mpp: float) -> Mask:
    return _square_filter(mask, 2 * _cells(by_um, mpp) + 1, grow=True)


_MIN_FLAT_CELLS = 8
_NOISY_CELLS = 7  # side of a square without two equal cells, wider than an edge
_MAX_FILLS = 8  # colours
_FILL_RINGING = 12  # grey levels by which compression changes a fill beside something else


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


def _open_square(mask: Mask, side: int) -> Mask:
    """Binary opening by a square, separable: ten times as fast as SciPy's for large squares."""
    return _square_filter(_square_filter(mask, side, grow=False), side, grow=True)


def _square_filter(mask: Mask, side: int, *, grow: bool) -> Mask:
    """Dilate (or erode) by a square; beyond the picture it goes on as at its border."""
    function = ndimage.maximum_filter if grow else ndimage.minimum_filter
    # an even side is off the middle: the other way round when growing, so that opening stays put
    origin = 0 if side % 2 or grow else -1
    filtered = function(mask.view(np.uint8), size=side, mode="nearest", origin=origin)
    wide: Mask = filtered.view(np.bool_)
    return wide


def _is_near(planes: Pixels, colour: Pixels, levels: int) -> Mask:
    """Return which cells have a colour to `levels` grey levels in every channel."""
    near = np.ones(planes.shape[1:], np.bool_)
    for plane, level in zip(planes, colour.astype(int), strict=True):
        near &= (plane >= max(0, level - levels)) & (plane <= min(255, level + levels))
    return near


def _choose_white(empty: Pixels | None, planes: Pixels, saturated: Mask) -> Pixels:
    """Choose the reference of optical density; white or a common grey without a background."""
    if empty is not None:
        return empty
    white = saturated & (planes[0] > 0)
    return np.full(3, 255 if white.mean() > 0.005 else 240, np.uint8)


def _looks_fluorescent(planes: Pixels, valid: Mask) -> bool:
    """Return whether a picture without a bright background shows fluorescence.

    It does if it is dim or has much green: stained tissue transmits more red or blue than green.
    """
    lit = planes[:, valid & (planes.max(axis=0) > 24)].astype(np.int16)
    if not lit.size:
        return bool(valid.any())
    green = lit[1] > np.maximum(lit[0], lit[2]) + 5
    return bool(np.median(lit.max(axis=0)) < 128 or green.mean() > 0.05)


def _sampled(cells: Mask) -> tuple[slice, slice]:
    """Return the slices of an even subset of about `_SAMPLE` cells."""
    step = slice(None, None, max(1, round(math.sqrt(cells.size / _SAMPLE))))
    return step, step


# -- tissue ----------------------------------------------------------------------------------------


def _optical_density(levels: Pixels, white: Pixels) -> Field:
    """Compute -log10 of the transmitted light, (3, ...), 0 = background; never below 0."""
    known = np.maximum(np.arange(256, dtype=np.float32), 1)
    od = np.empty(levels.shape, np.float32)
    for plane, full, out in zip(levels, white, od, strict=True):
        np.take(np.log10(np.maximum(full, 1) / known).clip(0), plane, out=out, mode="clip")
    return od


def _strips(planes: Pixels, white: Pixels) -> Iterator[tuple[slice, Field]]:
    """Yield some rows at a time and their optical density (3, n, cols).

    That of the whole picture would be the largest array here and would not fit the CPU cache.
    """
    for top in range(0, planes.shape[1], _STRIP):
        rows = slice(top, top + _STRIP)
        yield rows, _optical_density(planes[:, rows], white)


def _stain(planes: Pixels, white: Pixels) -> Field:
    """Compute what distinguishes stain from a grey shadow: colour, or opacity; (rows, cols)."""
    stain = np.empty(planes.shape[1:], np.float32)
    for rows, od in _strips(planes, white):
        stain[rows] = _stain_of(od)
    return stain


def _stain_of(od: Field) -> Field:
    dark = od.mean(axis=0)
    chroma = od.max(axis=0) - od.min(axis=0)
    stain: Field = np.maximum(chroma - _GREY * dark, dark - _OPAQUE)
    return np.maximum(stain, 0, out=stain)


def _darkness(planes: Pixels, white: Pixels) -> Field:
    """Compute the mean optical density, (rows, cols): all that a grey slide shows of stain."""
    darkness = np.empty(planes.shape[1:], np.float32)
    for rows, od in _strips(planes, white):
        darkness[rows] = od.mean(axis=0)
    return darkness


def _emission(planes: Pixels, valid: Mask) -> Field:
    """Compute the brightest channel above the darkest cells, (rows, cols), 1 = full scale."""
    light: Field = planes.max(axis=0).astype(np.float32)
    light /= 255
    light -= min(float(np.percentile(light[valid], 5)), _MAX_BLACK)
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
    sampled = _sampled(valid)
    quiet = smooth[sampled][valid[sampled] & (smooth[sampled] < high)]
    limit = low
    if quiet.size:
        centre = float(np.median(quiet))
        spread = 1.4826 * float(np.median(np.abs(quiet - centre)))
        limit = min(max(centre + _NOISE_SIGMAS * spread, low), high)
    limit /= params.sensitivity
    return _keep_seeded(smooth > limit, smooth > _SEED_FACTOR * limit) & valid


def _keep_seeded(weak: Mask, strong: Mask) -> Mask:
    """Keep the pieces of `weak` that contain a cell of `strong` (hysteresis)."""
    labels, count = ndimage.label(weak)
    keep = np.zeros(count + 1, np.bool_)
    keep[labels[strong & weak]] = True
    return _pick(labels, keep)


def _clean_up(mask: Mask, mpp: float, params: TissueParams) -> Mask:
    """Close clefts, remove specks and fill small holes, all by physical size.

    A ring of background around the picture prevents a gap at its edge from counting as a hole.
    """
    size = max(1, round(_CLOSE_UM / mpp))
    closed = ndimage.binary_closing(np.pad(mask, size, mode="edge"), _disk(size))
    cell = mpp * mpp
    labels, count = ndimage.label(closed[size:-size, size:-size])
    large = _areas(labels, count) > int(params.min_area_um2 / cell)
    large[0] = False
    pieces = _pick(labels, large)
    labels, count = ndimage.label(np.pad(~pieces, 1, constant_values=True))
    hole = _areas(labels, count) * cell <= params.max_hole_um2
    hole[[0, labels[0, 0]]] = False
    return pieces | _pick(labels[1:-1, 1:-1], hole)


def _areas(labels: Labels, count: int) -> NDArray[np.int64]:
    """Count the cells of each label, (count + 1,); in strips, as NumPy converts them to int64."""
    areas = np.zeros(count + 1, np.int64)
    for top in range(0, len(labels), _STRIP):
        areas += np.bincount(labels[top : top + _STRIP].ravel(), minlength=count + 1)
    return areas


def _pick(labels: Labels, wanted: Mask) -> Mask:
    """Return the cells whose label is wanted; in strips for the same reason."""
    picked = np.empty(labels.shape, np.bool_)
    for top in range(0, len(labels), _STRIP):
        picked[top : top + _STRIP] = wanted[labels[top : top + _STRIP]]
    return picked


def _disk(radius: int) -> Mask:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk: Mask = x * x + y * y <= radius * radius
    return disk


# -- marker pen ------------------------------------------------------------------------------------


def _find_pen(planes: Pixels, white: Pixels, valid: Mask, mpp: float) -> Mask:
    """Find strokes of a felt-tip pen: wide, dense, and of an ink's colour.

    Light and dark variants of an ink share their colours with stains (methyl blue and ponceau of
    Masson, light green, Alcian blue); of them a stroke is also smooth: one layer of one dye, out of
    focus, while stained tissue has nuclei and fibres of more than one colour. The faded part of a
    stroke touches its dense part and absorbs in the same proportion.
    """
    pen = np.zeros(valid.shape, np.bool_)
    square = np.ones((_cells(_PEN_WIDTH_UM, mpp),) * 2, np.bool_)
    inks = np.zeros((len(_SMOOTHNESS), *valid.shape), np.bool_)
    for rows, od in _strips(planes, white):
        dense = valid[rows] & (od.max(axis=0) > 0.22)
        inks[:, rows][:, dense] = _ink_colours(*od[:, dense])
    for core, limits in zip(inks, _SMOOTHNESS, strict=True):
        if core.sum() * mpp * mpp < _MIN_PEN_AREA_UM2:
            continue
        smooth = core if limits is None else core & _find_smooth(planes, white, mpp, limits)
        dense, core = core, ndimage.binary_opening(smooth, square)
        if core.sum() * mpp * mpp >= _MIN_PEN_AREA_UM2:
            ink = _optical_density(planes[:, core], white).mean(axis=1)
            similar = core.copy()
            for rows, od in _strips(planes, white):
                norm = np.sqrt((od * od).sum(axis=0))
                faded = (norm > 0.06) | (_stain_of(od) > _OD_BOUNDS[0])
                along = np.tensordot(ink / np.linalg.norm(ink), od, 1)
                similar[rows] |= faded & (along > 0.98 * norm)
            pen |= _keep_strokes(valid & similar, core, dense, smooth)
    if pen.any():
        pen = ndimage.binary_dilation(pen, _disk(_cells(_PEN_RIM_UM, mpp)))
    return pen


def _keep_strokes(similar: Mask, core: Mask, dense: Mask, smooth: Mask) -> Mask:
    """Keep the pieces of one hue that have a core and are smooth in most of their dense part.

    A smooth lake of mucin or collagen is not taken for ink, nor is the tissue around it.
    """
    labels, count = ndimage.label(similar)
    keep = _areas(labels * smooth, count) >= _MIN_SMOOTH * _areas(labels * dense, count)
    seeded = np.zeros(count + 1, np.bool_)
    seeded[labels[core & similar]] = True
    return _pick(labels, keep & seeded)


def _find_smooth(planes: Pixels, white: Pixels, mpp: float, limits: tuple[float, float]) -> Mask:
    """Find the cells within squares of one density and one hue.

    Parameters
    ----------
    limits : largest SD of the optical density relative to its mean, and of its direction (radians)
    """
    side = max(3, _cells(_SMOOTH_INK_UM, mpp) // 2 * 2 + 1)
    margin = side // 2
    height = planes.shape[1]
    smooth = np.zeros(planes.shape[1:], np.bool_)
    for top in range(0, height, _STRIP):
        low, high = max(0, top - margin), min(height, top + _STRIP + margin)
        od = _optical_density(planes[:, low:high], white).astype(np.float64)
        norm = np.sqrt((od * od).sum(axis=0))
        mean = ndimage.uniform_filter(norm, side)
        spread = ndimage.uniform_filter(norm * norm, side) - mean * mean
        hues = od / np.maximum(norm, 1e-3)
        turned = 1 - sum(ndimage.uniform_filter(hue, side) ** 2 for hue in hues)
        even = (spread <= (limits[0] * mean) ** 2) & (turned <= limits[1] ** 2)
        rows = slice(top, min(height, top + _STRIP))
        smooth[rows] = even[top - low : rows.stop - low]
    return _square_filter(smooth, side, grow=True)  # all of a square, not only its middle


_MIN_SMOOTH = 0.5  # fraction of a stroke's dense part

_SMOOTHNESS: tuple[tuple[float, float] | None, ...] = (None,) * 4 + ((0.08, 0.014),) * 3
"""Limits of `_find_smooth` for each ink; measured: ink 0.04 and 0.006, tissue 0.15 and 0.03.

Pure inks have none, since a translucent stroke over tissue shows the tissue's texture; dense light
green (Goldner) is therefore taken for blue ink.
"""


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
