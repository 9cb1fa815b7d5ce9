"""Artefacts: pen, fold, blur, bubble and dust, as slides of both classes have them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from milpath.synthetic.anatomy import Field, Frame, enlarge

PENS = ((1.6, 0.9, 0.15), (1.5, 0.35, 1.1), (1.3, 1.25, 1.2))
"""Optical density of blue, green and black ink in red, green, blue."""

COARSE_PX = 320
"""Longer side of the coarse grid on which the distance to a stroke is measured."""

Veil = tuple[Field, NDArray[np.float64]]
"""A layer over the tissue: its strength [row, col] 0 to 1 and its optical density (R, G, B)."""


def spoil(rng: np.random.Generator, frame: Frame, stains: tuple[Field, Field]) -> list[Veil]:
    """Fold and blur the `stains` in place and return the other layers on the slide."""
    fold, blur, pen, bubble = rng.random(4) < (0.4, 0.4, 0.4, 0.3)
    short = min(frame.width, frame.height)
    # Each stage has its own child: whether one occurs must not change the others.
    folding, blurring, marking, dusting = rng.spawn(4)
    if fold:
        band = _stroke(folding, frame, 0.016 * short, 0.3)
        thicker = 1 + np.float32(folding.uniform(0.8, 1.2)) * band
        for stain in stains:
            np.multiply(stain, thicker, out=stain)
    if blur:
        _defocus(blurring, frame, stains)
    veils: list[Veil] = []
    if pen:
        ink = np.array(PENS[marking.integers(len(PENS))]) * marking.uniform(0.6, 1.0)
        veils.append((_stroke(marking, frame, marking.uniform(0.014, 0.024) * short, 0.6), ink))
    veils.append((_dust(dusting, frame, bubble=bool(bubble)), np.array([0.75, 0.8, 0.85])))
    return veils


def _stroke(rng: np.random.Generator, frame: Frame, half_px: float, reach: float) -> Field:
    """Return a bent band, 1 inside and 0 outside, level-0 px [row, col].

    The band is `half_px` to either side of its middle and about `reach` of the longer side long.
    """
    from scipy.spatial import cKDTree

    long = max(frame.width, frame.height)
    step = long / COARSE_PX
    middle = rng.uniform(0.25, 0.75, 2) * (frame.width, frame.height)
    turn = rng.uniform(0, 2 * np.pi)
    t = np.linspace(-1, 1, 160)[:, None]
    along = np.array([np.cos(turn), np.sin(turn)])
    bend = rng.uniform(-0.35, 0.35) * t**2 + 0.05 * np.sin(5 * t + turn)
    path = middle + reach * long / 2 * (t * along + bend * along[::-1] * (-1, 1))
    rows, cols = round(frame.height / step), round(frame.width / step)
    y, x = np.mgrid[0:rows, 0:cols] + 0.5
    points = np.stack([x.ravel() * frame.width / cols, y.ravel() * frame.height / rows], axis=1)
    bound = half_px + 4 * step
    distance, _ = cKDTree(path).query(points, distance_upper_bound=bound)
    distance = np.minimum(distance, bound).astype(np.float32).reshape(rows, cols)
    inside = np.float32(half_px) - enlarge(distance, frame.shape)
    return (inside * np.float32(0.35) + np.float32(0.5)).clip(0, 1)


def _defocus(rng: np.random.Generator, frame: Frame, stains: tuple[Field, Field]) -> None:
    """Blur a soft-edged disc of the `stains`, 2 to 4 µm wide, in place."""
    from scipy import ndimage

    radius = rng.uniform(0.10, 0.18) * min(frame.width, frame.height)
    sigma = rng.uniform(2.0, 4.0) / frame.mpp
    col, row = rng.uniform(0.25, 0.75, 2) * (frame.width, frame.height)
    window = _window(frame, col, row, radius)
    y, x = np.ogrid[window]
    far = np.hypot(x - np.float32(col), y - np.float32(row)) / np.float32(radius)
    weight = ((1 - far) * 5).clip(0, 1).astype(np.float32)
    for stain in stains:
        sharp = stain[window]
        sharp += weight * (ndimage.gaussian_filter(sharp, sigma, truncate=2.5) - sharp)


def _dust(rng: np.random.Generator, frame: Frame, *, bubble: bool) -> Field:
    """Return specks of dust and perhaps the dark rim of an air bubble, level-0 px [row, col]."""
    veil = np.zeros(frame.shape, np.float32)
    short = min(frame.width, frame.height)
    spots = [(rng.uniform(3, 9) / frame.mpp, False) for _ in range(int(rng.integers(1, 7)))]
    if bubble:
        spots.append((rng.uniform(0.05, 0.1) * short, True))
    for radius, hollow in spots:
        col, row = rng.uniform(0.05, 0.95, 2) * (frame.width, frame.height)
        window = _window(frame, col, row, radius * 1.2 + 2)
        y, x = np.ogrid[window]
        r = np.hypot(x - np.float32(col), y - np.float32(row)) / np.float32(radius)
        # A speck is a blob, a bubble's rim a bell around its radius.
        shape = np.exp(-(((r - 0.96) / 0.025) ** 2)) if hollow else (1.6 - 1.6 * r).clip(0, 1)
        np.maximum(veil[window], shape.astype(np.float32), out=veil[window])
    return veil


def _window(frame: Frame, col: float, row: float, reach: float) -> tuple[slice, slice]:
    """Return the slices [row, col] of the square of +-`reach` px, cut at the slide's edge."""
    return (
        slice(max(0, int(row - reach)), min(frame.height, int(row + reach))),
        slice(max(0, int(col - reach)), min(frame.width, int(col + reach))),
    )
