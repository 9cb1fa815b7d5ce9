"""A million patches and a slide of 65,536 px cost as little work as their display needs.

The work is counted: tiles read, Python instructions executed, bytes held at once. Times are
measured by `scripts/bench_viewer.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from conftest import lattice
from napari.components import ViewerModel
from napari.layers import Layer
from support.counting import count_bytecodes, peak_bytes
from support.viewing import make_prediction

from milpath.formats.prediction import Prediction
from milpath.slides.slide import Slide
from napari_milpath.inspection import Inspection
from napari_milpath.layers import slide_layer
from napari_milpath.pyramid import Pyramid
from napari_milpath.reader import read_attention


def inspect(prediction: Prediction) -> Inspection:
    viewer = ViewerModel()
    viewer.add_layer(Layer.create(*read_attention(prediction)))
    return Inspection(viewer)


def hover_over(inspection: Inspection) -> Callable[[], str]:
    def hover() -> str:
        return inspection.describe_patch(inspection.patch_at((70.0, 120.0)))

    hover()  # its percentiles are computed once
    return hover


def test_a_large_slide_opens_without_reading_its_fine_levels(large_slide: Path) -> None:
    with Slide(large_slide) as slide:
        pyramid = Pyramid(slide)
        viewer = ViewerModel()
        viewer.add_layer(Layer.create(*slide_layer(pyramid)))
        assert pyramid.reads[:3] == [0, 0, 0]
        assert pyramid.reads[3] <= 4  # tiles of 768 px: the whole of a level of 1024


def test_hovering_over_a_million_patches_costs_as_much_as_over_a_hundred(
    million: Prediction,
) -> None:
    many, few = hover_over(inspect(million)), hover_over(inspect(make_prediction(10)))
    assert many().startswith("patch 1002 ")
    assert count_bytecodes(many) == count_bytecodes(few)
    assert peak_bytes(many) < 50_000


def test_moving_the_threshold_keeps_and_copies_no_array_of_the_patches(million: Prediction) -> None:
    inspection = inspect(million)
    assert inspection.layer is not None
    values, scores = inspection.layer.data, inspection.scores
    assert peak_bytes(lambda: inspection.show(threshold=0.5)) < values.nbytes / 10
    assert count_bytecodes(lambda: inspection.show(threshold=0.7)) < len(million.grid) / 10
    assert inspection.layer.data is values
    assert inspection.scores is scores


def test_a_palette_keeps_the_values_of_the_layer(million: Prediction) -> None:
    inspection = inspect(million)
    assert inspection.layer is not None
    values = inspection.layer.data
    inspection.show(palette="magma")
    assert inspection.layer.data is values


def test_a_layer_of_a_million_patches_is_built_without_a_loop_over_them(
    million: Prediction,
) -> None:
    dense = replace(million, grid=lattice(1000, 1000, 100, 25))  # each overlaps 48 others
    read_attention(million)  # what it imports is not counted
    for prediction in (million, dense):
        assert count_bytecodes(lambda each=prediction: read_attention(each)) < len(dense.grid) / 10
    apart, overlapping = (
        peak_bytes(lambda each=prediction: read_attention(each)) for prediction in (million, dense)
    )
    assert overlapping < 3 * apart
