"""Values, limits and colormap by which napari draws a heatmap, the same as in milpath's pictures.

Weaker scores are more transparent, and the limits of the relative scales do not depend on the
slide. napari has no logarithmic scale: where the pictures use one, it gets logarithms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from napari.utils.colormaps import Colormap
from numpy.typing import NDArray

from milpath.figures.colormap import colour_scale, is_logarithmic
from milpath.figures.heatmap import Heatmap

PALETTES = ("viridis", "cividis", "magma", "inferno", "RdBu_r", "PuOr_r", "turbo")
"""Palettes to choose from; all but the last are perceptually uniform."""

_MIN_SCORE = 1e-6  # an attention of exactly 0 has no logarithm


@dataclass(frozen=True)
class HeatmapImage:
    """A heatmap in napari's terms.

    Attributes
    ----------
    values : float32 array (rows, cols), NaN where there is no patch
    limits : values at the two ends of the colormap
    rgba : float64 array (n, 4), the palette with its transparency
    colormap : `rgba` with the colours below the threshold transparent
    label : what the values are
    signed : whether the scores lie on both sides of 0
    logarithmic : whether `values` and `limits` are decimal logarithms of scores
    """

    values: NDArray[np.float32]
    limits: tuple[float, float]
    rgba: NDArray[np.float64]
    colormap: Colormap
    label: str
    signed: bool
    logarithmic: bool

    def position(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map scores to positions on the colormap, 0 to 1."""
        low, high = self.limits
        values = _log10(scores) if self.logarithmic else scores
        positions: NDArray[np.float64] = ((values - low) / (high - low)).clip(0, 1)
        return positions

    def score(self, position: float) -> float:
        """Map a position on the colormap, 0 to 1, to a score."""
        low, high = self.limits
        value = low + position * (high - low)
        return float(10**value) if self.logarithmic else value


def build_heatmap_image(
    heatmap: Heatmap, palette: str | None = None, threshold: float = 0.0
) -> HeatmapImage:
    """Convert a heatmap to napari's terms.

    Parameters
    ----------
    heatmap : scores on a raster
    palette : see `colour_scale`
    threshold : see `set_threshold`
    """
    norm, colours = colour_scale(heatmap, palette)
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 1.0)
    logarithmic = is_logarithmic(heatmap)
    values = _log10(heatmap.values) if logarithmic else heatmap.values
    label = heatmap.label
    if logarithmic:
        low, high = float(np.log10(low)), float(np.log10(high))
        label = f"log10 of {label}"
    rgba = np.asarray(colours(np.arange(colours.N)))
    return HeatmapImage(
        values=values.astype(np.float32),
        limits=(low, high),
        rgba=rgba,
        colormap=_build_colormap(rgba, heatmap.signed, threshold),
        label=label,
        signed=heatmap.signed,
        logarithmic=logarithmic,
    )


def set_threshold(image: HeatmapImage, threshold: float) -> HeatmapImage:
    """Hide weaker scores by the colormap alone; the values stay the same array.

    Parameters
    ----------
    image : any threshold it has is replaced
    threshold : fraction of the colour scale below which nothing is drawn, 0 to 1; for signed
        scores, of each half of the scale, counted from 0
    """
    return replace(image, colormap=_build_colormap(image.rgba, image.signed, threshold))


def _log10(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    logarithms: NDArray[np.float64] = np.log10(np.maximum(scores, _MIN_SCORE))
    return logarithms


def _build_colormap(rgba: NDArray[np.float64], signed: bool, threshold: float) -> Colormap:
    """Make equal bands of the colours (n, 4), transparent below the threshold."""
    count = len(rgba)
    position = (np.arange(count) + 0.5) / count
    strength = np.abs(2 * position - 1) if signed else position
    colours = rgba.copy()
    colours[strength < threshold, 3] = 0.0
    return Colormap(
        colours,
        name="milpath",
        interpolation="zero",
        controls=np.linspace(0, 1, count + 1),
        nan_color=(0.0, 0.0, 0.0, 0.0),
    )
