"""A million patches and a slide of 65,536 px are looked at without waiting.

Reads are counted; what is timed is processor time, so that what else runs does not count.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from conftest import lattice, least_cpu_s
from napari.components import ViewerModel
from napari.layers import Layer

from milpath.prediction import Prediction
from milpath.slide import Slide
from napari_milpath.inspection import Inspection
from napari_milpath.layers import slide_layer
from napari_milpath.pyramid import Pyramid
from napari_milpath.reader import read_attention


def test_a_huge_slide_opens_without_reading_its_largest_level(huge: Path) -> None:
    with Slide(huge) as slide:
        pyramid = Pyramid(slide)
        viewer = ViewerModel()
        add = partial(viewer.add_layer, Layer.create(*slide_layer(pyramid)))
        assert least_cpu_s(add, 1) < 1.5
        assert pyramid.reads[:3] == [0, 0, 0]
        assert pyramid.reads[3] <= 4  # tiles of 768 px: the whole of a level of 1024


def test_a_million_patches_are_shown_and_thresholded_without_waiting(million: Prediction) -> None:
    viewer = ViewerModel()
    assert least_cpu_s(lambda: viewer.add_layer(Layer.create(*read_attention(million))), 2) < 1.5
    inspection = Inspection(viewer)
    places = iter(np.linspace(0.1, 0.9, 5))
    assert least_cpu_s(lambda: inspection.show(threshold=float(next(places)))) < 0.2
    assert viewer.layers[-1].data.shape == (1000, 1000)


def test_hovering_over_a_million_patches_takes_under_a_millisecond(million: Prediction) -> None:
    viewer = ViewerModel()
    viewer.add_layer(Layer.create(*read_attention(million)))
    inspection = Inspection(viewer)
    places = np.random.default_rng(5).uniform(0, 20_000, (300, 2))
    inspection.say_patch(inspection.patch_at(tuple(places[0])))  # what is kept is made once

    def hover() -> None:
        for place in places + 20:
            assert inspection.say_patch(inspection.patch_at(tuple(place)))

    assert least_cpu_s(hover) / len(places) < 1e-3


def test_a_dense_grid_of_overlapping_patches_is_no_slower(million: Prediction) -> None:
    dense = replace(million, grid=lattice(1000, 1000, 100, 25))
    assert least_cpu_s(lambda: read_attention(dense), 2) < 3.0
