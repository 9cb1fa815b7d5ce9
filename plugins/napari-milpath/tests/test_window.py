"""With a real window: pixels are drawn at their positions, and closing waits for nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import lattice, predict
from napari import Viewer
from napari.layers import Layer
from numpy.typing import NDArray
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QMessageBox
from support.drawing import damage_tile, write_levels
from support.viewing import count_pan_reads, draw_frame
from vispy.gloo.texture import BaseTexture

from milpath.errors import UnsupportedSlideError
from milpath.figures.heatmap import render_heatmap
from milpath.formats.prediction import Prediction, write_prediction
from milpath.slides.annotation import Polygon
from milpath.slides.slide import Slide
from napari_milpath.layers import heatmap_layer, pyramid_of, slide_layer
from napari_milpath.panel import Panel
from napari_milpath.pyramid import Pyramid
from napari_milpath.reader import _never_wait, read_attention
from napari_milpath.tissue import find_tissue
from napari_milpath.window import fill_viewer

SQUARE = (1024, 1536, 512)
"""Row, column and side of a black square, level-0 pixels: whole pixels on every level."""


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Viewer]) -> Viewer:
    made = make_napari_viewer(show=True)
    made.window.resize(1100, 800)
    return made


@pytest.fixture
def square_slide(tmp_path: Path) -> Path:
    """White, 4096 px square, with a black square; downsamples 1, 4 and 16."""
    rgb = np.full((4096, 4096, 3), 255, np.uint8)
    top, left, side = SQUARE
    rgb[top : top + side, left : left + side] = 0
    levels = [np.ascontiguousarray(rgb[::step, ::step]) for step in (1, 4, 16)]
    return write_levels(tmp_path / "square.tif", levels, mpp=(0.5, 0.502))


def picture(viewer: Viewer) -> NDArray[np.int64]:
    return np.asarray(viewer.screenshot(flash=False), np.int64)[..., :3]


def edges(found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return top, left, bottom, right of the pixels that are set, canvas pixels."""
    rows, cols = np.nonzero(found)
    return np.array([rows.min(), cols.min(), rows.max() + 1, cols.max() + 1], float)


@pytest.mark.parametrize(("zoom", "level"), [(8.0, 0), (1.0, 0), (0.5, 0), (0.2, 1), (0.05, 2)])
def test_a_hot_patch_is_drawn_over_its_own_pixels_on_every_level(
    viewer: Viewer, square_slide: Path, zoom: float, level: int
) -> None:
    top, left, side = SQUARE
    grid = lattice(8, 8, side, side, (0, 0))
    hot = (grid.coords == (left, top)).all(axis=1)
    prediction = predict(grid, np.where(hot, 1.0, 1e-9))
    viewer.theme = "light"
    with Slide(square_slide) as slide:
        pyramid = Pyramid(slide)
        ground = viewer.add_layer(Layer.create(*slide_layer(pyramid)))
        heat = Layer.create(*heatmap_layer(prediction, render_heatmap(prediction), "h", slide.mpp))
        viewer.add_layer(heat)
        mpp = np.array(slide.mpp[::-1])
        low = (np.array([top, left]) - 0.5) * mpp
        high = low + side * mpp
        look_at = low + (
            3 / mpp if zoom > 1 else (high - low) / 2
        )  # zoomed in: one corner is enough
        look_at += np.array([0.21, 0.34]) / zoom * mpp[1]  # no edge lies on the centres of pixels
        viewer.scene.camera.center = (0, *look_at)
        viewer.scene.camera.zoom = zoom / mpp[1]  # zoom: canvas pixels per level-0 pixel
        heat.visible = False
        dark = (picture(viewer) < 60).all(axis=-1)
        assert ground.data_level == level
        heat.visible, ground.visible = True, False
        coloured = np.ptp(picture(viewer), axis=-1) > 60
        viewer.layers.clear()
    size = np.array(dark.shape)
    expected = np.concatenate([(edge - look_at) * zoom / mpp[1] + size / 2 for edge in (low, high)])
    expected = expected.clip(0, np.tile(size, 2))
    # a pixel is drawn when its centre lies inside: no edge is more than half a pixel off
    assert edges(dark) == pytest.approx(expected, abs=0.5)
    np.testing.assert_array_equal(edges(coloured), edges(dark))


