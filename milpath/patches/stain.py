"""Stain normalisation: the colours of an H&E slide, brought to those of one reference.

A `Normaliser` is fitted once per slide and applied to each of its patches, so that the result does
not depend on their order. Densities are relative to the slide's own background, whose colour
stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

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

REFERENCE_MEAN = (8.65, -0.082, 0.041)
REFERENCE_SD = (0.461, 0.067, 0.0183)
"""Of l, alpha, beta: what 74 colon images (CRCHistoPhenotypes) have after Macenko normalisation, as
a median. So both methods have one reference; values of whole pictures, background included, would
be those of no tissue."""

_TISSUE_DENSITY = 0.15  # the paper's beta: mean density from which a pixel counts as tissue
_PALE_DENSITY = 0.07  # mean density up to which a pixel is background: 238 of 255
_MARGIN = 0.03  # sum of densities by which tissue stays above background: rounding is less
_EXTREME = 1.0  # percentile of the angles that the stains are taken from
_MAXIMUM = 99.0  # percentile of the concentrations
_MIN_EXPONENT = np.float32(-3.2 / np.log(2))  # of 2, a density of 3.2: grey levels lose the colour
_FAR = 0.1  # the same, at which there is none
_SETTLED = 0.002  # deviation from the reference, in its SD, at which a fit is done
_PASSES = 20  # at most, of the search for the pixels that are tissue once they are normalised
_BLOCK = 1 << 14  # pixels at a time: what they need stays in the processor's cache

_MIN_COLOUR = 0.15  # spread of the mean density over the channels, of a slide with colour
_MIN_ANGLE = 12.0  # degrees between two stains: colon has 17 or more, one stain and noise up to 10
_MAX_BLUE = 0.1  # of a stain, more than green; DAB has 0.2

_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])


@dataclass(frozen=True)
class MacenkoNormaliser:
    """Two stains, each unmixed and shown in the reference's colour and strength [1]_.

    A pixel's density is shown as the nearest mixture of both stains, none of them negative, and no
    channel gets a density above 3.2 (10 of 255), below which grey levels hold no colour.

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
        return _apply_blocks(self._apply_planes, pixels)

    def _apply_planes(self, planes: Pixels) -> Pixels:
        unmix, offset, show, scale = self._tables
        mixed = unmix @ _take_logs(planes.astype(np.float32))
        mixed += offset
        alone = np.where(mixed[1::-1] > 0, mixed[3:], mixed[:2])  # where the other were negative
        np.minimum(alone, 0, out=mixed[:2])
        shown = show @ mixed[:2]
        darkest = shown.min(axis=0)
        if darkest.min() < _MIN_EXPONENT:
            shown *= _MIN_EXPONENT / np.minimum(darkest, _MIN_EXPONENT)
        np.exp2(shown, out=shown)  # faster than exp
        shown *= scale
        shown -= np.float32(0.5)  # 1 less, and rounded by what follows
        return np.where(mixed[2] > _PALE_DENSITY, shown.astype(np.uint8), planes)

    @cached_property
    def _tables(self) -> tuple[Floats, ...]:
        """Logarithms to amounts (5, 3) and (5, 1), these to densities (3, 2), white + 1 (3, 1).

        Amounts are minus both concentrations, the mean density, and minus either stain alone.
        """
        white = np.array(self.white)[:, None] + 1.0
        ratio = np.divide(REFERENCE_MAXIMA, self.maxima)[:, None]
        unmix = np.linalg.pinv(np.array(self.stains).T) * ratio
        both = np.vstack([unmix, np.full(3, -1 / 3), np.array(self.stains) * ratio])
        show = np.array(REFERENCE_STAINS).T / np.log(2)
        return _as_floats(both, -both @ np.log(white), show, white)


