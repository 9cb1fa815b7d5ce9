"""A million patches and a slide of 65,536 px are looked at without waiting.

Reads are counted; what is timed is processor time, so that what else runs does not count. The clock
is read too by `scripts/bench_viewer.py`, whose own functions these are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench_viewer import LIMITS, time_hover, time_one
from conftest import lattice
from napari.components import ViewerModel
from napari.layers import Layer

from milpath.formats.prediction import Prediction
from milpath.slides.slide import Slide
from napari_milpath.inspection import Inspection
from napari_milpath.layers import slide_layer
from napari_milpath.pyramid import Pyramid
from napari_milpath.reader import read_attention


def test_a_huge_slide_opens_without_reading_its_largest_level(huge: Path) -> None:
    with Slide(huge) as slide:
        pyramid = Pyramid(slide)
        viewer = ViewerModel()
        viewer.add_layer(Layer.create(*slide_layer(pyramid)))
        assert pyramid.reads[:3] == [0, 0, 0]
        assert pyramid.reads[3] <= 4  # tiles of 768 px: the whole of a level of 1024


def test_hovering_over_a_million_patches_takes_under_a_millisecond(million: Prediction) -> None:
    viewer = ViewerModel()
    viewer.add_layer(Layer.create(*read_attention(million)))
    inspection = Inspection(viewer)
    assert inspection.say_patch(inspection.patch_at((70.0, 120.0))).startswith("patch 1002 ")
    assert min(time_hover(inspection, 3).cpu) < LIMITS["hover"]


def test_a_dense_grid_of_overlapping_patches_is_no_slower(million: Prediction) -> None:
    dense = replace(million, grid=lattice(1000, 1000, 100, 25))
    assert min(time_one(lambda: read_attention(dense), 1).cpu) < 3.0
