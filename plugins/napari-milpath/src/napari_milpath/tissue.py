"""Tissue: its annotation as shapes that can be seen and changed."""

from __future__ import annotations

import numpy as np
from napari.layers import Layer

from milpath.params import TissueParams
from milpath.slides.annotation import Polygon, nest_rings, trace_tissue
from milpath.slides.lattice import LEVEL_0
from milpath.slides.slide import Slide
from milpath.slides.thumbnail import read_thumbnail
from milpath.slides.tissue import segment_tissue
from napari_milpath.layers import KEY, LayerData, Mpp, frame

NAME = "tissue"
_COLOUR = "#00a878"
_WIDTH = 1 / 250  # of the annotation's line, as a share of what it goes around


def find_tissue(slide: Slide) -> list[Polygon]:
    """What milpath takes for tissue; by a handle of its own, for another thread.

    Raises
    ------
    SlideError : the slide does not say its resolution, or cannot be read
    """
    params = TissueParams()
    with slide.reopen() as own:
        thumbnail = read_thumbnail(own, params.thumbnail_mpp)
    return trace_tissue(segment_tissue(thumbnail, params))


def tissue_layer(annotation: list[Polygon], mpp: Mpp) -> LayerData:
    """An annotation as polygons to be changed; a ring inside another is a hole."""
    rings = [ring for polygon in annotation for ring in (polygon.ring, *polygon.holes)]
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
            "metadata": {KEY: NAME},
            **frame(mpp),
        },
        "shapes",
    )


def outline_of(layer: Layer) -> list[Polygon]:
    """The polygons that a layer of `tissue_layer` holds now."""
    return nest_rings([LEVEL_0.from_index(ring) for ring in layer.data])


def is_tissue(layer: Layer) -> bool:
    """Whether a layer is one of `tissue_layer`."""
    return bool(layer.metadata.get(KEY) == NAME)
