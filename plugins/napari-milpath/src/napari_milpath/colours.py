"""Colours: a heatmap as the numbers, limits and colour map that napari draws it by.

They are those of milpath's pictures, so that the viewer and a PNG show the same thing: the weaker,
the more transparent, on scales that do not follow the slide. Where a picture's scale is
logarithmic, napari, which knows no such thing, is given logarithms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from napari.utils.colormaps import Colormap
from numpy.typing import NDArray

from milpath.figures.heatmap import Heatmap
from milpath.figures.overlay import colour_scale

PALETTES = ("viridis", "cividis", "magma", "inferno", "RdBu_r", "PuOr_r", "turbo")
"""What is offered; all but the last are perceptually even."""

_MIN = 1e-6  # an attention of exactly 0 has no logarithm


@dataclass(frozen=True)
class Shown:
    """A heatmap in napari's terms.

    Attributes
    ----------
    values : float32 array (rows, cols), NaN where there is no patch
    limits : what the two ends of the colour map stand for
    colormap : with its transparency, and the threshold cut out of it
    label : what the numbers are
    logarithmic : whether `values` and `limits` are decimal logarithms
    """

    values: NDArray[np.float32]
    limits: tuple[float, float]
    colormap: Colormap
    label: str
    logarithmic: bool

    def place(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where on the colour map scores lie, 0 to 1."""
        low, high = self.limits
        shown = _logarithm(values) if self.logarithmic else values
        share: NDArray[np.float64] = ((shown - low) / (high - low)).clip(0, 1)
        return share

    def score(self, place: float) -> float:
        """The score at a place on the colour map."""
        low, high = self.limits
        value = low + place * (high - low)
        return float(10**value) if self.logarithmic else value


def show_heatmap(heatmap: Heatmap, palette: str | None = None, threshold: float = 0.0) -> Shown:
    """A heatmap in napari's terms.

    Parameters
    ----------
    heatmap : what is to be drawn
    palette : see `milpath.figures.heatmap.colour_scale`
    threshold : scores weaker than this are not drawn: a share of the colour scale, 0 to 1; of
        either arm of a signed one, from its middle
    """
    norm, colours = colour_scale(heatmap, palette)
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 1.0)
    logarithmic = heatmap.scale == "relative" and not heatmap.signed
    values = _logarithm(heatmap.values) if logarithmic else heatmap.values
    label = heatmap.label
    if logarithmic:
        low, high = float(np.log10(low)), float(np.log10(high))
        label = f"log10 of {label}"
    rgba = np.asarray(colours(np.arange(colours.N)))
    return Shown(
        values=values.astype(np.float32),
        limits=(low, high),
        colormap=_cut(rgba, heatmap.signed, threshold),
        label=label,
        logarithmic=logarithmic,
    )


def _logarithm(values: NDArray[np.float64]) -> NDArray[np.float64]:
    logarithms: NDArray[np.float64] = np.log10(np.maximum(values, _MIN))
    return logarithms


def _cut(rgba: NDArray[np.float64], signed: bool, threshold: float) -> Colormap:
    """The colours (n, 4) as bands, those weaker than the threshold transparent."""
    count = len(rgba)
    place = (np.arange(count) + 0.5) / count
    strength = np.abs(2 * place - 1) if signed else place
    cut = rgba.copy()
    cut[strength < threshold, 3] = 0.0
    return Colormap(
        cut,
        name="milpath",
        interpolation="zero",
        controls=np.linspace(0, 1, count + 1),
        nan_color=(0.0, 0.0, 0.0, 0.0),
    )
