"""What is inspected follows the viewer's layers, and says what the prediction says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Layer
from support.drawing import noise, write_levels

from milpath.errors import UsageError
from milpath.formats.prediction import Prediction
from milpath.slides.slide import Slide
from napari_milpath.album import Album, read_thumbnails
from napari_milpath.exporting import plan_export
from napari_milpath.histogram import count_scores, say_score
from napari_milpath.inspection import FORCED, Inspection, say_concentration, say_prediction
from napari_milpath.layers import slide_layer
from napari_milpath.look import Look, Voice, say_agreement, subtract_voice, voices_of
from napari_milpath.pyramid import Pyramid
from napari_milpath.reader import add_layers, read_attention

Make = Callable[..., Prediction]


@pytest.fixture
def viewer(pyramid: Pyramid) -> ViewerModel:
    """A viewer with a slide."""
    made = ViewerModel()
    made.add_layer(Layer.create(*slide_layer(pyramid)))
    return made


def test_a_prediction_that_is_opened_is_shown_and_the_others_hidden(
    viewer: ViewerModel, predict_slide: Make
) -> None:
    inspection = Inspection(viewer)
    assert inspection.voice is None
    first = viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    second = viewer.add_layer(Layer.create(*read_attention(predict_slide(seed=1, members=1))))
    assert inspection.layer is second
    assert (first.visible, second.visible) == (False, True)
    assert [voice.name for voice in inspection.voices] == [
        "noise-ü attention",
        "noise-ü attention, member 0",
        "noise-ü attention, member 1",
        "noise-ü attention [1]",
    ]
    inspection.choose(inspection.voices[2])
    assert (first.visible, second.visible) == (True, False)
    viewer.layers.remove(second)
    assert inspection.layer is first
    assert inspection.voice is not None
    assert inspection.voice.member == 1
    viewer.layers.remove(first)
    assert inspection.voice is None
    assert not viewer.canvas.overlays.text.visible


def test_the_layer_shows_the_numbers_that_were_chosen(
    viewer: ViewerModel, predict_slide: Make
) -> None:
    prediction = predict_slide()
    layer = viewer.add_layer(Layer.create(*read_attention(prediction)))
    inspection = Inspection(viewer)
    expected = np.log10(prediction.attention * 130).reshape(10, 13)
    np.testing.assert_allclose(layer.data, expected, rtol=1e-5)
    inspection.show(scale="raw")
    np.testing.assert_allclose(layer.data, prediction.attention.reshape(10, 13), rtol=1e-5)
    inspection.show(score="contribution", class_name="normal")
    expected = prediction.contributions[:, 0].reshape(10, 13)
    np.testing.assert_allclose(layer.data, expected, rtol=1e-5)
    assert layer.contrast_limits[0] == -layer.contrast_limits[1]
    assert "contribution to normal" in viewer.canvas.overlays.text.text


def test_a_threshold_hides_the_weak_without_touching_the_numbers(
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


def test_hovering_finds_the_patch_whose_square_it_is(
    viewer: ViewerModel, predict_slide: Make
) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    # the patch in row 2, column 3 begins at x 350, y 220: its first pixel's centre is there
    assert inspection.patch_at((220 * 0.5, 350 * 0.5)) == 2 * 13 + 3
    assert inspection.patch_at((219.49 * 0.5, 350 * 0.5)) == 1 * 13 + 3
    assert inspection.patch_at((220 * 0.5, 349.49 * 0.5)) == 2 * 13 + 2
    assert inspection.patch_at((10 * 0.5, 10 * 0.5)) == -1
    said = inspection.say_patch(29)
    assert "patch 29 at x 0.200 mm, y 0.135 mm" in said
    assert f"{inspection.voice.attention[29]:.3g}" in said  # type: ignore[union-attr]
    assert inspection.say_patch(-1) == ""


def test_flying_to_a_patch_centres_and_frames_it(viewer: ViewerModel, predict_slide: Make) -> None:
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


def test_a_slide_that_does_not_know_its_resolution_takes_its_predictions(
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


def test_closing_leaves_the_viewer_alone(viewer: ViewerModel, predict_slide: Make) -> None:
    inspection = Inspection(viewer)
    inspection.close()
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    assert inspection.voice is None
    assert viewer.mouse_move_callbacks == []


def test_a_prediction_of_another_slide_says_so_as_long_as_it_lies_over_that(
    viewer: ViewerModel, predict_slide: Make, tmp_path: Path
) -> None:
    right = predict_slide()
    wrong = replace(right, slide=replace(right.slide, quickhash="0ther"))
    inspection = Inspection(viewer)
    heard: list[bool] = []
    inspection.changed.connect(lambda: heard.append(inspection.forced))
    caption = viewer.canvas.overlays.text
    add_layers(viewer, lambda: [read_attention(wrong)])
    assert inspection.forced
    assert caption.text.replace("\N{NO-BREAK SPACE}", "").endswith(FORCED)
    plan_export(inspection, tmp_path / "forced.png")()
    viewer.add_layer(Layer.create(*read_attention(right)))
    assert not inspection.forced
    assert "forced" not in caption.text
    inspection.choose(inspection.voices[0])
    assert inspection.forced
    slide = viewer.layers[0]
    viewer.layers.remove(slide)
    assert not inspection.forced
    assert "forced" not in caption.text
    viewer.layers.insert(0, slide)
    assert inspection.forced
    assert heard == [True, False, True, False, True]
    inspection.choose(inspection.voices[3])
    plan_export(inspection, tmp_path / "right.png")()
    assert (tmp_path / "forced.png").read_bytes() != (tmp_path / "right.png").read_bytes()


# -- in words --------------------------------------------------------------------------------------


def test_the_title_gives_every_classs_probability_the_greatest_first(predict_slide: Make) -> None:
    whole, first, _ = voices_of("x", predict_slide())
    likely = whole.prediction.predicted
    assert say_prediction(whole).startswith(f"noise-ü: {likely} {whole.probs.max():.3f}, ")
    assert say_prediction(whole).endswith("over the ensemble)")
    assert say_prediction(first).startswith("noise-ü, member 0: ")


def test_an_even_attention_rests_on_all_patches_and_a_hot_one_on_one(predict_slide: Make) -> None:
    even = Voice("x", predict_slide(attention=np.ones(130), members=1))
    assert "about 130 of 130 patches" in say_concentration(replace_even(even))
    hot = Voice("x", predict_slide(attention=np.where(np.arange(130) == 7, 1, 1e-9)))
    assert "about 1 of 130 patches; the top 1 hold 100% of it" in say_concentration(hot)


def replace_even(voice: Voice) -> Voice:
    weights = np.full_like(voice.prediction.member_attention, 1 / len(voice.prediction.grid))
    return Voice("x", replace(voice.prediction, member_attention=weights))


def test_a_voice_less_itself_is_nothing_and_less_another_their_difference(
    predict_slide: Make,
) -> None:
    one, other = Voice("a", predict_slide()), Voice("b", predict_slide(seed=3))
    assert not subtract_voice(one, one, Look()).values.any()
    found = subtract_voice(one, other, Look())
    np.testing.assert_allclose(found.values, 130 * (one.attention - other.attention))
    assert found.signed
    assert found.label == "attention, relative to the slide's mean: a less b"
    assert say_agreement(one, one, Look()) == "rank correlation 1.00; 20 of the top 20 in common"


def test_predictions_with_other_patches_differ_only_where_both_have_one(
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
    found = subtract_voice(Voice("a", one), Voice("b", part), Look(scale="raw")).values
    assert np.isnan(found[1::2]).all()
    np.testing.assert_allclose(found[::2], one.attention[::2] - whole.attention[::2])


def test_the_histogram_counts_every_patch_once(viewer: ViewerModel, predict_slide: Make) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    assert inspection.shown is not None
    assert inspection.scores is not None
    counts = count_scores(inspection.shown, inspection.scores.values)
    assert counts.sum() == 130
    assert say_score(inspection.shown, 0.5) == "1×"


# -- the album -------------------------------------------------------------------------------------


def test_an_album_steps_through_the_strongest_and_around(
    viewer: ViewerModel, predict_slide: Make
) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    album = Album(inspection)
    album.pick(3, weakest=False)
    seen = []
    for by in (1, 1, 1, 1, -1, -1):
        album.step(by)
        seen.append(album.rows.tolist().index(inspection.patch))
    assert seen == [0, 1, 2, 0, 2, 1]


def test_marks_are_saved_with_their_patches_scores(
    viewer: ViewerModel, predict_slide: Make, tmp_path: Path
) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    album = Album(inspection)
    inspection.go_to(40)
    album.mark("relevant")
    inspection.go_to(7)
    album.mark("unsure")
    album.mark("not")
    assert album.save_marks(tmp_path / "m.csv") == 2
    lines = (tmp_path / "m.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["patch", "7", "40"]
    assert [line.split(",")[-1] for line in lines] == ["mark", "not", "relevant"]


def test_each_prediction_keeps_its_marks(viewer: ViewerModel, predict_slide: Make) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide(members=1))))
    viewer.add_layer(Layer.create(*read_attention(predict_slide(seed=1, members=1))))
    inspection = Inspection(viewer)
    album = Album(inspection)
    inspection.go_to(7)
    album.mark("relevant")
    inspection.choose(inspection.voices[0])
    assert album.marks == {}
    inspection.choose(inspection.voices[1])
    assert album.marks == {7: "relevant"}


def test_an_album_hears_of_other_scores_and_of_another_slide(
    viewer: ViewerModel, predict_slide: Make
) -> None:
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    inspection = Inspection(viewer)
    album = Album(inspection)
    heard: list[str] = []
    album.changed.connect(lambda: heard.append("changed"))
    album.rescored.connect(lambda: heard.append("rescored"))
    inspection.show(scale="percentile")  # the same order, in other numbers
    inspection.show(threshold=0.5)
    slide = viewer.layers.pop(0)
    viewer.layers.insert(0, slide)
    assert heard == ["rescored", "changed", "changed"]


def test_thumbnails_are_the_patches_and_a_damaged_one_is_none(
    pyramid: Pyramid, predict_slide: Make
) -> None:
    grid = predict_slide().grid
    found = dict(read_thumbnails(pyramid.slide, grid, np.array([0, 77])))
    assert list(found) == [0, 77]
    x, y = grid.coords[77]
    crop = noise(1100, 1500)[y : y + 100, x : x + 100]
    assert found[77] is not None
    assert found[77].shape == (128, 128, 3)
    assert found[77].mean() == pytest.approx(crop.mean(), abs=3)


# -- exporting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".geojson", ".ome.tif", ".rgb.ome.tif", ".csv"])
def test_what_is_shown_is_exported_by_the_files_name(
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


def test_an_export_without_a_prediction_or_a_known_format_is_refused(
    viewer: ViewerModel, predict_slide: Make, tmp_path: Path
) -> None:
    inspection = Inspection(viewer)
    with pytest.raises(UsageError, match="no prediction is shown"):
        plan_export(inspection, tmp_path / "e.png")()
    viewer.add_layer(Layer.create(*read_attention(predict_slide())))
    with pytest.raises(UsageError, match=r"^e\.gif: give a name that ends in \.png"):
        plan_export(inspection, tmp_path / "e.gif")()
    viewer.layers.pop(0)
    with pytest.raises(UsageError, match="needs the slide"):
        plan_export(inspection, tmp_path / "e.png")()
