"""Layers: slides and heatmaps as napari's layer tuples, registered in micrometres."""

from __future__ import annotations

from typing import Any

from napari.layers import Image, Layer

from milpath.errors import ResolutionError, UsageError
from milpath.figures.heatmap import Heatmap
from milpath.formats.prediction import Prediction
from milpath.slides.lattice import LEVEL_0, Lattice
from napari_milpath.colours import Shown, show_heatmap
from napari_milpath.pyramid import Pyramid

LayerData = tuple[Any, dict[str, Any], str]
Mpp = tuple[float, float]

KEY = "milpath"
"""Where in a layer's metadata that is kept which it shows: a `Pyramid` or a `Prediction`."""


class ForeignPredictionError(UsageError):
    """A prediction was made of another slide than the one it would lie over."""

    def __init__(self, fact: str) -> None:
        self.fact = fact
        super().__init__(f"{fact}; open the right one, or force it with milpath view --force")


def slide_layer(pyramid: Pyramid) -> LayerData:
    """The slide itself; in pixels where it does not say its µm per pixel."""
    return (
        pyramid.levels,
        {
            "name": pyramid.slide.slide_id,
            "multiscale": True,
            "rgb": True,
            "metadata": {KEY: pyramid},
            **frame(mpp_of(pyramid)),
        },
        "image",
    )


def mpp_of(pyramid: Pyramid) -> Mpp | None:
    """(x, y) µm per pixel; None where the slide does not say it, or says it wrong."""
    try:
        return pyramid.slide.mpp
    except ResolutionError:
        return None


def heatmap_layer(prediction: Prediction, heatmap: Heatmap, name: str, mpp: Mpp) -> LayerData:
    """A prediction's heatmap, one pixel a cell, exactly over the slide."""
    shown = show_heatmap(heatmap)
    return (
        shown.values,
        {
            "name": name,
            "rgb": False,
            "interpolation2d": "nearest",
            "blending": "translucent",
            "contrast_limits": shown.limits,
            "colormap": shown.colormap,
            "metadata": {KEY: prediction},
            **frame(mpp, heatmap.lattice),
        },
        "image",
    )


def frame(mpp: Mpp | None, lattice: Lattice = LEVEL_0) -> dict[str, Any]:
    """`scale`, `translate` and `units` of an array of cells on the slide, in (y, x).

    Parameters
    ----------
    mpp : (x, y) µm per pixel at level 0; None keeps pixels
    lattice : where the cells lie; the pixels of level 0 by default
    """
    unit = "pixel" if mpp is None else "um"
    scale, translate = lattice.napari_transform(mpp)
    return {
        "scale": scale,
        "translate": translate,
        "units": (unit, unit),
        "axis_labels": ("y", "x"),
    }


def restyle(layer: Image, shown: Shown) -> None:
    """Give a layer other numbers, limits and colours, but only those that differ."""
    if shown.values is not layer.data:
        layer.data = shown.values
    if tuple(layer.contrast_limits) != shown.limits:
        layer.contrast_limits_range = shown.limits
        layer.contrast_limits = shown.limits
    if layer.colormap != shown.colormap:
        layer.colormap = shown.colormap


def pyramid_of(layer: Layer) -> Pyramid | None:
    """The slide that a layer shows, if it shows one."""
    found = layer.metadata.get(KEY)
    return found if isinstance(found, Pyramid) else None


def prediction_of(layer: Layer) -> Prediction | None:
    """The prediction that a layer shows, if it shows one."""
    found = layer.metadata.get(KEY)
    return found if isinstance(found, Prediction) else None


def require_same_slide(pyramid: Pyramid, prediction: Prediction) -> None:
    """Raise `ForeignPredictionError` when a prediction was made of another slide."""
    if pyramid.quickhash != prediction.slide.quickhash:
        raise ForeignPredictionError(
            f"the prediction of {prediction.slide.slide_id} was made of another slide than "
            f"{pyramid.slide.name} (their contents differ)"
        )
