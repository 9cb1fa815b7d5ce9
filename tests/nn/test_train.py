"""Training is reproducible, keeps its three sets apart, finds what there is, and writes it down."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from support.nn_tools import (
    HEAD,
    HEAD_ALONE,
    TiledCohort,
    make_bag,
    make_cohort,
    make_marked,
    member_file,
    random_patches,
)

from milpath.cohort.cohort import Cohort, SlideEntry
from milpath.errors import UsageError
from milpath.figures.overlay import overlay_title
from milpath.formats.bag import Bag
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.layout import (
    bag_path,
    features_path,
    metrics_path,
    space_path,
    unfinished_folder,
)
from milpath.formats.model_spec import EncoderSpec
from milpath.formats.prediction import MAX_DISTANCE
from milpath.nn import fit
from milpath.nn import train as training
from milpath.nn.bags import LabelledBag
from milpath.nn.bundle import load_bundle, save_encoder
from milpath.nn.classify import Classifier
from milpath.nn.data import BagSequence
from milpath.nn.embed import Embedder
from milpath.nn.encoders import SMALL, build_encoder, fingerprint_weights
from milpath.nn.encoders.encoder import NetworkEncoder
from milpath.nn.predict import load_model, predict_bag, prepare_model
from milpath.nn.predict_features import predict_features, prepare_for_features
from milpath.nn.train import TrainReport, train_cohort
from milpath.params import TrainParams

QUICK = TrainParams(head=HEAD, epochs=2, patches_per_bag=6, bag_batch=3)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def draw_features(folder: Path) -> tuple[Cohort, Path]:
    """Draw bags of features of three classes, and the encoder that could have made them."""
    bags = folder / "bags"
    spec = EncoderSpec(name=SMALL, patch_px=16, dim=128, weights="random")
    encoder = build_encoder(SMALL, 16)
    save_encoder(bags / "encoder", NetworkEncoder(encoder, spec))
    code = fingerprint_weights(encoder)
    made = make_marked(bags, 60, classes=3, dim=128, code=code)
    return make_cohort(folder, [f"c{bag.label}" for bag in made.records]), bags


@pytest.mark.slow
def test_three_classes_are_trained_from_cohort_to_model(tmp_path: Path) -> None:
    cohort, bags = draw_features(tmp_path)
    report = train_cohort(cohort, bags, tmp_path / "model", HEAD_ALONE)
    assert report.spec.class_names == ("c0", "c1", "c2")
    (sides,) = json.loads(metrics_path(tmp_path / "model").read_text())["folds"]
    model = prepare_for_features(load_bundle(tmp_path / "model"))
    for side, ids in sides.items():
        for slide_id in ids:
            path = features_path(bags, slide_id)
            with MilpathLayout().open(path, FeatureHints()) as features:
                prediction = predict_features(model, path, features)
            assert prediction.in_training == (side != "test")
            assert ("trained on this slide" in overlay_title(prediction)) == prediction.in_training
    assert report.evaluation.pooled["auc"].value == pytest.approx(1, abs=0.1)
    rows = read_csv(tmp_path / "model" / "held_out.csv")
    assert {row["label"] for row in rows} == {"c0", "c1", "c2"}
    for row in rows:
        probs = [float(row[f"prob_c{number}"]) for number in range(3)]
        assert sum(probs) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == f"c{np.argmax(probs)}"


# -- interrupted ---------------------------------------------------------------------------------


def test_finished_members_are_reused_after_an_interruption_and_give_the_same_model(
    tmp_path: Path,
) -> None:
    cohort, bags = draw_features(tmp_path)
    params = HEAD_ALONE.model_copy(update={"members": 2, "epochs": 4})

    def interrupt(member: int, epoch: int, losses: dict[str, float]) -> None:
        if member == 1:
            raise KeyboardInterrupt

    train_cohort(cohort, bags, tmp_path / "whole", params)
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train_cohort(cohort, bags, out, params, interrupt)
    assert not (out / "model.json").exists()
    assert len(list(unfinished_folder(out).glob("*.h5"))) == 1
    trained: set[int] = set()
    train_cohort(cohort, bags, out, params, lambda member, epoch, losses: trained.add(member))
    assert trained == {1}
    assert not unfinished_folder(out).exists()
    one, two = (
        {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "metrics.json"}
        for folder in (tmp_path / "whole", out)
    )
    assert one == two


@pytest.mark.parametrize("change", ["seed", "epochs", "label", "damage"])
def test_a_finished_member_of_another_training_is_not_reused(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    cohort, bags = draw_features(tmp_path)

    def interrupt(member: int, epoch: int, losses: dict[str, float]) -> None:
        if member == 1:
            raise KeyboardInterrupt

    params = HEAD_ALONE.model_copy(update={"members": 2, "epochs": 2})
    out = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        train_cohort(cohort, bags, out, params, interrupt)
    if change == "label":
        first, *others = cohort.entries
        cohort = Cohort(cohort.name, (replace(first, label="c1"), *others))
    elif change == "damage":
        (kept,) = unfinished_folder(out).glob("*.h5")
        kept.write_bytes(kept.read_bytes()[:-40])
    else:
        params = params.model_copy(update={change: 3})
    trained: set[int] = set()
    train_cohort(cohort, bags, out, params, lambda member, epoch, losses: trained.add(member))
    assert trained == {0, 1}
    assert ("cannot be reused" in caplog.text) == (change == "damage")


# -- the whole, from pixels ----------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One training of a cohort: what it read and what it wrote."""

    cohort: Cohort
    out: Path
    report: TrainReport
    trained: list[set[str]]
    """Slides that each member was trained on."""
    stopped: list[set[str]]
    tested: list[set[str]]
    epochs: list[tuple[int, int]]


