"""The inspection follows the viewer's layers and reports the prediction's own values."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Layer
from support.drawing import noise, write_levels

from milpath.errors import UsageError
from milpath.figures.heatmap import Heatmap
from milpath.figures.overlay import blend, write_overlay
from milpath.formats.prediction import Prediction, SlideMismatchError
from milpath.slides.slide import Slide
from milpath.slides.thumbnail import fit_thumbnail
from napari_milpath.exporting import plan_export
from napari_milpath.histogram import count_scores, format_tick
from napari_milpath.inspection import FORCED, Inspection
from napari_milpath.layers import require_same_slide, slide_layer
from napari_milpath.pyramid import Pyramid
from napari_milpath.reader import add_layers, read_attention
from napari_milpath.scores import (
    DisplaySettings,
    ScoreSource,
    describe_agreement,
    describe_choice,
    describe_concentration,
    describe_prediction,
    score_sources,
    subtract_scores,
)
from napari_milpath.selection import PatchSelection, read_thumbnails

Make = Callable[..., Prediction]


@pytest.fixture
def viewer(pyramid: Pyramid) -> ViewerModel:
    """A viewer with a slide."""
    made = ViewerModel()
    made.add_layer(Layer.create(*slide_layer(pyramid)))
    return made


def test_shows_the_newest_prediction_and_hides_the_others(
    viewer: ViewerModel, predict_slide: Make
) -> None:
    inspection = Inspection(viewer)
    assert inspection.source is None
    first = viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    second = viewer.add_layer(Layer.create(*read_attention(predict_slide(seed=1, members=1))))
    assert inspection.layer is second
    assert (first.visible, second.visible) == (False, True)
    assert [source.name for source in inspection.sources] == [
        "noise-ü attention",
        "noise-ü attention, member 0",
        "noise-ü attention, member 1",
        "noise-ü attention [1]",
    ]
    inspection.choose(inspection.sources[2])
    assert (first.visible, second.visible) == (True, False)
    viewer.layers.remove(second)
    assert inspection.layer is first
    assert inspection.source is not None
    assert inspection.source.member == 1
    viewer.layers.remove(first)
    assert inspection.source is None
    assert not viewer.canvas.overlays.text.visible


def test_the_layer_shows_the_chosen_scores(viewer: ViewerModel, predict_slide: Make) -> None:
    prediction = predict_slide()
    layer = viewer.add_layer(Layer.create(*read_attention(prediction)))
    inspection = Inspection(viewer)
    expected = (prediction.attention * 130).reshape(10, 13)
    np.testing.assert_allclose(layer.data, expected, rtol=1e-5)
    inspection.show(scale="raw")
    np.testing.assert_allclose(layer.data, prediction.attention.reshape(10, 13), rtol=1e-5)
    inspection.show(score="contribution", class_name="normal")
    expected = prediction.contributions[:, 0].reshape(10, 13)
    np.testing.assert_allclose(layer.data, expected, rtol=1e-5)
    assert layer.contrast_limits[0] == -layer.contrast_limits[1]
    assert "contribution to normal" in viewer.canvas.overlays.text.text


def test_a_threshold_hides_weak_scores_and_keeps_the_values(
    viewer: ViewerModel, predict_slide: Make
) -> None:
    layer = viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    inspection.show(scale="percentile")
    before = layer.data
    inspection.show(threshold=0.75)
    assert layer.data is before
    alpha = layer.colormap.map(np.array([0.0, 0.74, 0.76, 1.0]))[:, 3]
    assert (alpha > 0).tolist() == [False, False, True, True]
    inspection.show(score="contribution")
    alpha = layer.colormap.map(np.array([0.0, 0.2, 0.5, 0.8, 1.0]))[:, 3]
    assert (alpha > 0).tolist() == [True, False, False, False, True]


def test_finds_the_patch_under_the_mouse(viewer: ViewerModel, predict_slide: Make) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    # the patch in row 2, column 3 begins at x 350, y 220: its first pixel's centre is there
    assert inspection.patch_at((220 * 0.5, 350 * 0.5)) == 2 * 13 + 3
    assert inspection.patch_at((219.49 * 0.5, 350 * 0.5)) == 1 * 13 + 3
    assert inspection.patch_at((220 * 0.5, 349.49 * 0.5)) == 2 * 13 + 2
    assert inspection.patch_at((10 * 0.5, 10 * 0.5)) == -1
    text = inspection.describe_patch(29)
    assert "patch 29 at x 0.200 mm, y 0.135 mm" in text
    assert f"{inspection.source.attention[29]:.3g}" in text  # type: ignore[union-attr]
    assert inspection.describe_patch(-1) == ""


def test_going_to_a_patch_centres_it_and_draws_a_box(
    viewer: ViewerModel, predict_slide: Make
) -> None:
    attention = viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    viewer.layers.selection = {attention}
    inspection = Inspection(viewer)
    for row in (29, 30):
        inspection.go_to(row)
    centre = viewer.scene.camera.center[-2:]
    assert centre == pytest.approx(((220 + 49.5) * 0.5, (450 + 49.5) * 0.5))
    boxes = [layer for layer in viewer.layers if layer.name == "milpath patch"]
    assert len(boxes) == 1
    low, high = boxes[0].data[0].min(axis=0), boxes[0].data[0].max(axis=0)
    assert low == pytest.approx((219.5 * 0.5, 449.5 * 0.5))
    assert high == pytest.approx((319.5 * 0.5, 549.5 * 0.5))
    assert viewer.layers.selection == {attention}
    inspection.go_to(-1)
    assert inspection.patch == 30


def test_a_slide_without_a_resolution_takes_that_of_its_prediction(
    tmp_path: Path, predict_slide: Make
) -> None:
    viewer = ViewerModel()
    path = write_levels(tmp_path / "s.tif", [noise(1100, 1500)], mpp=None)
    with Slide(path) as slide:
        layer = viewer.add_layer(Layer.create(*slide_layer(Pyramid(slide))))
        prediction = predict_slide()
        facts = replace(prediction.slide, quickhash=slide.quickhash)
        viewer.add_layer(Layer.create(*read_attention(replace(prediction, slide=facts))))
        Inspection(viewer)
        assert tuple(layer.scale) == (0.5, 0.5)
        assert {str(unit) for unit in layer.units} == {"micrometer"}


def test_a_closed_inspection_ignores_the_viewer(viewer: ViewerModel, predict_slide: Make) -> None:
    inspection = Inspection(viewer)
    inspection.close()
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    assert inspection.source is None
    assert viewer.mouse_move_callbacks == []


def test_keeps_a_warning_as_long_as_a_prediction_lies_over_a_different_slide(
    viewer: ViewerModel, predict_slide: Make, tmp_path: Path
) -> None:
    right = predict_slide()
    wrong = replace(right, slide=replace(right.slide, quickhash="0ther"))
    inspection = Inspection(viewer)
    forced: list[bool] = []
    inspection.changed.connect(lambda: forced.append(inspection.forced))
    caption = viewer.canvas.overlays.text
    add_layers(viewer, lambda: [read_attention(wrong)])
    assert inspection.forced
    assert caption.text.replace("\N{NO-BREAK SPACE}", "").endswith(FORCED)
    plan_export(inspection, tmp_path / "forced.png")()
    viewer.add_layer(Layer.create(*read_attention(right)))
    assert not inspection.forced
    assert "forced" not in caption.text
    inspection.choose(inspection.sources[0])
    assert inspection.forced
    slide = viewer.layers[0]
    viewer.layers.remove(slide)
    assert not inspection.forced
    assert "forced" not in caption.text
    viewer.layers.insert(0, slide)
    assert inspection.forced
    assert forced == [True, False, True, False, True]
    inspection.choose(inspection.sources[3])
    plan_export(inspection, tmp_path / "right.png")()
    assert (tmp_path / "forced.png").read_bytes() != (tmp_path / "right.png").read_bytes()


def test_a_prediction_belongs_to_a_slide_with_the_same_contents_not_only_the_same_quickhash(
    viewer: ViewerModel, predict_slide: Make, pyramid: Pyramid
) -> None:
    right = predict_slide()
    assert right.slide.quickhash == pyramid.quickhash
    changed = replace(right, slide=replace(right.slide, content_hash="0ther"))
    with pytest.raises(SlideMismatchError, match="a different slide"):
        require_same_slide(pyramid, changed)
    viewer.add_layer(Layer.create(*read_attention(changed)))
    inspection = Inspection(viewer)
    assert inspection.forced
    viewer.add_layer(Layer.create(*read_attention(right)))
    assert not inspection.forced
    earlier = replace(right, slide=replace(right.slide, content_hash=None))
    viewer.add_layer(Layer.create(*read_attention(earlier)))
    assert not inspection.forced


def test_a_slide_that_is_opened_later_lies_below_its_prediction(
    pyramid: Pyramid, predict_slide: Make
) -> None:
    viewer = ViewerModel()
    inspection = Inspection(viewer)
    viewer.add_layer(Layer.create(np.zeros((3, 3)), {"name": "other"}, "image"))
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    viewer.add_layer(Layer.create(*read_attention(predict_slide(seed=1))))
    slide = viewer.add_layer(Layer.create(*slide_layer(pyramid)))
    assert [each.name for each in viewer.layers] == [
        "other",
        "noise-ü",
        "noise-ü attention",
        "noise-ü attention [1]",
    ]
    assert inspection.pyramid is pyramid
    viewer.layers.remove(slide)
    viewer.add_layer(Layer.create(*slide_layer(pyramid)))
    assert viewer.layers[1].name == "noise-ü"


# -- descriptions ----------------------------------------------------------------------------------


def test_the_title_lists_the_probability_of_each_class_the_highest_first(
    predict_slide: Make,
) -> None:
    whole, first, _ = score_sources("x", predict_slide())
    likely = whole.prediction.predicted
    assert describe_prediction(whole).startswith(f"noise-ü: {likely} {whole.probs.max():.3f}, ")
    assert describe_prediction(whole).endswith("over the ensemble)")
    assert describe_prediction(first).startswith("noise-ü, member 0: ")


def test_panel_and_caption_hold_the_warnings_of_a_prediction(predict_slide: Make) -> None:
    plain = predict_slide()
    seen = ScoreSource("a", replace(plain, in_training=True))
    far = ScoreSource("b", replace(plain, distance=3.0))
    assert describe_choice(ScoreSource("a", plain))[1:] == []
    assert describe_choice(seen)[1:] == ["the model was trained on this slide"]
    _, _, _, *warnings = describe_choice(seen, far)
    assert warnings == [*seen.prediction.warnings, *far.prediction.warnings]
    assert len(warnings) == 2


def test_the_effective_number_of_patches_is_all_for_equal_attention_and_one_for_a_single_peak(
    predict_slide: Make,
) -> None:
    even = ScoreSource("x", predict_slide(attention=np.ones(130), members=1))
    assert "effective number of patches: 130 of 130;" in describe_concentration(equalize(even))
    hot = ScoreSource("x", predict_slide(attention=np.where(np.arange(130) == 7, 1, 1e-9)))
    expected = "effective number of patches: 1 of 130; the top 1 hold 100% of the attention"
    assert describe_concentration(hot) == expected


def equalize(source: ScoreSource) -> ScoreSource:
    weights = np.full_like(source.prediction.member_attention, 1 / len(source.prediction.grid))
    return ScoreSource("x", replace(source.prediction, member_attention=weights))


def test_subtracts_the_scores_of_another_source(
    predict_slide: Make,
) -> None:
    one, other = ScoreSource("a", predict_slide()), ScoreSource("b", predict_slide(seed=3))
    assert not subtract_scores(one, one, DisplaySettings()).values.any()
    found = subtract_scores(one, other, DisplaySettings())
    np.testing.assert_allclose(found.values, 130 * (one.attention - other.attention))
    assert found.signed
    assert found.label == "attention, relative to the slide's mean: a minus b"
    assert (
        describe_agreement(one, one, DisplaySettings())
        == "rank correlation 1.00; 20 of the top 20 in common"
    )


def test_ignores_patches_that_the_subtracted_prediction_lacks(
    predict_slide: Make,
) -> None:
    one, whole = predict_slide(), predict_slide(seed=3)
    rows = np.arange(0, 130, 2)
    part = replace(
        whole,
        grid=whole.grid.select(rows),
        member_attention=whole.member_attention[:, rows],
        member_contributions=whole.member_contributions[:, rows],
    )
    found = subtract_scores(
        ScoreSource("a", one), ScoreSource("b", part), DisplaySettings(scale="raw")
    ).values
    assert np.isnan(found[1::2]).all()
    np.testing.assert_allclose(found[::2], one.attention[::2] - whole.attention[::2])


def test_the_histogram_counts_every_patch_once(viewer: ViewerModel, predict_slide: Make) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    assert inspection.image is not None
    assert inspection.scores is not None
    counts = count_scores(inspection.image, inspection.scores.values)
    assert counts.sum() == 130
    assert format_tick(inspection.image, 0.5) == "1×"


# -- patch selection -------------------------------------------------------------------------------


def test_steps_through_the_strongest_patches_and_back_to_the_first(
    viewer: ViewerModel, predict_slide: Make
) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    selection = PatchSelection(inspection)
    selection.select(3, weakest=False)
    seen = []
    for by in (1, 1, 1, 1, -1, -1):
        selection.step(by)
        seen.append(selection.rows.tolist().index(inspection.patch))
    assert seen == [0, 1, 2, 0, 2, 1]


def test_writes_the_marks_with_the_scores_of_their_patches(
    viewer: ViewerModel, predict_slide: Make, tmp_path: Path
) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    selection = PatchSelection(inspection)
    inspection.go_to(40)
    selection.mark("relevant")
    inspection.go_to(7)
    selection.mark("unsure")
    selection.mark("not")
    assert selection.save_marks(tmp_path / "m.csv") == 2
    lines = (tmp_path / "m.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["patch", "7", "40"]
    assert [line.split(",")[-1] for line in lines] == ["mark", "not", "relevant"]


def test_each_prediction_keeps_its_marks(viewer: ViewerModel, predict_slide: Make) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide(members=1))))
    viewer.add_layer(Layer.create(*read_attention(predict_slide(seed=1, members=1))))
    inspection = Inspection(viewer)
    selection = PatchSelection(inspection)
    inspection.go_to(7)
    selection.mark("relevant")
    inspection.choose(inspection.sources[0])
    assert selection.marks == {}
    inspection.choose(inspection.sources[1])
    assert selection.marks == {7: "relevant"}


def test_reports_new_scores_and_a_different_slide(viewer: ViewerModel, predict_slide: Make) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    selection = PatchSelection(inspection)
    signals: list[str] = []
    selection.changed.connect(lambda: signals.append("changed"))
    selection.rescored.connect(lambda: signals.append("rescored"))
    inspection.show(scale="percentile")  # the same order, on a different scale
    inspection.show(threshold=0.5)
    slide = viewer.layers.pop(0)
    viewer.layers.insert(0, slide)
    assert signals == ["rescored", "changed", "changed"]


def test_thumbnails_show_the_pixels_of_their_patches(pyramid: Pyramid, predict_slide: Make) -> None:
    grid = predict_slide().grid
    found = dict(read_thumbnails(pyramid.slide, grid, np.array([0, 77])))
    assert list(found) == [0, 77]
    x, y = grid.coords[77]
    crop = noise(1100, 1500)[y : y + 100, x : x + 100]
    assert found[77] is not None
    assert found[77].shape == (128, 128, 3)
    assert found[77].mean() == pytest.approx(crop.mean(), abs=3)


# -- export ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".geojson", ".ome.tif", ".rgb.ome.tif", ".csv"])
def test_writes_an_export_in_the_format_of_the_files_name(
    viewer: ViewerModel, predict_slide: Make, tmp_path: Path, suffix: str
) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    inspection.show(score="contribution")
    path = tmp_path / f"e{suffix}"
    plan_export(inspection, path)()
    if suffix == ".ome.tif":
        np.testing.assert_array_equal(tifffile.imread(path), viewer.layers[-1].data)
    if suffix == ".rgb.ome.tif":
        assert tifffile.imread(path).shape == (*viewer.layers[-1].data.shape, 3)
    assert path.stat().st_size > 500
    assert [each.name for each in tmp_path.iterdir() if "part" in each.name] == []


def test_raises_for_an_export_without_a_prediction_or_a_known_format(
    viewer: ViewerModel, predict_slide: Make, tmp_path: Path
) -> None:
    inspection = Inspection(viewer)
    with pytest.raises(UsageError, match="no prediction is displayed"):
        plan_export(inspection, tmp_path / "e.png")()
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    with pytest.raises(UsageError, match=r"^e\.gif: unknown format; use a name that ends in \.png"):
        plan_export(inspection, tmp_path / "e.gif")()
    viewer.layers.pop(0)
    with pytest.raises(UsageError, match="needs the slide"):
        plan_export(inspection, tmp_path / "e.png")()


def test_an_export_of_a_member_carries_the_members_probability_and_scores(
    viewer: ViewerModel, predict_slide: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction = predict_slide()
    viewer.add_layer(Layer.create(*read_attention(prediction)))
    inspection = Inspection(viewer)
    inspection.choose(inspection.sources[2])
    member = prediction.select_member(1)
    assert member.probs == pytest.approx(prediction.member_probs[1])
    table = read_table(inspection, tmp_path)
    written = [float(row["attention"]) for row in table]
    np.testing.assert_allclose(written, prediction.member_attention[1], rtol=1e-6)
    assert {row["source"] for row in table} == {"noise-ü attention, member 1"}
    assert table[0]["prediction"] == describe_prediction(inspection.sources[2])
    feature = read_features(inspection, tmp_path)[7]
    assert feature["measurements"]["attention"] == prediction.member_attention[1, 7]
    assert feature["metadata"]["source"] == "noise-ü attention, member 1"
    assert "member 1" in viewer.canvas.overlays.text.text
    titles = read_titles(inspection, tmp_path, monkeypatch)
    expected = f"noise-ü, member 1: {member.predicted}, probability {member.probs.max():.2f}"
    assert titles[0] == expected
    assert "ensemble" not in "".join(titles)


def test_an_export_of_a_difference_carries_the_difference(
    viewer: ViewerModel, predict_slide: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction = predict_slide()
    viewer.add_layer(Layer.create(*read_attention(prediction)))
    inspection = Inspection(viewer)
    inspection.choose(inspection.sources[1], inspection.sources[2])
    expected = prediction.member_attention[0] - prediction.member_attention[1]
    table = read_table(inspection, tmp_path)
    assert "attention" not in table[0]
    written = [float(row["difference_of_attention"]) for row in table]
    np.testing.assert_allclose(written, expected, rtol=1e-6)
    shown = [float(row["displayed"]) for row in table]
    np.testing.assert_allclose(shown, 130 * expected, rtol=1e-6)
    assert "member 0 minus noise-ü attention, member 1" in table[0]["source"]
    feature = read_features(inspection, tmp_path)[7]
    assert feature["measurements"]["difference_of_attention"] == expected[7]
    assert "difference: " in feature["metadata"]["prediction"]
    titles = read_titles(inspection, tmp_path, monkeypatch)
    names = "noise-ü attention, member 0 minus noise-ü attention, member 1"
    assert titles[0] == f"difference: {names}"
    assert titles[1].startswith("noise-ü attention, member 0: ")
    caption = " ".join(viewer.canvas.overlays.text.text.replace("\N{NO-BREAK SPACE}", "").split())
    assert caption.endswith(f"attention, relative to the slide's mean: {names}")
    assert caption.startswith("noise-ü attention, member 0: ")
    assert f"difference displayed: {130 * expected[7]:+.3g}" in inspection.describe_patch(7)


def test_a_difference_is_of_the_same_class_of_both(predict_slide: Make) -> None:
    one = predict_slide()
    bias = np.array([[0.0, 500.0], [0.0, 500.0]])
    other = replace(predict_slide(seed=4), member_bias=-bias)
    assert (replace(one, member_bias=bias).predicted, other.predicted) == ("tumour", "normal")
    found = subtract_scores(
        ScoreSource("a", replace(one, member_bias=bias)),
        ScoreSource("b", other),
        DisplaySettings(score="contribution", scale="raw"),
    )
    np.testing.assert_allclose(
        found.values, one.contributions[:, 1] - other.contributions[:, 1], atol=1e-12
    )
    assert "contribution to tumour" in found.label


def test_warns_instead_of_subtracting_a_model_without_that_class(
    viewer: ViewerModel, predict_slide: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr("napari_milpath.inspection.show_warning", warnings.append)
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    other = replace(predict_slide(seed=1), class_names=("healthy", "lesion"))
    viewer.add_layer(Layer.create(*read_attention(other)))
    inspection = Inspection(viewer)
    inspection.show(score="contribution")
    assert warnings == []
    inspection.choose(inspection.sources[0], inspection.sources[3])
    assert inspection.subtracted is None
    assert len(warnings) == 1
    assert "noise-ü attention [1] cannot be subtracted: no class" in warnings[0]


# -- what is exported is what is displayed ---------------------------------------------------------


@pytest.mark.parametrize("score", ["attention", "contribution"])
@pytest.mark.parametrize("scale", ["relative", "percentile", "raw"])
def test_every_export_leaves_out_what_the_threshold_hides(
    viewer: ViewerModel, predict_slide: Make, tmp_path: Path, score: str, scale: str
) -> None:
    layer = viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    inspection.show(score=score, scale=scale, threshold=0.55)
    low, high = layer.contrast_limits
    fraction = (layer.data.ravel().astype(float) - low) / (high - low)
    visible = layer.colormap.map(fraction.clip(0, 1))[:, 3] > 0  # as napari draws it
    assert 0 < visible.sum() < 130
    table = read_table(inspection, tmp_path)
    assert [row["visible"] == "yes" for row in table] == visible.tolist()
    names = [feature["name"] for feature in read_features(inspection, tmp_path)]
    assert names == [f"patch {row}" for row in np.flatnonzero(visible)]
    plan_export(inspection, tmp_path / "e.ome.tif")()
    numbers = tifffile.imread(tmp_path / "e.ome.tif")
    np.testing.assert_array_equal(np.isfinite(numbers).ravel(), visible)
    plan_export(inspection, tmp_path / "e.rgb.ome.tif")()
    coloured = (tifffile.imread(tmp_path / "e.rgb.ome.tif") != 255).any(axis=-1)
    assert not coloured.ravel()[~visible].any()


def test_exports_have_the_displayed_colours(
    viewer: ViewerModel, predict_slide: Make, tmp_path: Path
) -> None:
    layer = viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    inspection.show(palette="magma")
    layer.contrast_limits = (0.5, 3.0)
    layer.gamma = 0.8
    layer.opacity = 0.6
    fraction = ((layer.data.ravel().astype(float) - 0.5) / 2.5).clip(0, 1) ** 0.8
    rgba = np.asarray(layer.colormap.map(fraction))
    plan_export(inspection, tmp_path / "e.rgb.ome.tif")()
    on_white = 1 - 0.6 * rgba[:, 3:] * (1 - rgba[:, :3])
    found = tifffile.imread(tmp_path / "e.rgb.ome.tif").reshape(-1, 3)
    assert np.abs(found - 255 * on_white).max() <= 4  # 256 steps of the scale
    colours = [feature["color"] for feature in read_features(inspection, tmp_path)]
    assert np.abs(colours - 255 * rgba[:, :3]).max() <= 1
    with Slide(inspection.pyramid.path) as slide:  # type: ignore[union-attr]
        drawn = blend(inspection.heatmap, fit_thumbnail(slide, 750), inspection.image.to_scale())  # type: ignore[arg-type, union-attr]
        plain = blend(inspection.heatmap, fit_thumbnail(slide, 750))  # type: ignore[arg-type]
    assert (drawn != plain).any()


def test_a_picture_shows_the_slide_where_the_threshold_hides_the_heatmap(
    viewer: ViewerModel, predict_slide: Make
) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    inspection.show(threshold=1.0)
    assert inspection.image is not None
    assert inspection.heatmap is not None
    assert inspection.pyramid is not None
    with Slide(inspection.pyramid.path) as slide:
        thumbnail = fit_thumbnail(slide, 750)
    drawn = blend(inspection.heatmap, thumbnail, inspection.image.to_scale())
    np.testing.assert_array_equal(drawn, thumbnail.rgb)


def test_raises_for_an_export_of_which_nothing_is_displayed(
    viewer: ViewerModel, predict_slide: Make, tmp_path: Path
) -> None:
    layer = viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    inspection.show(threshold=1.0)
    for name in ("e.geojson", "e.ome.tif", "e.rgb.ome.tif"):
        with pytest.raises(UsageError, match="no patch is displayed"):
            plan_export(inspection, tmp_path / name)
    inspection.show(threshold=0.0)
    layer.visible = False
    with pytest.raises(UsageError, match="layer is hidden"):
        plan_export(inspection, tmp_path / "e.csv")


def test_layer_colour_bar_panel_and_table_are_in_the_same_unit(
    viewer: ViewerModel, predict_slide: Make, tmp_path: Path
) -> None:
    prediction = predict_slide()
    layer = viewer.add_layer(Layer.create(*read_attention(prediction)))
    inspection = Inspection(viewer)
    assert inspection.image is not None
    value = 130 * prediction.attention[29]
    assert layer.data[2, 3] == pytest.approx(value, rel=1e-6)  # napari's status bar
    assert layer.contrast_limits == pytest.approx((0.1, 10))  # napari's colour bar
    assert format_tick(inspection.image, 0.0) == "0.1×"
    assert format_tick(inspection.image, 1.0) == "10×"
    assert float(read_table(inspection, tmp_path)[29]["displayed"]) == pytest.approx(value)
    assert f"{value:.3g}× the mean" in inspection.describe_patch(29)


# -- napari's own controls -------------------------------------------------------------------------


def test_follows_contrast_limits_gamma_and_opacity(
    viewer: ViewerModel, predict_slide: Make
) -> None:
    layer = viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    signals: list[str] = []
    inspection.restyled.connect(lambda: signals.append("restyled"))
    layer.contrast_limits = (0.5, 2.0)
    assert inspection.image is not None
    assert inspection.image.limits == (0.5, 2.0)
    assert format_tick(inspection.image, 0.5) == "1×"
    colours = np.asarray(layer.colormap.map(np.array([(1.01 - 0.5) / 1.5])))
    np.testing.assert_allclose(colours[0], inspection.image.rgba[129], atol=0.02)
    layer.gamma = 2.0
    layer.opacity = 0.25
    assert (inspection.image.gamma, inspection.image.opacity) == (2.0, 0.25)
    assert len(signals) == 3
    inspection.show(threshold=0.5, palette="magma")
    assert inspection.image.limits == (0.5, 2.0)
    assert layer.contrast_limits == [0.5, 2.0]
    inspection.show(scale="raw")
    assert layer.contrast_limits[1] < 1
    assert inspection.image.limits == tuple(layer.contrast_limits)
    assert inspection.image.gamma == 2.0


@pytest.mark.parametrize("limits", [(0.0, 2.0), (-1.0, 2.0), (-2.0, -1.0)])
def test_a_logarithmic_scale_bears_limits_that_have_no_logarithm(
    viewer: ViewerModel, predict_slide: Make, limits: tuple[float, float]
) -> None:
    layer = viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    layer.contrast_limits_range = (-5, 10)
    layer.contrast_limits = limits
    assert inspection.image is not None
    low, high = inspection.image.ends
    assert 0 < low < high
    assert tuple(layer.contrast_limits) == inspection.image.limits
    assert np.isfinite(inspection.image.scale_colours).all()


def test_follows_a_colormap_chosen_in_napari(viewer: ViewerModel, predict_slide: Make) -> None:
    layer = viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    layer.colormap = "green"
    assert inspection.image is not None
    assert getattr(inspection.settings.palette, "name", "") == "green"
    np.testing.assert_allclose(inspection.image.scale_colours[-1], (0, 1, 0, 1), atol=0.01)
    np.testing.assert_allclose(layer.colormap.map(np.array([1.0]))[0], (0, 1, 0, 1), atol=0.01)
    inspection.show(scale="percentile", threshold=0.5)
    alpha = layer.colormap.map(np.array([0.49, 0.51]))[:, 3]
    assert alpha.tolist() == [0, 1]
    inspection.show(palette="viridis")
    assert inspection.image.scale_colours[-1][0] > 0.9


def test_says_nothing_of_a_hidden_prediction_and_chooses_one_made_visible(
    viewer: ViewerModel, predict_slide: Make
) -> None:
    first = viewer.add_layer(Layer.create(*read_attention(predict_slide(members=1))))
    second = viewer.add_layer(Layer.create(*read_attention(predict_slide(seed=1, members=1))))
    inspection = Inspection(viewer)
    caption = viewer.canvas.overlays.text
    assert caption.visible
    second.visible = False
    assert inspection.hidden
    assert not caption.visible
    second.visible = True
    assert caption.visible
    second.opacity = 0
    assert not caption.visible
    first.visible = True
    assert inspection.layer is first
    assert (first.visible, second.visible) == (True, False)
    assert caption.visible
    viewer.layers.remove(first)
    assert inspection.layer is second
    viewer.layers.clear()
    assert (inspection.source, inspection.image, caption.visible) == (None, None, False)


def test_follows_a_new_name_of_a_layer(viewer: ViewerModel, predict_slide: Make) -> None:
    layer = viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    inspection.choose(inspection.sources[1], inspection.sources[2])
    inspection.go_to(7)
    layer.name = "reader A"
    assert [source.name for source in inspection.sources] == [
        "reader A",
        "reader A, member 0",
        "reader A, member 1",
    ]
    assert inspection.source is inspection.sources[1]
    assert inspection.subtracted is inspection.sources[2]
    assert inspection.patch == 7
    assert inspection.scores is not None
    assert inspection.scores.label.endswith("reader A, member 0 minus reader A, member 1")
    assert "reader A" in viewer.canvas.overlays.text.text


def read_table(inspection: Inspection, folder: Path) -> list[dict[str, str]]:
    plan_export(inspection, folder / "e.csv")()
    with (folder / "e.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def read_features(inspection: Inspection, folder: Path) -> list[dict[str, Any]]:
    """Return the properties of each exported tile."""
    plan_export(inspection, folder / "e.geojson")()
    found = json.loads((folder / "e.geojson").read_text(encoding="utf-8"))["features"]
    return [feature["properties"] for feature in found]


def read_titles(inspection: Inspection, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the lines of the title of an exported picture."""
    titles: list[str] = []

    def note(path: Path, slide: Slide, heatmap: Heatmap, title: str, **options: Any) -> None:
        titles.extend(title.split("\n"))
        write_overlay(path, slide, heatmap, title, **options)

    with monkeypatch.context() as patch:
        patch.setattr("napari_milpath.exporting.write_overlay", note)
        plan_export(inspection, folder / "e.png")()
    return titles
