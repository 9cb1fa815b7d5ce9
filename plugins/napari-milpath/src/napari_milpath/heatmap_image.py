"""Values, limits and colormap by which napari draws a heatmap, the same as in milpath's pictures.

Weaker scores are more transparent, and the limits of the relative scales do not depend on the
slide. napari has no logarithmic scale: where the pictures use one, its colormap has bands of
unequal width. So everything that napari displays is in the unit of the scores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from napari.utils.colormaps import Colormap
from numpy.typing import NDArray

from milpath.figures.colormap import ColourScale, colour_scale, is_logarithmic
from milpath.figures.heatmap import Heatmap, PatchScores
from milpath.slides.lattice import LEVEL_0

if TYPE_CHECKING:
    from napari.layers import Image

Floats = NDArray[np.float64]
Palette: TypeAlias = str | Colormap | None

PALETTES = ("viridis", "cividis", "magma", "inferno", "RdBu_r", "PuOr_r", "turbo")
"""Palettes to choose from; all but the last are perceptually uniform."""

NAME = "milpath"
"""Name of the colormaps that are built here; any other was chosen in napari."""

EMPTY = np.full((1, 1), np.nan, np.float32)
"""Values of an image on which nothing is drawn."""

_COLOURS = 256
_DECADES = 1e3  # of a logarithmic scale, at most: its lower limit may be 0


@dataclass(frozen=True)
class HeatmapImage:
    """A heatmap in napari's terms.

    Attributes
    ----------
    values : float32 array (rows, cols), NaN where there is no patch
    limits : values at the two ends of the colormap
    rgba : float64 array (n, 4), the palette with its transparency
    label : what the values are
    signed : whether the scores lie on both sides of 0
    logarithmic : whether the colours follow the logarithm of the scores
    threshold : fraction of the colour scale below which nothing is drawn, 0 to 1; for signed
        scores, of each half of the scale, counted from 0
    gamma, opacity : of napari's layer
    """

    values: NDArray[np.float32]
    limits: tuple[float, float]
    rgba: Floats
    label: str
    signed: bool
    logarithmic: bool
    threshold: float = 0.0
    gamma: float = 1.0
    opacity: float = 1.0

    @cached_property
    def colormap(self) -> Colormap:
        """`rgba` over `limits`, transparent below the threshold."""
        return _build_colormap(self)

    @property
    def unit(self) -> str:
        """Sign after a score: × for multiples of the slide's mean."""
        return "×" if self.logarithmic else ""

    @property
    def ends(self) -> tuple[float, float]:
        """Scores at the two ends of the colour scale: `limits`, or where a logarithm begins."""
        low, high = self.limits
        return (max(low, high / _DECADES), high) if self.logarithmic else (low, high)

    def position(self, scores: Floats) -> Floats:
        """Map scores to positions on the colour scale, 0 to 1."""
        low, high = self.ends
        if self.logarithmic:
            scores, low, high = np.log(np.maximum(scores, low)), np.log(low), np.log(high)
        positions: Floats = ((scores - low) / (high - low)).clip(0, 1)
        return positions

    def score(self, position: float) -> float:
        """Map a position on the colour scale, 0 to 1, to a score."""
        low, high = self.ends
        if self.logarithmic:
            return float(low * (high / low) ** position)
        return low + position * (high - low)

    def colours(self, scores: Floats) -> Floats:
        """Return the colours in which napari draws scores (N,): RGBA (N, 4); NaN has none."""
        low, high = self.limits
        fraction = np.nan_to_num((scores - low) / (high - low)).clip(0, 1) ** self.gamma
        found: Floats = np.asarray(self.colormap.map(fraction), np.float64).copy()
        found[:, 3] *= self.opacity * np.isfinite(scores)
        return found

    @cached_property
    def scale_colours(self) -> Floats:
        """The displayed colours of equal parts of the colour scale, (256, 4)."""
        middles = (np.arange(_COLOURS) + 0.5) / _COLOURS
        return self.colours(np.array([self.score(each) for each in middles.tolist()]))

    def to_scale(self) -> ColourScale:
        """Return the displayed colours as milpath's pictures take them."""
        from matplotlib.colors import ListedColormap, LogNorm, Normalize

        norm = (LogNorm if self.logarithmic else Normalize)(*self.ends, clip=True)
        return norm, ListedColormap(self.scale_colours)


def build_heatmap_image(
    heatmap: Heatmap, palette: Palette = None, threshold: float = 0.0
) -> HeatmapImage:
    """Convert a heatmap to napari's terms.

    Parameters
    ----------
    heatmap : scores on a raster
    palette : see `colour_scale`; or a colormap of napari, taken as it is
    threshold : see `HeatmapImage`
    """
    norm, colours = colour_scale(heatmap, None if isinstance(palette, Colormap) else palette)
    rgba = np.asarray(colours(np.arange(colours.N)))
    if isinstance(palette, Colormap):
        rgba = np.asarray(palette.map((np.arange(_COLOURS) + 0.5) / _COLOURS), np.float64)
    return HeatmapImage(
        values=heatmap.values.astype(np.float32),
        limits=(float(norm.vmin or 0.0), float(norm.vmax or 1.0)),
        rgba=rgba,
        label=heatmap.label,
        signed=heatmap.signed,
        logarithmic=is_logarithmic(heatmap),
        threshold=threshold,
    )


def build_unplaced_image(
    scores: PatchScores, palette: Palette = None, threshold: float = 0.0
) -> HeatmapImage:
    """Build the image of patches at unknown places: colours, and one empty cell."""
    row = Heatmap(scores.values[None], LEVEL_0, scores.label, scores.signed, scores.scale)
    return replace(build_heatmap_image(row, palette, threshold), values=EMPTY)


def follow_layer(image: HeatmapImage, layer: Image) -> HeatmapImage:
    """Take over what napari's own controls of a layer set: limits, gamma and opacity."""
    low, high = (float(each) for each in layer.contrast_limits)
    possible = low < high and (high > 0 or not image.logarithmic)
    limits = (low, high) if possible else image.limits
    return replace(image, limits=limits, gamma=layer.gamma, opacity=layer.opacity)


def _build_colormap(image: HeatmapImage) -> Colormap:
    """Make bands of the colours, equal on the colour scale, transparent below the threshold."""
    count = len(image.rgba)
    position = (np.arange(count) + 0.5) / count
    strength = np.abs(2 * position - 1) if image.signed else position
    colours = image.rgba.copy()
    colours[strength < image.threshold, 3] = 0.0
    edges = np.linspace(0, 1, count + 1)
    if image.logarithmic:
        low, high = image.limits
        edges = (np.array([image.score(each) for each in edges.tolist()]) - low) / (high - low)
        edges[0], edges[-1] = 0.0, 1.0
    return Colormap(
        colours,
        name=NAME,
        interpolation="zero",
        controls=edges,
        nan_color=(0.0, 0.0, 0.0, 0.0),
    )