@pytest.fixture(scope="module")
def run(tiled: TiledCohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two folds of two members, trained on the synthetic slides for two epochs."""
    out = tmp_path_factory.mktemp("trained")
    trained: list[set[str]] = []
    stopped: list[set[str]] = []
    tested: list[set[str]] = []
    epochs: list[tuple[int, int]] = []

    class Spy(BagSequence):
        def __init__(self, bags: Sequence[LabelledBag], *args: Any, **options: Any) -> None:
            super().__init__(bags, *args, **options)
            self.read: set[str] = set()
            (stopped if self.seed is None else trained).append(self.read)

        def _draw(self, place: int) -> NDArray[Any]:
            self.read.add(self.bags[place].slide_id)
            return super()._draw(place)

    def score(members: Any, bags: Sequence[LabelledBag], *args: Any) -> Any:
        tested.append({bag.slide_id for bag in bags})
        return real_score(members, bags, *args)

    real_score = training._score_held_out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "BagSequence", Spy)
        patch.setattr(training, "_score_held_out", score)
        report = train_cohort(
            tiled.cohort,
            tiled.bags,
            out,
            QUICK.model_copy(update={"folds": 2, "members": 2}),
            lambda member, epoch, losses: epochs.append((member, epoch)),
        )
    return Run(tiled.cohort, out, report, trained, stopped, tested, epochs)


def stain_green(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give tissue the colour of light green, as dark as it was."""
    darkness = -np.log10(np.maximum(patches, 1) / 255).mean(axis=-1, keepdims=True)
    green = 255 * 10 ** (-darkness * np.array([1.4, 0.4, 1.2]))
    return np.rint(green).astype(np.uint8)


@pytest.mark.slow
def test_a_slide_of_another_stain_is_farther_than_the_training_slides_and_warned_of(
    run: Run, tiled: TiledCohort, tmp_path: Path
) -> None:
    model = load_model(run.out)
    assert model.space is not None
    encoder = load_bundle(run.out).members[0].encoder
    entry = run.cohort.entries[0]
    with Bag(bag_path(tiled.bags, entry.slide_id)) as bag:
        patches = bag.read_patches(np.arange(len(bag)))
        known = predict_bag(model, bag)
    features = encoder.predict_on_batch(patches)
    by_hand = model.space.measure_slide(model.space.measure_patches(features))
    assert known.distance == pytest.approx(by_hand, rel=1e-3)
    assert known.distance is not None
    assert known.distance < 1.2
    stained = make_bag(tmp_path, "green", stain_green(patches), tile=model.spec.tile)
    with Bag(stained) as bag:
        unlike = predict_bag(model, bag)
    assert unlike.distance is not None
    assert unlike.distance > max(MAX_DISTANCE, known.distance)
    assert any("unlike the training slides" in warning for warning in unlike.warnings)
    assert "unlike the training slides" in overlay_title(unlike)


@pytest.mark.slow
def test_validation_and_test_slides_are_never_trained_on(run: Run) -> None:
    everyone = {entry.slide_id for entry in run.cohort.entries}
    assert len(run.trained) == len(run.stopped) == 4
    assert len(run.tested) == 2
    for member, (trained, stopped) in enumerate(zip(run.trained, run.stopped, strict=True)):
        tested = run.tested[member // 2]
        assert trained
        assert stopped
        assert trained | stopped | tested == everyone
        assert len(trained) + len(stopped) + len(tested) == len(everyone)


@pytest.mark.slow
def test_every_slide_is_held_out_once(run: Run) -> None:
    rows = read_csv(run.out / "held_out.csv")
    labels = {entry.slide_id: entry.label for entry in run.cohort.entries}
    assert sorted(row["slide"] for row in rows) == sorted(labels)
    assert all(row["label"] == labels[row["slide"]] for row in rows)
    assert len(run.report.evaluation.slides) == len(labels)
    assert [row["fold"] for row in rows] == sorted(row["fold"] for row in rows)
    assert {row["fold"] for row in rows} == {"1", "2"}
    for row in rows:
        probs = {name: float(row[f"prob_{name}"]) for name in ("normal", "tumour")}
        assert sum(probs.values()) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == max(probs, key=lambda name: probs[name])


@pytest.mark.slow
def test_training_writes_a_model_and_its_record(run: Run) -> None:
    assert sorted(file.name for file in run.out.iterdir()) == [
        "held_out.csv",
        "history.json",
        *(member_file(run.out, number).name for number in range(4)),
        "metrics.json",
        "model.json",
        space_path(run.out, run.report.spec.fingerprint).name,
        "training.png",
    ]
    bundle = load_bundle(run.out)
    assert bundle.spec == run.report.spec
    assert len(bundle.members) == 4
    assert bundle.spec.mode == "pixels"
    assert bundle.spec.encoder == EncoderSpec(name=SMALL, patch_px=32, dim=128, weights="trained")
    assert bundle.spec.training["slides"] == 12
    assert len({fingerprint_weights(member.head) for member in bundle.members}) == 4
    with Image.open(run.out / "training.png") as picture:
        assert min(picture.size) > 100


@pytest.mark.slow
def test_the_figures_have_intervals_and_their_slides_are_named(run: Run) -> None:
    record = json.loads((run.out / "metrics.json").read_text())
    assert set(record["metrics"]) == {"auc", "balanced_accuracy", "accuracy", "loss"}
    for figure in record["metrics"].values():
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert record["held_out_slides"] == record["held_out_cases"] == 12
    assert record["baseline"] is None  # there are no features to pool
    assert [set(fold["test"]) for fold in record["folds"]] == run.tested
    assert [set(fold["val"]) for fold in record["folds"]] == run.stopped[::2]
    rows = read_csv(run.out / "held_out.csv")
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert record["metrics"]["accuracy"]["value"] == pytest.approx(right)


@pytest.mark.slow
def test_the_callback_gets_the_epochs_of_the_written_history(run: Run) -> None:
    histories = json.loads((run.out / "history.json").read_text())
    assert len(histories) == 4
    assert all(len(history["val_loss"]) == 2 for history in histories)
    assert run.epochs == [(member, epoch) for member in range(4) for epoch in range(2)]


# -- the whole, from embeddings ------------------------------------------------------------------


@pytest.fixture
def embedded(tiled: TiledCohort, tmp_path: Path) -> Path:
    """Features of the synthetic slides by a small CNN of random weights."""
    keras.utils.set_random_seed(0)
    encoder = build_encoder(SMALL, 32)
    spec = EncoderSpec(
        name=SMALL,
        patch_px=32,
        dim=128,
        weights="random",
        mpp=2.0,
        digest=fingerprint_weights(encoder),
    )
    features = tmp_path / "features"
    frozen = NetworkEncoder(encoder, spec)
    save_encoder(features / "encoder", frozen)
    job = Embedder(frozen, features)
    for path in tiled.bags.glob("*.h5"):
        assert job(SlideEntry(path, path.stem)).status == "ok"
    return features


@pytest.mark.slow
def test_a_model_of_features_classifies_slides_as_it_was_tested(
    tiled: TiledCohort, embedded: Path, tmp_path: Path
) -> None:
    params = HEAD_ALONE.model_copy(update={"epochs": 3, "test_fraction": 0.4})
    report = train_cohort(tiled.cohort, embedded, tmp_path / "model", params)
    bundle = load_bundle(tmp_path / "model")
    assert bundle.spec == report.spec
    assert bundle.spec.encoder.weights == "random"
    assert bundle.encoder is not None
    by_id = {entry.slide_id: entry for entry in tiled.cohort.entries}
    classifier = Classifier(prepare_model(bundle), tmp_path / "results")
    rows = read_csv(tmp_path / "model" / "held_out.csv")
    assert len(rows) >= 4
    for row in rows[:2]:
        with by_id[row["slide"]].open() as slide:
            found = classifier.predict(slide)
        # from the slide itself: neither JPEG nor float16 stands between
        assert found.probs[1] == pytest.approx(float(row["prob_tumour"]), abs=0.05)


def test_features_of_another_encoder_raise(
    tiled: TiledCohort, embedded: Path, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(9)
    spec = EncoderSpec(name=SMALL, patch_px=32, dim=128, weights="random")
    save_encoder(embedded / "encoder", NetworkEncoder(build_encoder(SMALL, 32), spec))
    with pytest.raises(UsageError, match=r"were made by a different encoder than"):
        train_cohort(tiled.cohort, embedded, tmp_path / "model", HEAD_ALONE)
    assert not (tmp_path / "model").exists()


def test_bags_without_features_raise_when_the_head_is_trained_alone(
    tiled: TiledCohort, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is a bag of milpath"):
        train_cohort(tiled.cohort, tiled.bags, tmp_path / "model", HEAD_ALONE)


# -- what is refused before it starts ------------------------------------------------------------


def test_an_unknown_negative_class_raises(tiled: TiledCohort, tmp_path: Path) -> None:
    params = QUICK.model_copy(update={"negative": "benign"})
    with pytest.raises(UsageError, match=r"no such class; it has normal, tumour"):
        train_cohort(tiled.cohort, tiled.bags, tmp_path / "model", params)
    assert not (tmp_path / "model" / "model.json").exists()


def test_a_negative_class_needs_two_bags_per_batch() -> None:
    with pytest.raises(ValidationError, match="--bag-batch 2 or more"):
        TrainParams(negative="normal", bag_batch=1)


def test_one_fold_raises(tiled: TiledCohort, tmp_path: Path) -> None:
    params = QUICK.model_copy(update={"folds": 1})
    with pytest.raises(UsageError, match="--folds 1 leaves nothing to train on"):
        train_cohort(tiled.cohort, tiled.bags, tmp_path / "model", params)


def test_a_class_of_two_cases_raises(tmp_path: Path) -> None:
    for number in range(6):
        make_bag(tmp_path, f"b{number}", random_patches(2))
    with pytest.raises(UsageError, match="class 'b' has 2 cases; needs at least 3"):
        train_cohort(make_cohort(tmp_path, "aaaabb"), tmp_path, tmp_path / "model", QUICK)


@pytest.mark.slow
def test_slides_without_tissue_are_left_out_and_recorded(tmp_path: Path) -> None:
    for number in range(7):
        make_bag(tmp_path, f"b{number}", random_patches(0 if number == 3 else 2))
    cohort = make_cohort(tmp_path, "aaabbbb")
    with pytest.raises(UsageError, match="is a bag of milpath"):
        train_cohort(cohort, tmp_path, tmp_path / "model", HEAD_ALONE)
    report = train_cohort(
        cohort, tmp_path, tmp_path / "model", QUICK.model_copy(update={"epochs": 1})
    )
    assert report.excluded == ("b3",)
    record = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert record["no_tissue"] == ["b3"]
    named = [slide for fold in record["folds"] for part in fold.values() for slide in part]
    assert sorted(named) == ["b0", "b1", "b2", "b4", "b5", "b6"]
    with Bag(tmp_path / "b3.h5") as bag:
        assert len(bag) == 0
