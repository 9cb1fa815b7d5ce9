"""Slides and heatmaps as napari layer tuples, registered in micrometres; see `Lattice`."""

from __future__ import annotations

from typing import Any

from napari.components import LayerList
from napari.layers import Image, Layer

from milpath.errors import ResolutionError
from milpath.figures.heatmap import Heatmap, PatchScores
from milpath.formats.prediction import Prediction, check_same_slide
from milpath.slides.lattice import LEVEL_0, Lattice
from napari_milpath.heatmap_image import HeatmapImage, build_heatmap_image, build_unplaced_image
from napari_milpath.pyramid import Pyramid

LayerData = tuple[Any, dict[str, Any], str]
Mpp = tuple[float, float]

KEY = "milpath"
"""Key of a layer's metadata for the `Pyramid` or `Prediction` that it displays."""


def slide_layer(pyramid: Pyramid) -> LayerData:
    """Build a slide's layer; in pixels if the slide has no µm per pixel."""
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
    """Return (x, y) µm per level-0 pixel; None if the slide's is missing or wrong."""
    try:
        return pyramid.slide.mpp
    except ResolutionError:
        return None


def heatmap_layer(prediction: Prediction, heatmap: Heatmap, name: str, mpp: Mpp) -> LayerData:
    """Build a heatmap's layer, one pixel per cell, registered to the slide."""
    return _image_layer(prediction, build_heatmap_image(heatmap), heatmap.lattice, name, mpp)


def unplaced_layer(prediction: Prediction, scores: PatchScores, name: str, mpp: Mpp) -> LayerData:
    """Build the empty layer of a prediction of patches at unknown places."""
    return _image_layer(prediction, build_unplaced_image(scores), LEVEL_0, name, mpp)


def _image_layer(
    prediction: Prediction, image: HeatmapImage, lattice: Lattice, name: str, mpp: Mpp
) -> LayerData:
    return (
        image.values,
        {
            "name": name,
            "rgb": False,
            "interpolation2d": "nearest",
            "blending": "translucent",
            "contrast_limits": image.limits,
            "colormap": image.colormap,
            "metadata": {KEY: prediction},
            **frame(mpp, lattice),
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


def update_layer(layer: Image, image: HeatmapImage) -> None:
    """Set a layer's values, limits and colormap, but only those that changed."""
    if image.values is not layer.data:
        layer.data = image.values
    if tuple(layer.contrast_limits) != image.limits:
        layer.contrast_limits_range = image.limits
        layer.contrast_limits = image.limits
    if layer.colormap != image.colormap:
        layer.colormap = image.colormap


def keep_slides_below(layers: LayerList) -> None:
    """From now on, move each slide that is added below the predictions; repeated calls are fine."""
    layers.events.inserted.connect(_lower_slide, position="last")  # once napari draws it


def _lower_slide(event: Any) -> None:
    layers, layer = event.source, event.value
    above = [index for index, each in enumerate(layers) if prediction_of(each) is not None]
    if pyramid_of(layer) is not None and above and above[0] < layers.index(layer):
        layers.move(layers.index(layer), above[0])


def pyramid_of(layer: Layer) -> Pyramid | None:
    """Return the slide that a layer displays, if any."""
    found = layer.metadata.get(KEY)
    return found if isinstance(found, Pyramid) else None


def prediction_of(layer: Layer) -> Prediction | None:
    """Return the prediction that a layer displays, if any."""
    found = layer.metadata.get(KEY)
    return found if isinstance(found, Prediction) else None


def require_same_slide(pyramid: Pyramid, prediction: Prediction) -> None:
    """Raise `SlideMismatchError` if a prediction was made from a different slide."""
    remedy = "open the matching slide, or use milpath view --force"
    check_same_slide(prediction, pyramid, pyramid.slide.name, remedy)
