"""Background: the colour of the empty slide, or its absence."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from milpath.slides.tissue.masks import Mask, sample_cells
from milpath.slides.tissue.stain import Pixels

MIN_NEUTRAL = 0.7  # minimum ratio of the darkest to the brightest channel of a real background
_FLAT = 4  # grey levels between neighbours; background is flatter than any tissue
BIN = 8  # grey levels of a bin of the colour histogram
_SATURATED = 253  # white from this level up
_MAX_DIM = 64  # of fluorescence between its cells
MAX_BLACK = 0.2  # greatest level of a dark background: camera offset and autofluorescence


def find_saturated(planes: Pixels) -> Mask:
    """Find areas of white or black, 3 x 3 cells or more: not scanned, or out of range."""
    flat: Mask = (planes.min(axis=0) >= _SATURATED) | (planes.max(axis=0) == 0)
    if not flat.any():
        return flat
    saturated: Mask = ndimage.binary_opening(flat, np.ones((3, 3), np.bool_))
    return saturated


def measure_background(planes: Pixels, valid: Mask, fill: Mask) -> Pixels | None:
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
    sampled = sample_cells(flat)
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
    shape = (256 // BIN,) * 3
    bins = np.ravel_multi_index(tuple(colours // BIN), shape)
    counts = np.bincount(bins, minlength=math.prod(shape))
    frequent = np.flatnonzero(counts > max(0.1 * np.max(counts), 0.005 * counted))
    if not frequent.size:
        return None, np.zeros(colours.shape[1], np.bool_)
    centres = np.stack(np.unravel_index(frequent, shape), axis=1) * BIN + BIN // 2
    brightest = centres[np.argmax(centres.sum(axis=1))]
    near = (np.abs(colours.astype(np.int16) - brightest[:, None]) <= BIN).all(axis=0)
    return np.median(colours[:, near], axis=1).astype(np.uint8), near


def _is_neutral(colour: Pixels, ratio: float = 0.82) -> bool:
    return bool(np.max(colour) >= 180 and np.min(colour) >= ratio * np.max(colour))


def is_grey(planes: Pixels) -> bool:
    """Return whether all cells are grey to a level; a camera's colours are never that equal."""
    first = planes[0].astype(np.int16)
    return all(bool((np.abs(plane - first) <= 1).all()) for plane in planes[1:])


def choose_white(empty: Pixels | None, planes: Pixels, saturated: Mask) -> Pixels:
    """Choose the reference of optical density; white or a common grey without a background."""
    if empty is not None:
        return empty
    white = saturated & (planes[0] > 0)
    return np.full(3, 255 if white.mean() > 0.005 else 240, np.uint8)


def looks_fluorescent(planes: Pixels, valid: Mask) -> bool:
    """Return whether a picture without a bright background shows fluorescence.

    It does if it is dim or has much green: stained tissue transmits more red or blue than green.
    """
    lit = planes[:, valid & (planes.max(axis=0) > 24)].astype(np.int16)
    if not lit.size:
        return bool(valid.any())
    green = lit[1] > np.maximum(lit[0], lit[2]) + 5
    return bool(np.median(lit.max(axis=0)) < 128 or green.mean() > 0.05)
