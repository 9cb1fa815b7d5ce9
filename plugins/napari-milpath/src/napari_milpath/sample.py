"""Sample: a drawn slide with a planted tumour, and what a model said of it.

The prediction is `results/slide-051.prediction.h5` of `milpath demo` with seed 0: a slide that the
model had not seen. The slide is drawn anew, since it would be a hundred times the size.
"""

from __future__ import annotations

import atexit
import tempfile
from dataclasses import replace
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from milpath.formats.prediction import read_prediction
from milpath.synthetic import draw_slide
from napari_milpath.layers import KEY, LayerData
from napari_milpath.reader import read_attention, read_slide

_NUMBER = 51


def open_sample() -> list[LayerData]:
    """The slide and its attention as layers."""
    slide = read_slide(_draw())
    with as_file(files("napari_milpath") / "sample.prediction.h5") as file:
        prediction = read_prediction(file)
    # another release of the JPEG library may have written the same picture in other bytes
    facts = slide[1]["metadata"][KEY].slide.facts
    return [slide, read_attention(replace(prediction, slide=facts))]


@cache
def _draw() -> Path:
    """The slide's file, in a folder that lives as long as napari."""
    folder = tempfile.TemporaryDirectory(prefix="milpath-sample-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / f"slide-{_NUMBER:03d}.tif"
    return draw_slide(path, seed=_NUMBER, tumour=True).path
