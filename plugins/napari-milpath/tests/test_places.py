"""The viewer shows patches that lie anywhere or at unknown places, on unchecked slides."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import predict
from napari.components import ViewerModel
from napari.layers import Layer

from milpath.errors import UsageError
from milpath.formats.prediction import NOT_CHECKED, Prediction, write_prediction
from milpath.patches.grid import PatchGrid, free_grid, unplaced_grid
from milpath.slides.facts import unknown_slide
from milpath.slides.lattice import to_world
from napari_milpath.exporting import plan_export
from napari_milpath.inspection import FORCED, NOT_PLACED, Inspection
from napari_milpath.layers import KEY
from napari_milpath.panel import Panel
from napari_milpath.pyramid import Pyramid
from napari_milpath.reader import read_attention, read_files, read_slide
from napari_milpath.selection import PatchSelection, read_thumbnails

COORDS = np.array([[0, 0], [57, 31], [640, 500], [57, 31], [700, 501], [1450, 1050]])
"""Overlapping, repeated, off any lattice; the last reaches over the edge of the slide."""
FREE = free_grid(COORDS, 100, 100, 0.5)


def loose(
    grid: PatchGrid = FREE, slide_id: str = "noise-ü", size: tuple[int, int] | None = (1500, 1100)
) -> Prediction:
    return replace(predict(grid), slide=unknown_slide(slide_id, size, 0.5))


def show(slide_file: Path, prediction: Prediction) -> Inspection:
    viewer = ViewerModel()
    viewer.add_layer(Layer.create(*read_slide(slide_file)))
    viewer.add_layer(Layer.create(*read_attention(prediction)))
    return Inspection(viewer)


def close(inspection: Inspection) -> None:
    assert inspection.pyramid is not None
    inspection.pyramid.close()


def test_free_patches_are_drawn_and_found_where_they_are(slide_file: Path) -> None:
    assert FREE.places == "free"
    inspection = show(slide_file, loose())
    layer = inspection.layer
    assert layer is not None
    for row, corner in enumerate(COORDS.tolist()):
        centre = to_world(np.array(corner) + 50, (0.5, 0.5))
        assert np.isfinite(layer.get_value(centre.tolist(), world=True))
        found = inspection.patch_at(tuple(centre.tolist()))
        assert COORDS[found].tolist() == corner
        assert found <= row  # the first of those at the same place
    outside = to_world(np.array([300, 300]), (0.5, 0.5))
    assert inspection.patch_at(tuple(outside.tolist())) == -1
    assert np.isnan(layer.get_value(outside.tolist(), world=True))
    assert "at x 0.345 mm, y 0.275 mm" in inspection.describe_patch(2)
    inspection.go_to(4)
    assert inspection.patch == 4
    close(inspection)


def test_the_gallery_takes_free_patches_that_do_not_overlap_and_reads_those_over_the_edge(
    slide_file: Path,
) -> None:
    inspection = show(slide_file, loose())
    selection = PatchSelection(inspection)
    selection.select(10, weakest=False)
    chosen = COORDS[selection.rows]
    apart = np.abs(chosen[:, None] - chosen[None]).max(axis=-1) + 100 * np.eye(len(chosen))
    assert (apart >= 100).all()
    assert inspection.pyramid is not None
    slide = inspection.pyramid.slide
    ((row, pixels),) = read_thumbnails(slide, FREE, np.array([5]))
    assert row == 5
    assert pixels is not None
    assert pixels[:60, :60].std() > 30  # noise on the slide
    assert pixels[70:, 70:].std() == 0  # one colour beyond it
    close(inspection)


@pytest.mark.parametrize("size", [(1500, 1100), None])
def test_a_slide_of_the_same_name_and_size_is_taken_and_said_to_be_unchecked(
    slide_file: Path, tmp_path: Path, size: tuple[int, int] | None
) -> None:
    file = tmp_path / "s.prediction.h5"
    write_prediction(file, loose(size=size))
    layers = read_files([file, slide_file])
    assert len(layers) == 2
    layers[0][1]["metadata"][KEY].close()
    inspection = show(slide_file, loose(size=size))
    assert not inspection.forced
    assert inspection.cautions == (NOT_CHECKED,)
    caption = inspection.viewer.canvas.overlays.text.text.replace("\N{NO-BREAK SPACE}", "")
    assert "not checked" in caption.replace("\n", " ")
    plan_export(inspection, tmp_path / "p.geojson")()
    assert (tmp_path / "p.geojson").exists()  # QuPath's corner is that of the slide
    close(inspection)


@pytest.mark.parametrize(
    ("prediction", "text"),
    [
        (loose(slide_id="other"), "their names differ"),
        (loose(size=(1500, 1101)), "1500 x 1101 px and 1500 x 1100 px"),
        (loose(free_grid(COORDS + 51, 100, 100, 0.5), size=None), r"patch 5 at \(1501, 1101\)"),
    ],
)
def test_a_slide_of_another_name_or_size_raises_and_is_shown_only_when_forced(
    slide_file: Path, tmp_path: Path, prediction: Prediction, text: str
) -> None:
    file = tmp_path / "s.prediction.h5"
    write_prediction(file, prediction)
    with pytest.raises(UsageError, match=text):
        read_files([file, slide_file])
    inspection = show(slide_file, prediction)
    assert inspection.cautions == (FORCED,)
    close(inspection)


def test_a_checked_slide_with_patches_on_a_grid_has_no_caution(
    slide_file: Path, predict_slide: Callable[..., Prediction]
) -> None:
    inspection = show(slide_file, predict_slide())
    assert inspection.cautions == ()
    close(inspection)


def test_patches_without_places_are_said_in_the_panel_and_not_drawn(
    slide_file: Path, tmp_path: Path, open_panel: Callable[[Path], Panel]
) -> None:
    panel = open_panel(slide_file)
    inspection, prediction = panel.inspection, loose(unplaced_grid(6, 100, 0.5))
    panel.viewer.add_layer(Layer.create(*read_attention(prediction)))
    shown = panel.inspector.cautions
    assert not shown.isHidden()
    assert NOT_PLACED in shown.text()
    assert "tumour" in panel.inspector.title.text()
    layer = inspection.layer
    assert layer is not None
    assert np.isnan(layer.data).all()
    for score in ("contribution", "attention"):
        for scale in ("raw", "percentile", "relative"):
            inspection.show(score=score, scale=scale)
            assert np.isnan(layer.data).all()
            assert inspection.image is not None
            low, high = inspection.image.limits
            assert low < high
    inspection.show(threshold=0.5, palette="magma")
    assert inspection.patch_at((10.0, 10.0)) == -1
    assert len(panel.selection.rows) == 0
    inspection.go_to(3)
    assert inspection.patch == -1
    for name in ("p.png", "p.geojson", "p.ome.tif", "p.rgb.ome.tif"):
        with pytest.raises(UsageError, match="hold no coordinates"):
            plan_export(inspection, tmp_path / name)
    plan_export(inspection, tmp_path / "p.csv")()
    with (tmp_path / "p.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["x_l0"] for row in rows] == [""] * 6


def test_predictions_without_places_have_no_patches_in_common_with_others(
    slide_file: Path,
) -> None:
    inspection = show(slide_file, loose(unplaced_grid(6, 100, 0.5)))
    inspection.viewer.add_layer(Layer.create(*read_attention(loose())))
    unplaced, placed = inspection.sources[0], inspection.sources[3]
    for one, two in ((unplaced, placed), (placed, unplaced)):
        inspection.choose(one, two)
        assert inspection.scores is not None
        assert np.isnan(inspection.scores.values).all()
    close(inspection)


def test_of_several_slides_the_one_that_fits_is_taken(slide_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.tif"
    other.write_bytes(slide_file.read_bytes())
    inspection = show(slide_file, loose())
    inspection.viewer.add_layer(Layer.create(*read_slide(other)))
    assert inspection.pyramid is not None
    assert inspection.pyramid.slide_id == "noise-ü"
    assert not inspection.forced
    for layer in list(inspection.viewer.layers):
        found = layer.metadata.get(KEY)
        if isinstance(found, Pyramid):
            found.close()
