"""Tissue as a napari layer of polygons that the user can edit."""

from __future__ import annotations

import numpy as np
from napari.layers import Layer

from milpath.params import TissueParams
from milpath.slides.annotation import Polygon, nest_rings, trace_tissue
from milpath.slides.frame import Point
from milpath.slides.lattice import LEVEL_0
from milpath.slides.slide import Slide
from milpath.slides.thumbnail import read_thumbnail
from milpath.slides.tissue import segment_tissue
from napari_milpath.layers import KEY, LayerData, Mpp, frame

NAME = "tissue"
_CORNER = "corner"
_COLOUR = "#00a878"
_WIDTH = 1 / 250  # of the edges, as a fraction of the largest polygon's extent


def find_tissue(slide: Slide) -> list[Polygon]:
    """Find tissue as `milpath tile` does; with a file handle of its own, for another thread.

    Raises
    ------
    SlideError : the slide has no resolution or cannot be read
    """
    params = TissueParams()
    with slide.reopen() as own:
        thumbnail = read_thumbnail(own, params.thumbnail_mpp)
    return trace_tissue(segment_tissue(thumbnail, params))


def tissue_layer(polygons: list[Polygon], mpp: Mpp, corner: Point = (0, 0)) -> LayerData:
    """Build an editable layer of polygons; a ring inside another is a hole.

    Parameters
    ----------
    polygons : level-0 pixels of the whole canvas
    mpp : (x, y) µm per pixel of the slide
    corner : (x, y) of the slide's bounds, where QuPath begins to count
    """
    rings = [ring for polygon in polygons for ring in (polygon.ring, *polygon.holes)]
    corners = [LEVEL_0.to_index(ring) for ring in rings]
    reach = max((float(np.ptp(ring, axis=0).max()) for ring in rings), default=1000.0)
    return (
        corners,
        {
            "name": NAME,
            "shape_type": "polygon",
            "edge_color": _COLOUR,
            "edge_width": max(1.0, reach * _WIDTH),
            "face_color": "transparent",
            "metadata": {KEY: NAME, _CORNER: corner},
            **frame(mpp),
        },
        "shapes",
    )


def annotation_of(layer: Layer) -> list[Polygon]:
    """Return the current polygons of a layer of `tissue_layer`, level-0 pixels."""
    return nest_rings([LEVEL_0.from_index(ring) for ring in layer.data])


def corner_of(layer: Layer) -> Point:
    """Return the corner that a layer of `tissue_layer` was built with."""
    corner: Point = layer.metadata[_CORNER]
    return corner


def is_tissue(layer: Layer) -> bool:
    """Tell whether a layer was built by `tissue_layer`."""
    return bool(layer.metadata.get(KEY) == NAME)