def test_the_slide_keeps_its_colours_where_there_is_no_patch(
    viewer: Viewer, square_slide: Path
) -> None:
    grid = lattice(8, 8, 512, 512, (0, 0)).select(np.array([0]))
    prediction = predict(grid)
    with Slide(square_slide) as slide:
        viewer.add_layer(Layer.create(*slide_layer(Pyramid(slide))))
        viewer.scene.camera.zoom = 3
        viewer.scene.camera.center = (0, 600, 900)
        before = picture(viewer)
        viewer.add_layer(
            Layer.create(*heatmap_layer(prediction, render_heatmap(prediction), "h", slide.mpp))
        )
        np.testing.assert_array_equal(picture(viewer), before)
        viewer.layers.clear()


def test_a_slide_dropped_after_its_prediction_is_drawn_below_it(
    viewer: Viewer, square_slide: Path, tmp_path: Path
) -> None:
    grid = lattice(8, 8, 512, 512, (0, 0))
    with Slide(square_slide) as slide:
        prediction = replace(predict(grid), slide=slide.facts)
    write_prediction(tmp_path / "square.prediction.h5", prediction)
    viewer.open(str(tmp_path / "square.prediction.h5"), plugin="napari-milpath")
    (ground,) = viewer.open(str(square_slide), plugin="napari-milpath")
    assert [each.name for each in viewer.layers] == ["square", "square attention"]
    viewer.scene.camera.center = (0, 200, 200)
    viewer.scene.camera.zoom = 1
    shown = picture(viewer)
    centre = shown[shown.shape[0] // 2, shown.shape[1] // 2]
    assert np.ptp(centre) > 20  # the slide alone is white there
    pyramid = pyramid_of(ground)
    assert pyramid is not None
    viewer.layers.clear()
    pyramid.close()


def test_a_hundred_pans_at_full_size_read_at_most_ten_tiles(
    viewer: Viewer, large_slide: Path
) -> None:
    with Slide(large_slide) as slide:
        assert count_pan_reads(viewer, slide) <= 10
        viewer.layers.clear()


def test_the_first_frame_of_a_large_slide_reads_at_most_ten_tiles(
    viewer: Viewer, large_slide: Path
) -> None:
    with Slide(large_slide) as slide:
        pyramid = Pyramid(slide)
        viewer.add_layer(Layer.create(*slide_layer(pyramid)))
        draw_frame(viewer)
        assert pyramid.reads[:2] == [0, 0]
        assert 0 < sum(pyramid.reads) <= 10
        viewer.layers.clear()


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the arrays that are sent to the graphics card."""
    shapes: list[tuple[int, ...]] = []
    send = BaseTexture._set_data

    def record(self: BaseTexture, data: Any, *arguments: Any, **options: Any) -> None:
        shapes.append(np.shape(data))
        send(self, data, *arguments, **options)

    monkeypatch.setattr(BaseTexture, "_set_data", record)
    return shapes


def test_a_million_patches_are_uploaded_once_and_a_threshold_uploads_colours_only(
    viewer: Viewer, million: Prediction, uploads: list[tuple[int, ...]]
) -> None:
    viewer.add_layer(Layer.create(*read_attention(million)))
    draw_frame(viewer)
    assert uploads.count((1000, 1000)) == 1
    panel = Panel(viewer)
    panel.inspector.threshold.setValue(10)
    draw_frame(viewer)
    before = picture(viewer)
    uploads.clear()
    panel.inspector.threshold.setValue(60)
    draw_frame(viewer)
    assert uploads
    assert max(np.prod(shape) for shape in uploads) < 100_000
    assert (picture(viewer) != before).any()
    panel.stop()
    panel.deleteLater()
    viewer.layers.clear()


def test_the_panel_shows_the_prediction_and_changes_the_settings(
    viewer: Viewer, slide_file: Path, tmp_path: Path, predict_slide: Callable[..., Prediction]
) -> None:
    for seed in (0, 1):
        write_prediction(tmp_path / f"{seed}.prediction.h5", predict_slide(seed=seed))
    files = [tmp_path / f"{seed}.prediction.h5" for seed in (0, 1)]
    panel = fill_viewer(viewer, slide_file, files)
    inspector, inspection = panel.inspector, panel.inspection
    assert inspector.source.count() == 6
    assert inspector.title.text().startswith("noise-ü: ")
    assert "patches" in inspector.facts.text()
    choose(inspector.score, "contribution to a class")
    choose(inspector.class_name, "normal")
    choose(inspector.scale, "raw")
    assert inspector.label.text() == "contribution to normal (logit)"
    choose(inspector.palette_name, "PuOr_r")
    inspector.opacity.setValue(40)
    assert inspection.settings.palette == "PuOr_r"
    assert inspection.layer is not None
    assert inspection.layer.opacity == pytest.approx(0.4)
    choose(inspector.source, "noise-ü attention, member 1")
    choose(inspector.subtracted, "noise-ü attention [1]")
    assert inspector.label.text().endswith(
        "noise-ü attention, member 1 minus noise-ü attention [1]"
    )
    assert "rank correlation" in inspector.facts.text()
    inspection.moved.emit(29)
    assert "patch 29" in inspector.hover.text()
    close_slides(viewer)


def choose(box: Any, text: str) -> None:
    """Choose an item as a user does."""
    box.setCurrentText(text)
    assert box.currentText() == text
    box.activated.emit(box.currentIndex())


def close_slides(viewer: Viewer) -> None:
    for layer in list(viewer.layers):
        pyramid = pyramid_of(layer)
        if pyramid is not None:
            viewer.layers.remove(layer)
            pyramid.close()


def test_the_gallery_loads_thumbnails_and_a_click_goes_to_a_patch(
    viewer: Viewer,
    slide_file: Path,
    tmp_path: Path,
    predict_slide: Callable[..., Prediction],
    qtbot: QtBot,
) -> None:
    write_prediction(tmp_path / "a.prediction.h5", predict_slide())
    panel = fill_viewer(viewer, slide_file, [tmp_path / "a.prediction.h5"])
    panel.tabs.setCurrentWidget(panel.gallery)
    thumbnails = panel.gallery.thumbnails
    assert thumbnails.count() == 20
    qtbot.waitUntil(lambda: panel.gallery.worker is not None, timeout=30_000)
    with qtbot.waitSignal(panel.gallery.worker.finished, timeout=60_000):  # type: ignore[union-attr]
        pass
    seen = thumbnails.item(3).icon().pixmap(128, 128).toImage()
    assert len({seen.pixel(x, 64) for x in range(128)}) > 20  # noise, not plain grey
    thumbnails.itemClicked.emit(thumbnails.item(3))
    assert panel.inspection.patch == panel.selection.rows[3]
    panel.selection.mark("relevant")
    assert thumbnails.item(3).text().startswith("✔")
    panel.selection.step(1)
    assert thumbnails.currentRow() == 4
    assert thumbnails.item(0).text().endswith("×")
    panel.inspection.show(scale="percentile")
    assert thumbnails.item(0).text() == "99.6"
    close_slides(viewer)


def test_closing_the_window_does_not_wait_for_thumbnails(
    make_napari_viewer: Callable[..., Viewer],
    slide_file: Path,
    tmp_path: Path,
    predict_slide: Callable[..., Prediction],
    monkeypatch: pytest.MonkeyPatch,
    qtbot: QtBot,
) -> None:
    closed = threading.Event()

    def wait(*_: object) -> Iterator[tuple[int, None]]:
        assert closed.wait(60)
        yield 0, None

    monkeypatch.setattr("napari_milpath.gallery.read_thumbnails", wait)
    write_prediction(tmp_path / "a.prediction.h5", predict_slide())
    viewer = make_napari_viewer(show=True)
    panel = fill_viewer(viewer, slide_file, [tmp_path / "a.prediction.h5"])
    panel.tabs.setCurrentWidget(panel.gallery)
    qtbot.waitUntil(lambda: panel.gallery.worker is not None, timeout=30_000)
    worker: Any = panel.gallery.worker
    qtbot.waitUntil(lambda: worker.is_running, timeout=30_000)
    close_slides(viewer)
    viewer.close()
    assert panel.gallery.worker is None
    assert worker.is_running
    closed.set()
    qtbot.waitUntil(lambda: not worker.is_running, timeout=30_000)


def test_a_closed_panel_disconnects_from_the_viewer(
    viewer: Viewer, slide_file: Path, tmp_path: Path, predict_slide: Callable[..., Prediction]
) -> None:
    write_prediction(tmp_path / "a.prediction.h5", predict_slide())
    callbacks = len(viewer.mouse_move_callbacks)
    panel = fill_viewer(viewer, slide_file, [tmp_path / "a.prediction.h5"])
    assert len(viewer.mouse_move_callbacks) == callbacks + 1
    viewer.window.remove_dock_widget(panel)
    assert len(viewer.mouse_move_callbacks) == callbacks
    panel.deleteLater()
    close_slides(viewer)


def test_shows_the_intact_parts_of_a_damaged_slide(
    viewer: Viewer, slide_file: Path, predict_slide: Callable[..., Prediction]
) -> None:
    damage_tile(slide_file, 8)
    with Slide(slide_file) as slide:
        pyramid = Pyramid(slide)
        viewer.add_layer(Layer.create(*slide_layer(pyramid)))
        shown = picture(viewer)
        magenta = (shown[..., 0] > 90) & (shown[..., 1] < 60) & (shown[..., 2] > 90)
        assert 0.01 < magenta.mean() < 0.2
        viewer.layers.clear()


def test_the_panel_follows_the_controls_of_the_layer(
    viewer: Viewer, slide_file: Path, tmp_path: Path, predict_slide: Callable[..., Prediction]
) -> None:
    write_prediction(tmp_path / "a.prediction.h5", predict_slide())
    panel = fill_viewer(viewer, slide_file, [tmp_path / "a.prediction.h5"])
    layer, inspector = panel.inspection.layer, panel.inspector
    assert layer is not None
    layer.colormap = "magma"
    assert inspector.palette_name.currentText() == "magma (napari)"
    inspector.threshold.setValue(40)
    inspector.palette_name.activated.emit(inspector.palette_name.currentIndex())
    assert getattr(panel.inspection.settings.palette, "name", "") == "magma"
    assert panel.inspection.settings.threshold == 0.4
    layer.opacity = 0.3
    assert inspector.opacity.value() == 30
    assert inspector.hidden.isHidden()
    layer.visible = False
    assert not inspector.hidden.isHidden()
    assert not viewer.canvas.overlays.text.visible
    layer.visible = True
    assert inspector.hidden.isHidden()
    layer.name = "reader A"
    assert inspector.source.currentText() == "reader A"
    inspector.palette_name.setCurrentText("default")
    inspector.palette_name.activated.emit(0)
    assert panel.inspection.settings.palette is None
    assert inspector.palette_name.findText("magma (napari)") == -1
    close_slides(viewer)
    panel.stop()


def test_the_panel_says_that_a_slide_is_gone_and_shows_it_again(
    viewer: Viewer, slide_file: Path
) -> None:
    panel = fill_viewer(viewer, slide_file, [])
    pyramid = panel.inspection.pyramid
    assert pyramid is not None
    assert pyramid.slide._handle._sleep is _never_wait
    before = picture(viewer)
    away = slide_file.with_suffix(".away")
    slide_file.rename(away)
    pyramid.slide._handle.reader.close()
    pyramid.cache.clear()
    layer = viewer.layers[0]
    layer.data = list(layer.data)
    hatched = picture(viewer)
    panel.inspector.check_files()
    assert not panel.inspector.damage.isHidden()
    assert panel.inspector.damage.text().startswith("noise-ü.tif: the file is gone; ")
    magenta = (hatched[..., 0] > 90) & (hatched[..., 1] < 60) & (hatched[..., 2] > 90)
    assert magenta.mean() > 0.2
    away.rename(slide_file)
    panel.inspector.check_files()
    assert panel.inspector.damage.isHidden()
    np.testing.assert_array_equal(picture(viewer), before)
    close_slides(viewer)
    panel.stop()


def test_a_wrong_file_opens_nothing_and_shows_an_error(
    viewer: Viewer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr("napari_milpath.reader.show_error", messages.append)
    (tmp_path / "a.svs").write_bytes(b"<html>404</html>")
    (tmp_path / "a.prediction.h5").write_bytes(b"")
    for name in ("a.svs", "a.prediction.h5"):
        viewer.open(tmp_path / name, plugin="napari-milpath")
    assert messages[0].startswith("a.svs: not a slide that OpenSlide can read (a web page")
    assert messages[1].startswith("a.prediction.h5: ")
    assert len(viewer.layers) == 0
    assert threading.active_count() < 20
    viewer.window._qt_window.hide()
    with pytest.raises(UnsupportedSlideError, match="a web page"):
        viewer.open(tmp_path / "a.svs", plugin="napari-milpath")


def test_raises_for_a_prediction_of_a_different_slide_unless_forced(
    viewer: Viewer, slide_file: Path, tmp_path: Path, predict_slide: Callable[..., Prediction]
) -> None:
    prediction = predict_slide()
    other = replace(prediction, slide=replace(prediction.slide, quickhash="0ther"))
    write_prediction(tmp_path / "a.prediction.h5", other)
    with pytest.raises(Exception, match="a different slide"):
        fill_viewer(viewer, slide_file, [tmp_path / "a.prediction.h5"])
    assert len(viewer.layers) == 0
    panel = fill_viewer(viewer, slide_file, [tmp_path / "a.prediction.h5"], force=True)
    assert panel.inspection.layer is not None
    close_slides(viewer)


@pytest.mark.parametrize("first", ["slide", "prediction"])
def test_asks_about_a_prediction_of_a_different_slide_in_either_order(
    viewer: Viewer,
    slide_file: Path,
    tmp_path: Path,
    predict_slide: Callable[..., Prediction],
    first: str,
) -> None:
    right = predict_slide()
    wrong = replace(right, slide=replace(right.slide, quickhash="0ther"))
    for name, prediction in (("right", right), ("wrong", wrong)):
        write_prediction(tmp_path / f"{name}.prediction.h5", prediction)
    files = [slide_file, tmp_path / "wrong.prediction.h5"]
    files = files if first == "slide" else files[::-1]
    viewer.open(files[0], plugin="napari-milpath")
    viewer.open(files[1], plugin="napari-milpath")
    assert "a different slide than noise-ü.tif" in question(viewer).text()
    question(viewer).close()
    assert len(viewer.layers) == 1
    viewer.layers.clear()
    viewer.open([slide_file, tmp_path / "right.prediction.h5"], plugin="napari-milpath")
    assert len(viewer.layers) == 2
    close_slides(viewer)


def question(viewer: Viewer) -> QMessageBox:
    (box,) = viewer.window._qt_window.findChildren(QMessageBox)
    return box


@pytest.mark.parametrize("answer", ["Yes", "No", "Cancel"])
def test_shows_a_prediction_of_a_different_slide_only_after_yes(
    viewer: Viewer,
    slide_file: Path,
    tmp_path: Path,
    predict_slide: Callable[..., Prediction],
    qtbot: QtBot,
    answer: str,
) -> None:
    right = predict_slide()
    wrong = replace(right, slide=replace(right.slide, quickhash="0ther"))
    write_prediction(tmp_path / "wrong.prediction.h5", wrong)
    panel = fill_viewer(viewer, slide_file, [])
    viewer.open(tmp_path / "wrong.prediction.h5", plugin="napari-milpath")
    assert len(viewer.layers) == 1
    box = question(viewer)
    assert box.text().startswith("The prediction of noise-ü was made from a different slide")
    assert box.defaultButton() is box.button(QMessageBox.StandardButton.No)
    if answer == "Cancel":
        box.reject()  # Escape
    else:
        box.button(getattr(QMessageBox.StandardButton, answer)).click()
    qtbot.waitUntil(lambda: not viewer.window._qt_window.findChildren(QMessageBox), timeout=30_000)
    assert len(viewer.layers) == 1 + (answer == "Yes")
    assert panel.inspector.cautions.isHidden() == (answer != "Yes")
    close_slides(viewer)
    assert panel.inspector.cautions.isHidden()


def test_writes_an_export_in_another_thread_and_reports_it(
    viewer: Viewer,
    slide_file: Path,
    tmp_path: Path,
    predict_slide: Callable[..., Prediction],
    monkeypatch: pytest.MonkeyPatch,
    qtbot: QtBot,
) -> None:
    messages: list[str] = []
    monkeypatch.setattr("napari_milpath.inspector.show_info", messages.append)
    monkeypatch.setattr("napari_milpath.inspector.show_error", messages.append)
    write_prediction(tmp_path / "a.prediction.h5", predict_slide())
    panel = fill_viewer(viewer, slide_file, [tmp_path / "a.prediction.h5"])
    button = panel.inspector.export
    (tmp_path / "no-folder").write_text("a file, not a folder")
    for name, message in (
        ("e.geojson", "exported e.geojson"),
        ("no-folder/e.csv", "e.csv: cannot be written"),
        ("e.gif", "exported e.gif.png"),
    ):
        monkeypatch.setattr(
            "napari_milpath.inspector.QFileDialog.getSaveFileName",
            lambda *_, path=tmp_path / name: (str(path), "Picture with colour bar (*.png)"),
        )
        button.click()
        assert not button.isEnabled()
        qtbot.waitUntil(button.isEnabled, timeout=30_000)
        assert messages.pop().startswith(message)
    assert (tmp_path / "e.geojson").exists()
    close_slides(viewer)


def test_closing_the_window_does_not_wait_for_an_export(
    make_napari_viewer: Callable[..., Viewer],
    slide_file: Path,
    tmp_path: Path,
    predict_slide: Callable[..., Prediction],
    monkeypatch: pytest.MonkeyPatch,
    qtbot: QtBot,
) -> None:
    closed, ended = threading.Event(), threading.Event()

    def wait() -> None:
        assert closed.wait(60)
        ended.set()

    monkeypatch.setattr("napari_milpath.inspector.plan_export", lambda *_: wait)
    monkeypatch.setattr(
        "napari_milpath.inspector.QFileDialog.getSaveFileName", lambda *_: ("e.csv", "")
    )
    write_prediction(tmp_path / "a.prediction.h5", predict_slide())
    viewer = make_napari_viewer(show=True)
    panel = fill_viewer(viewer, slide_file, [tmp_path / "a.prediction.h5"])
    panel.inspector.export.click()
    close_slides(viewer)
    viewer.close()
    assert not ended.is_set()
    closed.set()
    qtbot.waitUntil(ended.is_set, timeout=30_000)
    qtbot.wait(200)  # the result now arrives, for a closed panel


def test_closing_the_window_does_not_wait_for_the_tissue(
    make_napari_viewer: Callable[..., Viewer],
    slide_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    qtbot: QtBot,
) -> None:
    closed = threading.Event()

    def wait(slide: Slide) -> list[Polygon]:
        assert closed.wait(60)
        return find_tissue(slide)

    monkeypatch.setattr("napari_milpath.classify.find_tissue", wait)
    viewer = make_napari_viewer(show=True)
    panel = fill_viewer(viewer, slide_file, [])
    panel.tabs.setCurrentWidget(panel.classify_tab)
    qtbot.waitUntil(panel.classify_tab.isVisible, timeout=30_000)
    panel.classify_tab.show_tissue()
    worker: Any = panel.classify_tab.finder
    assert worker is not None
    qtbot.waitUntil(lambda: worker.is_running, timeout=30_000)
    viewer.close()
    assert panel.classify_tab.finder is None
    assert worker.is_running
    closed.set()
    qtbot.waitUntil(lambda: not worker.is_running, timeout=30_000)


def test_the_sample_is_a_slide_with_its_prediction(viewer: Viewer) -> None:
    viewer.open_sample("napari-milpath", "synthetic")
    slide, attention = viewer.layers
    panel = Panel(viewer)
    assert panel.inspection.layer is attention
    assert "tumour >0.999" in panel.inspector.title.text()
    panel.inspection.close()
    panel.deleteLater()
    close_slides(viewer)
    assert slide.name == "slide-051"
