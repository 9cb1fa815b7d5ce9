"""Colour map: the colours of a heatmap's values, their transparency and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from milpath.figures.heatmap import Heatmap
from milpath.figures.score import Scale

if TYPE_CHECKING:  # takes 0.2 seconds: imported when the first heatmap is drawn
    from matplotlib.colors import ListedColormap, Normalize


ColourScale: TypeAlias = "tuple[Normalize, ListedColormap]"
"""The normalisation of values to 0..1, and the RGBA colours of equal parts of it."""


def colour_scale(heatmap: Heatmap, palette: str | None = None) -> ColourScale:
    """Map values to colours: the weaker, the more transparent, so that tissue stays visible.

    The limits of the relative scales do not depend on the slide (attention: 0.1 to 10 times the
    mean, logarithmic; contributions: at least ± 1 logit), so that uniform attention looks uniform.

    Parameters
    ----------
    heatmap : its values, scale and sign choose the limits
    palette : name of a matplotlib colour map; by default viridis, and RdBu_r for signed values

    Returns
    -------
    The normalisation of values to 0..1, and 256 RGBA colours.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    position = np.linspace(0, 1, 256)
    colours = colormaps[palette or ("RdBu_r" if heatmap.signed else "viridis")](position)
    colours[:, 3] = 0.15 + 0.6 * (np.abs(2 * position - 1) if heatmap.signed else position)
    if is_logarithmic(heatmap):
        return LogNorm(0.1, 10.0, clip=True), ListedColormap(colours)
    top = _upper_limit(heatmap)
    return Normalize(-top if heatmap.signed else 0.0, top, clip=True), ListedColormap(colours)


def is_logarithmic(heatmap: Heatmap) -> bool:
    """Whether the colours follow the logarithm of the values: relative attention alone."""
    return heatmap.scale == Scale.relative and not heatmap.signed


def _upper_limit(heatmap: Heatmap) -> float:
    if heatmap.scale == Scale.percentile:
        return 100.0
    size = np.abs(heatmap.values)
    if not np.isfinite(size).any():
        return 1.0
    if heatmap.scale == Scale.relative:
        return max(1.0, float(np.nanpercentile(size, 99)))
    return float(np.nan_to_num(size).max()) or 1.0