@dataclass(frozen=True)
class ReinhardNormaliser:
    """Mean and standard deviation of l, alpha and beta, brought to those of the reference [1]_.

    The colour space is Ruderman's, of natural logarithms. Pale tissue is blended with what it was,
    the more the paler, and none becomes background.

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
        return _apply_blocks(self._apply_planes, pixels)

    def _apply_planes(self, planes: Pixels) -> Pixels:
        lms, turn, shift, rgb, white = self._tables
        cones = _take_logs(lms @ planes.astype(np.float32))
        share = _share_new((white - cones.sum(axis=0)) / 3)
        cones = turn @ cones
        cones += shift
        excess = cones.sum(axis=0) - (white - np.float32(3 * _PALE_DENSITY + _MARGIN))
        cones -= np.maximum(excess, 0) / 3  # tissue stays tissue
        np.exp(cones, out=cones)
        cones -= 1
        shown = rgb @ cones
        np.clip(shown, 0, 255, out=shown)
        shown -= planes
        shown *= share
        shown += planes
        shown += np.float32(0.5)  # rounds
        return shown.astype(np.uint8)

    @cached_property
    def _tables(self) -> tuple[Floats, ...]:
        """LMS of RGB (3, 3), logarithms to new ones (3, 3) and (3, 1), RGB of LMS, white (1,)."""
        ratio = np.divide(REFERENCE_SD, self.sd)
        back = np.linalg.inv(_LAB)
        shift = back @ (np.array(REFERENCE_MEAN) - ratio * np.array(self.mean))
        turn = back @ np.diag(ratio) @ _LAB
        white = _measure_cones(np.array(self.white)).sum()
        return _as_floats(_LMS, turn, shift[:, None], np.linalg.inv(_LMS), white)


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
    if method not in _FITS:
        raise ValueError(f"no method {method!r}; expected one of {', '.join(_FITS)}")
    _check_pixels(pixels)
    if pixels.ndim != 2:
        raise ValueError(f"pixels of shape {pixels.shape}; expected (n, 3)")
    return _FITS[method](pixels, white)


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


def _fit_macenko(pixels: Pixels, white: Colour) -> MacenkoNormaliser:
    densities = measure_density(pixels, white)
    tissue = _find_tissue(densities.mean(axis=1))
    for _ in range(_PASSES):
        found = _measure_stains(densities[tissue], white)
        shown = measure_density(found.apply(pixels), white)
        before, tissue = tissue, _find_tissue(shown.mean(axis=1))
        if np.array_equal(tissue, before):
            break
    return found


def _fit_reinhard(pixels: Pixels, white: Colour) -> ReinhardNormaliser:
    densities = measure_density(pixels, white)
    _find_stains(densities[_find_tissue(densities.mean(axis=1))])  # raises unless it is like H&E
    mean, sd = _measure_lab(pixels, white)
    for _ in range(_PASSES):
        found = ReinhardNormaliser(white, _as_triple(mean), _as_triple(sd))
        now, spread = _measure_lab(found.apply(pixels), white)
        off, wide = (now - REFERENCE_MEAN) / REFERENCE_SD, spread / REFERENCE_SD
        if max(np.abs(off).max(), np.abs(wide - 1).max()) < _SETTLED:
            break
        mean, sd = mean + off * sd, sd * wide
    else:
        if max(np.abs(off).max(), np.abs(wide - 1).max()) > _FAR:
            raise UnsupportedSlideError(
                "nearly all of its tissue is too pale for Reinhard's method; try macenko"
            )
    return found


_FITS: dict[str, Callable[[Pixels, Colour], Normaliser]] = {
    "macenko": _fit_macenko,
    "reinhard": _fit_reinhard,
}


def _find_tissue(density: Doubles, least: float = _TISSUE_DENSITY) -> NDArray[np.bool_]:
    tissue: NDArray[np.bool_] = density > least
    count = int(tissue.sum())
    if count < MIN_PIXELS:
        raise UnsupportedSlideError(
            f"only {count} of {len(density)} sampled pixels are stained, at least {MIN_PIXELS} are "
            "needed"
        )
    return tissue


def _measure_stains(density: Doubles, white: Colour) -> MacenkoNormaliser:
    stains = _find_stains(density)
    maxima = np.percentile(density @ np.linalg.pinv(stains), _MAXIMUM, axis=0)
    first, second = (_as_triple(row) for row in stains)
    return MacenkoNormaliser(white, (first, second), (float(maxima[0]), float(maxima[1])))


def _find_stains(density: Doubles) -> Doubles:
    """Find haematoxylin and eosin (2, 3): the extreme directions in the plane of all densities.

    Raises `UnsupportedSlideError` where they are not two stains, or not like H&E.
    """
    mean = density.mean(axis=0)
    if mean.max() - mean.min() < _MIN_COLOUR * mean.mean():
        raise UnsupportedSlideError("it has no colour; H&E is expected")
    plane = np.linalg.eigh(density.T @ density)[1][:, [2, 1]]
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
    along = density @ plane
    ends = np.percentile(np.arctan2(along[:, 1], along[:, 0]), [_EXTREME, 100 - _EXTREME])
    if np.degrees(ends[1] - ends[0]) < _MIN_ANGLE:
        raise UnsupportedSlideError("it shows one stain only; two, H&E, are expected")
    stains = np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane.T
    if (stains[:, 2] - stains[:, 1]).max() > _MAX_BLUE:
        raise UnsupportedSlideError(
            "one of its stains absorbs more blue than green, as DAB does; H&E is expected"
        )
    found: Doubles = stains[np.argsort(-stains[:, 0])]  # haematoxylin absorbs more red
    return found


def _measure_lab(pixels: Pixels, white: Colour) -> tuple[Doubles, Doubles]:
    """Return mean and standard deviation of l, alpha and beta of what is tissue, (3,) each."""
    cones = _measure_cones(pixels)
    density = _measure_cones(np.array(white)).mean() - cones.mean(axis=1)
    lab = cones[_find_tissue(density, _PALE_DENSITY)] @ _LAB.T
    return lab.mean(axis=0), lab.std(axis=0)


def _measure_cones(pixels: NDArray[np.generic]) -> Doubles:
    """Return the logarithms of L, M and S, (..., 3)."""
    cones: Doubles = np.log(pixels.astype(np.float64) @ _LMS.T + 1)
    return cones


def _as_triple(values: Doubles) -> Triple:
    one, two, three = (float(value) for value in values)
    return one, two, three


# -- applying ------------------------------------------------------------------------------------


def _check_pixels(pixels: Pixels) -> None:
    if pixels.dtype != np.uint8:
        raise TypeError(f"pixels of type {pixels.dtype}; expected uint8")
    if pixels.ndim < 1 or pixels.shape[-1] != 3:
        raise ValueError(f"pixels of shape {pixels.shape}; expected (..., 3)")


def _apply_blocks(apply: Callable[[Pixels], Pixels], pixels: Pixels) -> Pixels:
    """Apply to colour planes (3, n) of a few pixels at a time."""
    _check_pixels(pixels)
    flat = pixels.reshape(-1, 3)
    result = np.empty_like(flat, order="C")
    for start in range(0, len(flat), _BLOCK):
        part = slice(start, start + _BLOCK)
        result[part] = apply(np.ascontiguousarray(flat[part].T)).T
    return result.reshape(pixels.shape)


def _share_new(density: Floats) -> Floats:
    """Return the share of the new colours in a pixel of some mean density, 0 to 1."""
    share = (density - np.float32(_PALE_DENSITY)) / np.float32(_TISSUE_DENSITY - _PALE_DENSITY)
    return share.clip(0, 1)


def _take_logs(planes: Floats) -> Floats:
    """Replace levels by the natural logarithms of levels + 1, and return them."""
    planes += 1
    np.log(planes, out=planes)
    return planes


def _as_floats(*values: Doubles) -> tuple[Floats, ...]:
    return tuple(np.ascontiguousarray(value, np.float32) for value in values)
