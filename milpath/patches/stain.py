"""Stain normalisation: the colours of an H&E slide, brought to those of one reference.

A `Normaliser` is fitted once per slide and applied to each of its patches, so that the result does
not depend on their order. Densities are relative to the slide's own background, whose colour
stays.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter

from milpath.errors import UnsupportedSlideError

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Method = Literal["macenko", "reinhard"]
Triple = tuple[float, float, float]
Colour = tuple[int, int, int]

WHITE = (255, 255, 255)
"""Background of a slide that shows none."""

MIN_PIXELS = 1000
"""Fewest pixels of tissue that a normaliser is fitted to."""

REFERENCE_STAINS = ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))
"""Haematoxylin and eosin in density of red, green, blue, of the code of Macenko et al."""
REFERENCE_MAXIMA = (1.9705, 1.0308)
"""99th percentiles of the concentrations of both, of the same code."""

REFERENCE_MEAN = (8.74108109, -0.12440419, 0.0444982)
REFERENCE_SD = (0.6135447, 0.10989545, 0.0286032)
"""Of l, alpha, beta of tissue in TCGA-A2-A3XS-DX1 (Amgad et al. 2019), HistomicsTK's standard."""

_TISSUE_DENSITY = 0.15  # the paper's beta: mean density from which a pixel counts as tissue
_PALE_DENSITY = 0.07  # mean density up to which a pixel is background: 238 of 255
_EXTREME = 1.0  # percentile of the angles that the stains are taken from
_MAXIMUM = 99.0  # percentile of the concentrations
_PASSES = 5  # of the search for the pixels that are tissue once they are normalised
_BLOCK = 1 << 14  # pixels at a time: what they need stays in the processor's cache

_MIN_COLOUR = 0.15  # spread of the mean density over the channels, of a slide with colour
_MIN_ANGLE = 8.0  # degrees between the two stains

_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])


