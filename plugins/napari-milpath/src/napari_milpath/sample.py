"""Sample data: a synthetic slide with a tumour, and a model's prediction of it.

The prediction is `results/slide-051.prediction.h5` of `milpath demo` with seed 0, a slide of its
test set. The slide's file would be a hundred times larger, so it is generated when it is opened.
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
    """Return the slide and its attention as layers."""
    slide = read_slide(_write_slide())
    with as_file(files("napari_milpath") / "sample.prediction.h5") as file:
        prediction = read_prediction(file)
    # another JPEG library may encode the same slide to other bytes, hence another quickhash
    facts = slide[1]["metadata"][KEY].slide.facts
    return [slide, read_attention(replace(prediction, slide=facts))]


@cache
def _write_slide() -> Path:
    """Write the slide to a folder that is deleted when napari exits."""
    folder = tempfile.TemporaryDirectory(prefix="milpath-sample-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / f"slide-{_NUMBER:03d}.tif"
    return draw_slide(path, seed=_NUMBER, tumour=True).path
