"""A slide is classified as its bag would be, once, by the model that fits it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax
from support.drawing import noise, write_levels
from support.nn_tools import Floats, make_bundle, make_member

from milpath.cohort.cohort import SlideEntry
from milpath.errors import ResolutionError, SlideReadError, UnsupportedSlideError
from milpath.formats.bag import Bag
from milpath.formats.prediction import read_prediction
from milpath.nn.bundle import Bundle
from milpath.nn.classify import Classifier, classify_slide
from milpath.nn.mil import build_evidence, build_mil
from milpath.nn.predict import prepare_model
from milpath.nn.scoring import FEATURES_BATCH, collect_evidence, pool_evidence
from milpath.params import CodecParams, GridParams, TileParams
from milpath.patches import reader as patch_stream
from milpath.patches.grid import PatchGrid
from milpath.predictions_table import summarize_prediction
from milpath.runs import Outcome, run_job
from milpath.slides.annotation import Polygon, write_annotation
from milpath.slides.slide import Slide
from milpath.synthetic import SyntheticSlide, draw_slide
from milpath.synthetic.pyramid import write_pyramid
from milpath.tile import tile_slide

RAW = TileParams(grid=GridParams(mpp=1.6, patch_px=32), pixels=CodecParams(codec="raw"))


@pytest.fixture(scope="module")
def entry(drawn: SyntheticSlide) -> SlideEntry:
    return SlideEntry(drawn.path, "drawn-ü")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("pair"), members=2, seed=3, tile=RAW)


@pytest.fixture(scope="module")
def classifier(pair: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier(prepare_model(pair), tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def outcome(classifier: Classifier, entry: SlideEntry) -> Outcome:
    """Of the first time that the synthetic slide is classified."""
    return classifier(entry)


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> SlideEntry:
    path = tmp_path_factory.mktemp("blank") / "blank.tif"
    options = {"tumour": False, "tissue": False, "artefacts": False}
    draw_slide(path, seed=1, size_px=(512, 512), **options)
    return SlideEntry(path, "blank")


# -- a slide -------------------------------------------------------------------------------------


def test_a_prediction_and_its_picture_are_written(
    classifier: Classifier, outcome: Outcome, drawn: SyntheticSlide
) -> None:
    assert outcome.status == "ok"
    found = read_prediction(classifier.out / "drawn-ü.prediction.h5")
    assert found.slide.slide_id == "drawn-ü"
    assert found.model == classifier.model.spec.fingerprint
    assert found.class_names == ("normal", "tumour")
    assert len(found.grid) > 100
    assert found.probs.sum() == pytest.approx(1)
    assert outcome.facts.prediction == summarize_prediction(found)
    assert outcome.message.startswith(f"predicted {found.predicted} (probability ")
    assert sorted(file.name for file in classifier.out.iterdir()) == [
        "drawn-ü.png",
        "drawn-ü.prediction.h5",
    ]
    with Image.open(classifier.out / "drawn-ü.png") as picture:
        assert min(picture.size) > 100


def test_a_slide_is_classified_as_its_own_bag_is(
    classifier: Classifier, outcome: Outcome, pair: Bundle, entry: SlideEntry, tmp_path: Path
) -> None:
    assert outcome.status == "ok"
    found = read_prediction(classifier.out / "drawn-ü.prediction.h5")
    tile_slide(entry, tmp_path, RAW)
    with Bag(tmp_path / "drawn-ü.h5") as bag:
        assert (bag.grid.coords == found.grid.coords).all()
        patches = bag.read_patches(np.arange(len(bag)))
    whole = {"instances": patches[None], "mask": np.ones((1, len(patches)), np.bool_)}
    for place, member in enumerate(pair.members):
        model = build_mil((32, 32, 3), member.head, member.encoder)
        logits = model.predict_on_batch(whole)[0]
        assert found.member_logits[place] == pytest.approx(logits, abs=1e-5)


def test_contributions_and_bias_are_the_logit_exactly(
    classifier: Classifier, outcome: Outcome
) -> None:
    assert outcome.status == "ok"
    found = read_prediction(classifier.out / "drawn-ü.prediction.h5")
    assert found.contributions.sum(axis=0) + found.bias == pytest.approx(found.logits, abs=1e-9)
    assert found.member_attention.sum(axis=1) == pytest.approx(np.ones(2), abs=1e-9)


def test_an_ensemble_is_the_softmax_of_its_mean_logits(
    classifier: Classifier, outcome: Outcome
) -> None:
    assert outcome.status == "ok"
    found = read_prediction(classifier.out / "drawn-ü.prediction.h5")
    assert found.member_logits.shape == (2, 2)
    assert found.probs == pytest.approx(softmax(found.member_logits.mean(axis=0)), abs=1e-12)
    assert found.spread.min() > 0
    assert outcome.facts.prediction.spread == found.spread.max()


def test_a_second_run_does_nothing(
    classifier: Classifier, outcome: Outcome, entry: SlideEntry
) -> None:
    file = classifier.out / "drawn-ü.prediction.h5"
    before = file.stat().st_mtime_ns
    again = classifier(entry)
    assert again.status == "skipped"
    assert again.message == f"{outcome.message}, already done with this model"
    assert again.facts == outcome.facts
    assert file.stat().st_mtime_ns == before


def test_a_missing_picture_is_rendered_again_from_the_prediction(
    pair: Bundle, classifier: Classifier, outcome: Outcome, entry: SlideEntry, tmp_path: Path
) -> None:
    kept = (classifier.out / "drawn-ü.prediction.h5").read_bytes()
    (tmp_path / "drawn-ü.prediction.h5").write_bytes(kept)
    again = Classifier(prepare_model(pair), tmp_path)(entry)
    assert again.status == outcome.status == "ok"
    assert again.facts == outcome.facts
    assert (tmp_path / "drawn-ü.png").exists()


def test_the_prediction_of_another_model_is_not_used_again(
    classifier: Classifier, outcome: Outcome, entry: SlideEntry, tmp_path: Path
) -> None:
    assert outcome.status == "ok"
    for name in ("drawn-ü.prediction.h5", "drawn-ü.png"):
        (tmp_path / name).write_bytes((classifier.out / name).read_bytes())
    other = make_bundle(tmp_path / "model", seed=8, tile=RAW)
    again = Classifier(prepare_model(other), tmp_path)(entry)
    assert again.status == "ok"
    assert again.message.endswith(", re-classified: the model differs")
    assert read_prediction(tmp_path / "drawn-ü.prediction.h5").model == other.spec.fingerprint


def test_a_tissue_annotation_decides_what_is_tissue_and_is_part_of_the_fingerprint(
    pair: Bundle, outcome: Outcome, entry: SlideEntry, tmp_path: Path
) -> None:
    left = Polygon(np.array([[0.0, 0.0], [500.0, 0.0], [500.0, 1500.0], [0.0, 1500.0]]))
    write_annotation(tmp_path / "left.geojson", [left])
    classifier = Classifier(prepare_model(pair), tmp_path / "out")
    classifier(replace(entry, annotation=tmp_path / "left.geojson"))
    path = tmp_path / "out" / "drawn-ü.prediction.h5"
    annotated = read_prediction(path)
    side = annotated.grid.patch_size_l0
    assert (annotated.grid.coords[:, 0] + side * 0.25 <= 500).all()
    assert len(annotated.grid) != outcome.facts.prediction.patches
    again = classifier(entry)  # not skipped: the tissue is another
    assert ", re-classified: " in again.message
    found = read_prediction(path)
    assert found.model == annotated.model == pair.spec.fingerprint
    assert found.annotation is None
    assert annotated.annotation is not None


def test_a_damaged_prediction_is_replaced(
    pair: Bundle, outcome: Outcome, entry: SlideEntry, tmp_path: Path
) -> None:
    (tmp_path / "drawn-ü.prediction.h5").write_text("damaged")
    (tmp_path / "drawn-ü.png").write_text("damaged")
    again = Classifier(prepare_model(pair), tmp_path)(entry)
    assert again.status == "ok"
    assert again.facts == outcome.facts


def test_a_slide_without_tissue_has_no_class(
    pair: Bundle, blank: SlideEntry, tmp_path: Path
) -> None:
    job = Classifier(prepare_model(pair), tmp_path)
    first, second = job(blank), job(blank)
    assert (first.status, second.status) == ("no_tissue", "skipped")
    assert first.message == "no tissue found, so no class"
    assert first.facts.prediction.predicted is None
    found = read_prediction(tmp_path / "blank.prediction.h5")
    assert found.status == "no_tissue"
    assert np.isnan(found.probs).all()
    assert not (tmp_path / "blank.png").exists()


def test_a_slide_too_coarse_for_the_model_fails_with_advice_that_classify_can_follow(
    classifier: Classifier, tmp_path: Path
) -> None:
    coarse = SlideEntry(write_levels(tmp_path / "c.tif", [noise(300, 300)], (2.1, 2.1)), "coarse")
    for predict in (classifier.predict, None):
        with pytest.raises(ResolutionError, match="which is the model's; classify a finer scan"):
            classify_slide(
                coarse, tmp_path, classifier.model.spec, predict, dry_run=predict is None
            )


def test_a_dark_slide_raises_by_a_bright_model(
    pair: Bundle, drawn: SyntheticSlide, tmp_path: Path
) -> None:
    with Slide(drawn.path) as slide:
        bright = slide.read_region((0, 0), slide.dimensions, slide.dimensions, 0)
    write_pyramid(tmp_path / "dark.tif", 255 - bright, 1.0)
    job = Classifier(prepare_model(pair), tmp_path / "out")
    with pytest.raises(UnsupportedSlideError, match=r"dark\.tif: has a dark background, the mod"):
        job(SlideEntry(tmp_path / "dark.tif", "dark"))
    assert not list((tmp_path / "out").glob("*"))


def test_a_bright_slide_raises_by_a_dark_model(entry: SlideEntry, tmp_path: Path) -> None:
    dark = make_bundle(tmp_path / "model", background="dark", tile=RAW)
    (refused,) = run_job(Classifier(prepare_model(dark), tmp_path / "out"), [entry])
    assert refused.status == "failed"
    assert "has a bright background" in refused.message


def test_an_unreadable_patch_is_left_out(
    classifier: Classifier,
    outcome: Outcome,
    entry: SlideEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read_patch(slide: Slide, grid: PatchGrid, row: int) -> NDArray[np.uint8] | SlideReadError:
        return SlideReadError("damaged") if row == 5 else read(slide, grid, row)

    assert outcome.status == "ok"
    whole = read_prediction(classifier.out / "drawn-ü.prediction.h5")
    read = patch_stream.read_patch
    monkeypatch.setattr(patch_stream, "read_patch", read_patch)
    monkeypatch.setattr(patch_stream, "open_tiff_level", lambda *_: None)
    with entry.open() as slide:
        found = classifier.predict(slide)
    rest = np.delete(np.arange(len(whole.grid)), 5)
    assert (found.grid.coords == whole.grid.coords[rest]).all()
    expected = whole.member_attention[:, rest]
    expected = expected / expected.sum(axis=1, keepdims=True)
    assert found.member_attention == pytest.approx(expected, abs=1e-6)


def test_a_slide_is_classified_as_its_jpeg_bag_is_to_the_last_bit(
    entry: SlideEntry, tmp_path: Path
) -> None:
    tile = TileParams(grid=GridParams(mpp=1.6, patch_px=32))
    bundle = make_bundle(tmp_path / "model", tile=tile)
    job = Classifier(prepare_model(bundle), tmp_path / "out")
    with entry.open() as slide:
        direct = job.predict(slide)
    tile_slide(entry, tmp_path / "bags", tile)
    with Bag(tmp_path / "bags" / f"{entry.slide_id}.h5") as bag:
        attention, _ = pool_evidence(*collect_evidence(job.model.evidence, bag.iter_patches(64)))
    assert (direct.member_attention == attention).all()


def test_results_of_a_replaced_slide_are_removed(
    pair: Bundle, drawn: SyntheticSlide, blank: SlideEntry, tmp_path: Path
) -> None:
    slide = tmp_path / "x.tif"
    slide.write_bytes(drawn.path.read_bytes())
    job = Classifier(prepare_model(pair), tmp_path / "out")
    assert job(SlideEntry(slide, "x")).status == "ok"
    assert (tmp_path / "out" / "x.png").exists()
    slide.write_bytes(blank.path.read_bytes())
    assert job(SlideEntry(slide, "x")).status == "no_tissue"
    assert not (tmp_path / "out" / "x.png").exists()


def test_results_of_a_slide_that_cannot_be_read_are_kept(
    pair: Bundle, drawn: SyntheticSlide, tmp_path: Path
) -> None:
    slide = tmp_path / "x.tif"
    slide.write_bytes(drawn.path.read_bytes())
    job = Classifier(prepare_model(pair), tmp_path / "out")
    assert job(SlideEntry(slide, "x")).status == "ok"
    slide.rename(tmp_path / "away")
    (failed,) = run_job(job, [SlideEntry(slide, "x")])
    assert failed.status == "failed"
    (tmp_path / "away").rename(slide)
    assert job(SlideEntry(slide, "x")).status == "skipped"


# -- the stream ----------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_patches() -> None:
    keras.utils.set_random_seed(0)
    members = [make_member(3, side=None, dim=512) for _ in range(2)]
    model = build_evidence((512,), members)
    alive = 0

    def stream(count: int) -> Iterator[NDArray[np.float32]]:
        nonlocal alive
        for number in range(count):
            alive += 1
            yield np.full((64, 512), number, np.float32)

    collect_evidence(model, stream(2))
    tracemalloc.start()
    scores, evidence = collect_evidence(model, stream(1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert alive == 1002
    assert scores.shape == (2, 1000 * 64)
    assert evidence.shape == (2, 1000 * 64, 3)
    kept = scores.nbytes + evidence.nbytes
    assert kept == 1000 * 64 * 2 * (1 + 3) * 8
    batch = FEATURES_BATCH * 512 * 4
    assert peak < 3 * kept + 2 * batch < 1000 * 64 * 512 * 4 / 5


def test_batches_of_any_size_reach_the_network_at_one_size() -> None:
    keras.utils.set_random_seed(0)
    model = build_evidence((6,), [make_member(2, side=None, dim=6)])
    rows = np.random.default_rng(0).normal(size=(70, 6)).astype(np.float32)
    traced = 0
    predict = model.predict_on_batch

    def counted(batch: NDArray[np.float32]) -> object:
        nonlocal traced
        traced += 1
        assert batch.shape == (32, 6)
        return predict(batch)

    model.predict_on_batch = counted
    one = collect_evidence(model, [rows[:64], rows[64:65], rows[65:]], batch=32)
    assert traced == 3
    model.predict_on_batch = predict
    other = collect_evidence(model, [rows])
    for left, right in zip(one, other, strict=True):
        assert left == pytest.approx(right, abs=1e-6)


def test_scores_of_any_size_pool_without_overflow() -> None:
    scores: Floats = np.array([[1e4, 1e4 + 1, -1e4]])
    attention, _ = pool_evidence(scores, np.ones((1, 3, 2)))
    assert attention[0] == pytest.approx(softmax([0.0, 1.0, -np.inf]), abs=1e-12)