@dataclass(frozen=True)
class MacenkoNormaliser:
    """Two stains, each unmixed and shown in the reference's colour and strength [1]_.

    A pixel's density is projected onto the plane of both stains; a negative concentration is 0.

    Attributes
    ----------
    white : RGB of the slide's background
    stains : haematoxylin and eosin of the slide, unit vectors of density (natural logarithm)
    maxima : 99th percentiles of the concentrations of both

    .. [1] M. Macenko et al., "A method for normalizing histology slides for quantitative analysis",
           ISBI 2009, 1107-1110.
    """

    white: Colour
    stains: tuple[Triple, Triple]
    maxima: tuple[float, float]
    method: Literal["macenko"] = "macenko"

    def apply(self, pixels: Pixels) -> Pixels:
        """Return pixels (..., 3), uint8, in the colours of the reference; background as it is."""
        return _apply_blocks(self._apply_block, pixels)

    def _apply_block(self, pixels: Pixels) -> Pixels:
        unmix, offset, show, scale = self._tables
        logs = pixels.astype(np.float32)
        logs += 1
        np.log(logs, out=logs)
        mixed = logs @ unmix
        mixed += offset  # minus both concentrations, and the mean density
        np.minimum(mixed[:, :2], 0, out=mixed[:, :2])
        shown = mixed[:, :2] @ show
        np.exp(shown, out=shown)
        shown *= scale
        shown -= np.float32(0.5)  # 1 less, and rounded by what follows
        result = shown.astype(np.uint8)
        pale = mixed[:, 2] <= _PALE_DENSITY
        result[pale] = pixels[pale]
        return result

    @cached_property
    def _tables(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Logarithms to concentrations (3, 3) and (3,), these to densities (2, 3), white + 1."""
        ratio = np.divide(REFERENCE_MAXIMA, self.maxima)
        white = np.array(self.white) + 1.0
        unmix = np.linalg.pinv(np.array(self.stains)) * ratio
        both = np.column_stack([unmix, np.full(3, -1 / 3)])
        values = (both, -np.log(white) @ both, np.array(REFERENCE_STAINS), white)
        return cast(Any, tuple(np.ascontiguousarray(each, np.float32) for each in values))


@dataclass(frozen=True)
class ReinhardNormaliser:
    """Mean and standard deviation of l, alpha and beta, brought to those of the reference [1]_.

    The colour space is Ruderman's, of natural logarithms. Pale tissue is blended with what it was,
    the more the paler, so that there is no edge towards the background.

    Attributes
    ----------
    white : RGB of the slide's background
    mean, sd : of l, alpha and beta of the slide's tissue

    .. [1] E. Reinhard et al., "Color transfer between images", IEEE CG&A 21 (2001), 34-41.
    """

    white: Colour
    mean: Triple
    sd: Triple
    method: Literal["reinhard"] = "reinhard"

    def apply(self, pixels: Pixels) -> Pixels:
        """Return pixels (..., 3), uint8, in the colours of the reference; background as it is."""
        return _apply_blocks(self._apply_block, pixels)

    def _apply_block(self, pixels: Pixels) -> Pixels:
        turn, shift, to_lms, to_rgb, weights = self._tables
        cones = pixels.astype(np.float32) @ to_lms
        cones += 1
        np.log(cones, out=cones)
        cones = cones @ turn
        cones += shift
        np.exp(cones, out=cones)
        cones -= 1
        shown = cones @ to_rgb
        shown += np.float32(0.5)  # rounds
        np.clip(shown, 0, 255, out=shown)
        share = (weights[0].take(pixels[:, 0]) + weights[1].take(pixels[:, 1])) + weights[2].take(
            pixels[:, 2]
        )
        result = shown.astype(np.uint8)
        pale = np.flatnonzero(share < 1)
        if len(pale):
            old, keep = pixels[pale], np.maximum(share[pale], 0)[:, None]
            mixed = old + keep * (shown[pale] - np.float32(0.5) - old) + np.float32(0.5)
            result[pale] = mixed.astype(np.uint8)
        return result

    @cached_property
    def _tables(self) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """Matrix and shift of the logarithms, LMS of RGB and its inverse, weights of levels."""
        ratio = np.divide(REFERENCE_SD, self.sd)
        back = np.linalg.inv(_LAB)
        turn = back @ np.diag(ratio) @ _LAB
        shift = back @ (np.array(REFERENCE_MEAN) - ratio * np.array(self.mean))
        lms = _LMS
        levels = np.repeat(np.arange(256)[None], 3, axis=0)
        density = measure_density(levels.T.astype(np.uint8), self.white).T / 3
        weights = (density - _PALE_DENSITY / 3) / (_TISSUE_DENSITY - _PALE_DENSITY)
        values = (turn.T, shift, lms.T, np.linalg.inv(lms).T, weights)
        return cast(Any, tuple(np.ascontiguousarray(each, np.float32) for each in values))


Normaliser = MacenkoNormaliser | ReinhardNormaliser

_STORED: TypeAdapter[Normaliser] = TypeAdapter(
    Normaliser, config=ConfigDict(extra="forbid", allow_inf_nan=False)
)


def fit_normaliser(method: Method, pixels: Pixels, white: Colour = WHITE) -> Normaliser:
    """Fit a normaliser to a sample of a slide's pixels.

    What counts as tissue is decided on the normalised pixels: the fit is repeated until its result
    no longer changes that. So pale slides are treated as dark ones are, and a slide that was
    normalised already stays as it is.

    Parameters
    ----------
    method : "macenko" or "reinhard"
    pixels : (n, 3) uint8, mostly of tissue; background is left out here
    white : RGB of the slide's background

    Raises
    ------
    UnsupportedSlideError : too little tissue, no colour, or not stained with two stains like H&E
    ValueError, TypeError : not such pixels, or no such method
    """
    if method not in _MEASURES:
        raise ValueError(f"no method {method!r}; expected one of {', '.join(_MEASURES)}")
    _check_pixels(pixels)
    if pixels.ndim != 2:
        raise ValueError(f"pixels of shape {pixels.shape}; expected (n, 3)")
    measure, shown = _MEASURES[method], pixels
    before = np.zeros(len(pixels), np.bool_)
    for _ in range(_PASSES):
        tissue = measure_density(shown, white).mean(axis=1) > _TISSUE_DENSITY
        if np.array_equal(tissue, before):
            break
        found = measure(_require_tissue(pixels, tissue), white)
        shown, before = found.apply(pixels), tissue
    return found


def measure_density(pixels: Pixels, white: Colour) -> Doubles:
    """Return the optical density (..., 3) relative to a background, natural logarithm."""
    density: Doubles = np.log((np.array(white) + 1.0) / (pixels.astype(np.float64) + 1))
    return density


def write_normaliser(normaliser: Normaliser) -> str:
    """Write a normaliser as JSON."""
    return json.dumps(asdict(normaliser))


def read_normaliser(text: str) -> Normaliser:
    """Read what `write_normaliser` wrote; raises `ValueError`."""
    return _STORED.validate_json(text)


# -- fitting -------------------------------------------------------------------------------------


def _require_tissue(pixels: Pixels, tissue: NDArray[np.bool_]) -> Pixels:
    count = int(tissue.sum())
    if count < MIN_PIXELS:
        raise UnsupportedSlideError(
            f"only {count} of {len(pixels)} sampled pixels are stained, at least {MIN_PIXELS} are "
            "needed"
        )
    return pixels[tissue]


def _measure_macenko(tissue: Pixels, white: Colour) -> MacenkoNormaliser:
    density = measure_density(tissue, white)
    stains = _find_stains(density)
    maxima = np.percentile(density @ np.linalg.pinv(stains), _MAXIMUM, axis=0)
    if maxima.min() <= 0:
        raise UnsupportedSlideError("it shows one stain only, two (H&E) are expected")
    first, second = (_as_triple(row) for row in stains)
    return MacenkoNormaliser(white, (first, second), (float(maxima[0]), float(maxima[1])))


def _measure_reinhard(tissue: Pixels, white: Colour) -> ReinhardNormaliser:
    _find_stains(measure_density(tissue, white))
    lab = np.log(tissue.astype(np.float64) @ _LMS.T + 1) @ _LAB.T
    return ReinhardNormaliser(white, _as_triple(lab.mean(axis=0)), _as_triple(lab.std(axis=0)))


_MEASURES = {"macenko": _measure_macenko, "reinhard": _measure_reinhard}


def _find_stains(density: Doubles) -> Doubles:
    """Find haematoxylin and eosin (2, 3): the extreme directions in the plane of all densities.

    Raises `UnsupportedSlideError` where they are not two stains, or not like H&E.
    """
    mean = density.mean(axis=0)
    if mean.max() - mean.min() < _MIN_COLOUR * mean.mean():
        raise UnsupportedSlideError("it has no colour, H&E is expected")
    _, axes = np.linalg.eigh(np.cov(density, rowvar=False))
    plane = axes[:, [2, 1]] * np.where(axes[0, [2, 1]] < 0, -1, 1)
    along = density @ plane
    angles = np.arctan2(along[:, 1], along[:, 0])
    ends = np.percentile(angles, [_EXTREME, 100 - _EXTREME])
    if np.degrees(ends[1] - ends[0]) < _MIN_ANGLE:
        raise UnsupportedSlideError("it shows one stain only, two (H&E) are expected")
    stains = (plane @ np.stack([np.cos(ends), np.sin(ends)])).T
    stains *= np.where(stains.sum(axis=1) < 0, -1, 1)[:, None]
    found: Doubles = stains[np.argsort(-stains[:, 0])]  # haematoxylin absorbs more red
    return found


def _as_triple(values: Doubles) -> Triple:
    one, two, three = (float(value) for value in values)
    return one, two, three


# -- applying ------------------------------------------------------------------------------------


def _check_pixels(pixels: Pixels) -> None:
    if pixels.dtype != np.uint8:
        raise TypeError(f"pixels of type {pixels.dtype}; expected uint8")
    if pixels.ndim < 1 or pixels.shape[-1] != 3:
        raise ValueError(f"pixels of shape {pixels.shape}; expected (..., 3)")


def _apply_blocks(apply: Any, pixels: Pixels) -> Pixels:
    _check_pixels(pixels)
    flat = np.ascontiguousarray(pixels).reshape(-1, 3)
    result = np.empty_like(flat)
    for start in range(0, len(flat), _BLOCK):
        result[start : start + _BLOCK] = apply(flat[start : start + _BLOCK])
    return result.reshape(pixels.shape)
