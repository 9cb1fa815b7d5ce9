"""Stain as optical density: what absorbs or colours the light.

Optical density (Beer and Lambert) makes stain amounts additive [1]_ and cancels the colour and the
brightness of the illumination.

.. [1] A. C. Ruifrok, D. A. Johnston, "Quantification of histochemical staining by color
       deconvolution", Anal. Quant. Cytol. Histol. 23 (2001).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from milpath.slides.tissue.masks import STRIP

Field = NDArray[np.float32]
Pixels = NDArray[np.uint8]
OD_BOUNDS = (0.012, 0.025)  # limits of the threshold for any noise: pale tissue has 0.04
GREY_BOUNDS = (0.012, 0.04)  # the same for a grey slide, where all that is dark is tissue
_GREY = 0.15  # chroma over darkness; shadows, dust and carbon have less, every stain has more
_OPAQUE = 0.25  # optical density above which even grey is tissue: a fold, a tattoo, ink on a margin


def optical_density(levels: Pixels, white: Pixels) -> Field:
    """Compute -log10 of the transmitted light, (3, ...), 0 = background; never below 0."""
    known = np.maximum(np.arange(256, dtype=np.float32), 1)
    od = np.empty(levels.shape, np.float32)
    for plane, full, out in zip(levels, white, od, strict=True):
        np.take(np.log10(np.maximum(full, 1) / known).clip(0), plane, out=out, mode="clip")
    return od


def density_strips(planes: Pixels, white: Pixels) -> Iterator[tuple[slice, Field]]:
    """Yield some rows at a time and their optical density (3, n, cols).

    That of the whole picture would be the largest array here and would not fit the CPU cache.
    """
    for top in range(0, planes.shape[1], STRIP):
        rows = slice(top, top + STRIP)
        yield rows, optical_density(planes[:, rows], white)


def measure_stain(planes: Pixels, white: Pixels) -> Field:
    """Compute what distinguishes stain from a grey shadow: colour, or opacity; (rows, cols)."""
    stain = np.empty(planes.shape[1:], np.float32)
    for rows, od in density_strips(planes, white):
        stain[rows] = stain_of(od)
    return stain


def stain_of(od: Field) -> Field:
    """Compute the stain of optical densities (3, ...); see `measure_stain`."""
    dark = od.mean(axis=0)
    chroma = od.max(axis=0) - od.min(axis=0)
    stain: Field = np.maximum(chroma - _GREY * dark, dark - _OPAQUE)
    return np.maximum(stain, 0, out=stain)


def measure_darkness(planes: Pixels, white: Pixels) -> Field:
    """Compute the mean optical density, (rows, cols): all that a grey slide shows of stain."""
    darkness = np.empty(planes.shape[1:], np.float32)
    for rows, od in density_strips(planes, white):
        darkness[rows] = od.mean(axis=0)
    return darkness
