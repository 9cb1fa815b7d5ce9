"""Picture: fibres, stain and background over the canvas, as RGB composed in optical density.

Concentrations of haematoxylin and eosin add up; colour is background x exp(-concentration x
stain), as in a microscope (Beer-Lambert), so that overlaps and thin edges look as they do on real
slides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from milpath.synthetic.anatomy import Anatomy, Field, Frame, enlarge, smooth_noise
from milpath.synthetic.artefacts import Veil, spoil
from milpath.synthetic.cells import Canvas, place_cells, soft_step

HAEMATOXYLIN = (0.62, 0.70, 0.36)
EOSIN = (0.14, 0.89, 0.42)
"""Optical density of the stains in red, green, blue, before each slide's own variation."""

BAND_PX = 128
"""Rows stained and developed at once: temporary arrays that fit the cache take half the time."""


def paint(
    cells: np.random.Generator,
    ink: np.random.Generator,
    frame: Frame,
    anatomy: Anatomy,
    *,
    artefacts: bool,
) -> NDArray[np.uint8]:
    """Return the slide as RGB [row, col, channel]; `cells` places cells, `ink` colours them."""
    canvas = place_cells(cells, frame, anatomy)
    # Children, so that artefacts on or off leave stain and background as they are.
    staining, spoiling, developing = ink.spawn(3)
    haematoxylin, eosin = _concentrations(staining, frame, canvas)
    veils = spoil(spoiling, frame, (haematoxylin, eosin)) if artefacts else []
    return _develop(developing, frame, (haematoxylin, eosin), veils)


def _fibres(rng: np.random.Generator, frame: Frame) -> Field:
    """Return wavy, fibre-like noise of deviation about 1: stretched noise on bent coordinates."""
    from scipy import ndimage

    step = max(1, int(2 / frame.mpp)) * frame.mpp
    shape = (
        int(np.ceil(frame.height * frame.mpp / step)),
        int(np.ceil(frame.width * frame.mpp / step)),
    )
    y, x = np.ogrid[0 : shape[0], 0 : shape[1]]
    bend = [60 * smooth_noise(rng, shape, 220 / step) for _ in range(2)]
    x, y = x * np.float32(step) + bend[0], y * np.float32(step) + bend[1]
    angle = rng.uniform(0, np.pi)
    u = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) / np.float32(28)
    v = (y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))) / np.float32(3.5)
    noise = rng.standard_normal((256, 256), dtype=np.float32)
    strands = ndimage.map_coordinates(noise, [v, u], order=1, mode="grid-wrap")
    return enlarge((strands / np.float32(0.7)).astype(np.float32), frame.shape)


def _bands(frame: Frame) -> list[slice]:
    return [slice(top, top + BAND_PX) for top in range(0, frame.height, BAND_PX)]


def _concentrations(rng: np.random.Generator, frame: Frame, canvas: Canvas) -> tuple[Field, Field]:
    """Return haematoxylin and eosin, with this slide's own staining strengths."""
    # Laboratories differ more than a tumour shifts a slide's mean colour: mean colour is no label.
    strength_h, strength_e = np.exp(rng.uniform(-0.45, 0.4, 2)).astype(np.float32)
    fibres = _fibres(rng, frame)
    mottle = smooth_noise(rng, frame.shape, 90 / frame.mpp)
    haematoxylin, eosin = np.empty_like(fibres), np.empty_like(fibres)
    for rows in _bands(frame):
        part = canvas.rows(rows)
        grain = 1 + np.float32(0.16) * rng.standard_normal(part.tissue.shape, dtype=np.float32)
        body = part.tissue * (1 - part.hole) * grain
        eosin[rows] = strength_e * body * _eosin(part, fibres[rows], mottle[rows])
        cytoplasm = np.float32(0.04) + np.float32(0.09) * part.gland
        cytoplasm = np.maximum(cytoplasm, np.float32(0.12) * part.tumour)
        nucleus = part.nucleus * part.tissue * grain
        haematoxylin[rows] = strength_h * np.maximum(cytoplasm * body, nucleus)
    return haematoxylin, eosin


def _eosin(part: Canvas, fibres: Field, mottle: Field) -> Field:
    """Return the eosin of stroma, with its fibres and clefts, and of cytoplasm."""
    clefts = 1 - np.float32(0.75) * soft_step(-fibres - np.float32(1.75), 0.5)
    stroma = (1 + np.float32(0.24) * fibres + np.float32(0.12) * mottle).clip(0.2, 2) * clefts
    stroma *= np.float32(0.52) * (1 - np.maximum(part.gland, part.tumour))
    cytoplasm = np.maximum(np.float32(0.4) * part.gland, np.float32(0.42) * part.tumour)
    eosin: Field = np.maximum(stroma, cytoplasm)
    # A nucleus takes the room of half the eosin under it.
    eosin *= 1 - np.float32(0.5) * part.nucleus.clip(0, 1)
    return eosin


def _develop(
    rng: np.random.Generator, frame: Frame, stains: tuple[Field, Field], veils: list[Veil]
) -> NDArray[np.uint8]:
    """Return RGB: off-white, faintly shaded background seen through the stains."""
    shade = enlarge(rng.normal(0, 0.008, (3, 3)).astype(np.float32), frame.shape)
    background = rng.uniform(0.93, 0.97) + rng.normal(0, 0.006, 3)
    colours = [np.array(s) + rng.normal(0, 0.045, 3) for s in (HAEMATOXYLIN, EOSIN)]
    colour_h, colour_e = (c / np.linalg.norm(c) for c in colours)
    layers = [(stains[0], 1.5 * colour_h), (stains[1], colour_e), *veils]
    rgb = np.empty((*frame.shape, 3), np.uint8)
    for rows in _bands(frame):
        noise = np.float32(0.006) * rng.standard_normal(shade[rows].shape, dtype=np.float32)
        for channel in range(3):
            light = shade[rows] + noise
            for layer, colour in layers:
                light -= layer[rows] * np.float32(colour[channel])
            np.exp(light, out=light)
            light *= np.float32(255 * background[channel])
            rgb[rows, :, channel] = (light + np.float32(0.5)).clip(0, 255)
    return rgb
