"""Training is reproducible, keeps its three sets apart, finds what there is, and writes it down."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from nn_tools import HEAD, Floats, TiledCohort, make_bag, make_cohort, make_records, random_patches
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from scipy.special import log_softmax, softmax
from strangers.forge import edited

from milpath.bag import Bag
from milpath.cohort import Cohort, SlideEntry
from milpath.errors import StoredFileError, UsageError
from milpath.metrics import auc
from milpath.model_spec import EncoderSpec
from milpath.nn import fit
from milpath.nn import train as training
from milpath.nn.bundle import load_bundle, save_encoder
from milpath.nn.data import BagSequence, LabelledBag
from milpath.nn.embed import Embedder
from milpath.nn.encoder import SMALL, build_encoder
from milpath.nn.fit import Task, class_weights, train_member
from milpath.nn.mil import Member, build_evidence
from milpath.nn.predict import Classifier, collect_evidence, pool_evidence
from milpath.nn.train import TrainReport, train_cohort
from milpath.params import TrainParams

QUICK = TrainParams(head=HEAD, epochs=2, patches_per_bag=6, bag_batch=3)


def weights_of(member: Member) -> NDArray[np.float32]:
    parts = [part for part in (member.encoder, member.head) if part is not None]
    return np.concatenate([w.numpy().ravel() for part in parts for w in part.weights])


def look(member: Member, features: NDArray[Any]) -> tuple[Floats, Floats]:
    """Logits and attention of one bag of embeddings."""
    model = build_evidence(features.shape[1:], [member])
    attention, contributions = pool_evidence(
        *collect_evidence(model, [features.astype(np.float32)], len(features))
    )
    return contributions[0].sum(axis=0) + member.head.classifier.bias.numpy(), attention[0]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# -- bags of numbers: a marker in one instance is all that tells a class -------------------------

DIM, PER_BAG = 16, 20


@dataclass(frozen=True)
class Marked:
    """Bags of embeddings; in a bag of class c > 0 one instance has the marker of c."""

    records: list[LabelledBag]
    features: list[NDArray[np.float16]]
    marked: list[int | None]


def make_marked(
    folder: Path, count: int, classes: int = 2, dim: int = DIM, code: str = "code"
) -> Marked:
    rng = np.random.default_rng(0)
    records, features, marked = [], [], []
    for number in range(count):
        label = number % classes
        values = rng.normal(0, 0.2, (PER_BAG, dim)).astype(np.float16)
        place = int(rng.integers(PER_BAG)) if label else None
        if place is not None:
            values[place, 4 * label : 4 * label + 4] += 3
        path = make_bag(
            folder, f"b{number}", random_patches(PER_BAG), features=values, encoder=(SMALL, code)
        )
        records.append(LabelledBag(path, f"b{number}", f"b{number}", label, PER_BAG, "features"))
        features.append(values)
        marked.append(place)
    return Marked(records, features, marked)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Marked:
    return make_marked(tmp_path_factory.mktemp("marked"), 60)


HEAD_ALONE = TrainParams(
    mode="features", head=HEAD, epochs=15, patience=8, learning_rate=1e-2, bag_batch=8
)


@pytest.mark.slow
def test_what_tells_the_classes_is_learned_and_found_by_the_attention(marked: Marked) -> None:
    records = marked.records
    member, history = train_member(
        records[:30], records[30:40], Task((DIM,), 2), HEAD_ALONE, seed=1
    )
    assert history["val_loss"][-1] < history["val_loss"][0]
    labels, probs, found = [], [], []
    for number in range(40, 60):
        logits, attention = look(member, marked.features[number])
        labels.append(records[number].label)
        probs.append(softmax(logits))
        place = marked.marked[number]
        if place is not None:
            found.append(float((attention < attention[place]).sum() / (PER_BAG - 1)))
    assert auc(np.array(labels), np.array(probs)) == 1.0
    assert len(found) == 10
    assert np.mean(found) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("negative", [None, 0])
def test_training_stops_when_patience_is_at_its_end_and_keeps_the_best_epoch(
    marked: Marked, negative: int | None
) -> None:
    told: list[int] = []
    meaningless = [
        replace(record, label=number % 3 % 2) for number, record in enumerate(marked.records)
    ]
    train, val = meaningless[:20], meaningless[20:35]
    change = {"epochs": 30, "patience": 2, "learning_rate": 0.1}
    member, history = train_member(
        train,
        val,
        Task((DIM,), 2, negative),
        HEAD_ALONE.model_copy(update=change),
        seed=0,
        on_epoch=lambda epoch, losses: told.append(epoch),
    )
    losses = history["val_loss"]
    assert told == list(range(len(losses)))
    assert len(losses) < 30
    assert np.argmin(losses) == len(losses) - 3
    weight = class_weights([bag.label for bag in train], 2, "balanced")
    of_bag = [
        -weight[bag.label] * log_softmax(look(member, marked.features[place])[0])[bag.label]
        for place, bag in enumerate(val, start=20)
    ]
    # beside other answers Keras takes the mean of the batches, the last, shorter one included
    size = len(of_bag) if negative is None else HEAD_ALONE.bag_batch
    batches = [np.mean(of_bag[start : start + size]) for start in range(0, len(of_bag), size)]
    assert np.mean(batches) == pytest.approx(min(losses), abs=1e-4)


@pytest.mark.slow
def test_three_classes_are_learned_end_to_end(tmp_path: Path) -> None:
    encoder = build_encoder(SMALL, 16)
    spec = EncoderSpec(name=SMALL, patch_px=16, dim=128, weights="random")
    code = save_encoder(tmp_path / "bags" / "encoder", encoder, spec)
    made = make_marked(tmp_path / "bags", 60, classes=3, dim=128, code=code)
    cohort = make_cohort(tmp_path, [f"c{bag.label}" for bag in made.records])
    report = train_cohort(cohort, tmp_path / "bags", tmp_path / "model", HEAD_ALONE)
    assert report.spec.class_names == ("c0", "c1", "c2")
    assert report.figures["auc"].value == pytest.approx(1, abs=0.1)
    rows = read_csv(tmp_path / "model" / "held_out.csv")
    assert {row["label"] for row in rows} == {"c0", "c1", "c2"}
    for row in rows:
        probs = [float(row[f"prob_c{number}"]) for number in range(3)]
        assert sum(probs) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == f"c{np.argmax(probs)}"


# -- one member ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_seed_decides_every_bit_of_the_weights(tmp_path: Path) -> None:
    records = make_records(tmp_path, (5, 8, 2, 7, 4, 6), (0, 1) * 3)
    trained = [
        train_member(records[:4], records[4:], Task((16, 16, 3), 2), QUICK, seed)
        for seed in (3, 3, 4)
    ]
    one, same, other = (weights_of(member) for member, _ in trained)
    assert (one == same).all()
    assert (one != other).mean() > 0.5
    assert trained[0][1] == trained[1][1]


def test_class_weights_are_inverse_to_the_share_of_a_class() -> None:
    labels = [0] * 9 + [1]
    weight = class_weights(labels, 2, "balanced")
    assert weight == pytest.approx([10 / (2 * 9), 10 / (2 * 1)])
    assert weight[labels].mean() == pytest.approx(1)
    assert weight[0] * 9 == pytest.approx(weight[1] * 1)
    assert class_weights([0, 1, 2] * 4, 3, "balanced") == pytest.approx([1, 1, 1])
    assert class_weights(labels, 2, "none").tolist() == [1, 1]


def test_a_damaged_patch_met_in_training_is_one_clear_line(tmp_path: Path) -> None:
    records = make_records(tmp_path, (4,) * 9, (0, 1, 0) * 3)
    bad = records[2].path
    with edited(bad) as h5:
        del h5["patches"]
        h5["patches"] = np.zeros((4, 16, 16, 3), np.int32)
    params = QUICK.model_copy(update={"bag_batch": 1})
    with pytest.raises(StoredFileError, match=r"^b2\.h5: 'patches' is int32, expected uint8"):
        train_member(records[:6], records[6:], Task((16, 16, 3), 2), params, seed=5)


def test_training_that_runs_away_is_refused(marked: Marked) -> None:
    params = HEAD_ALONE.model_copy(update={"learning_rate": 1e30, "epochs": 3})
    with pytest.raises(UsageError, match=r"training ran away .*--learning-rate"):
        train_member(marked.records[:8], marked.records[8:12], Task((DIM,), 2), params, seed=0)


# -- the whole, from pixels ----------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What one training of a cohort did and left."""

    cohort: Cohort
    out: Path
    report: TrainReport
    drawn: list[set[str]]
    """The slides that each member learned from."""
    stopped: list[set[str]]
    judged: list[set[str]]
    told: list[tuple[int, int]]


@pytest.fixture(scope="module")
def run(tiled: TiledCohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two folds of two members, trained on the drawn slides for two epochs."""
    out = tmp_path_factory.mktemp("trained")
    drawn: list[set[str]] = []
    stopped: list[set[str]] = []
    judged: list[set[str]] = []
    told: list[tuple[int, int]] = []

    class Spy(BagSequence):
        def __init__(self, bags: Sequence[LabelledBag], *args: Any, **options: Any) -> None:
            super().__init__(bags, *args, **options)
            self.read: set[str] = set()
            (stopped if self.seed is None else drawn).append(self.read)

        def _draw(self, place: int) -> NDArray[Any]:
            self.read.add(self.bags[place].slide_id)
            return super()._draw(place)

    def judge(members: Any, bags: Sequence[LabelledBag], *args: Any) -> Any:
        judged.append({bag.slide_id for bag in bags})
        return judge_truly(members, bags, *args)

    judge_truly = training._judge
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "BagSequence", Spy)
        patch.setattr(training, "_judge", judge)
        report = train_cohort(
            tiled.cohort,
            tiled.bags,
            out,
            QUICK.model_copy(update={"folds": 2, "members": 2}),
            lambda member, epoch, losses: told.append((member, epoch)),
        )
    return Run(tiled.cohort, out, report, drawn, stopped, judged, told)


@pytest.mark.slow
def test_what_stops_a_training_and_what_judges_it_never_teaches_it(run: Run) -> None:
    everyone = {entry.slide_id for entry in run.cohort.entries}
    assert len(run.drawn) == len(run.stopped) == 4
    assert len(run.judged) == 2
    for member, (drawn, stopped) in enumerate(zip(run.drawn, run.stopped, strict=True)):
        judged = run.judged[member // 2]
        assert drawn
        assert stopped
        assert drawn | stopped | judged == everyone
        assert len(drawn) + len(stopped) + len(judged) == len(everyone)


@pytest.mark.slow
def test_every_slide_is_held_out_once(run: Run) -> None:
    rows = read_csv(run.out / "held_out.csv")
    labels = {entry.slide_id: entry.label for entry in run.cohort.entries}
    assert sorted(row["slide"] for row in rows) == sorted(labels)
    assert all(row["label"] == labels[row["slide"]] for row in rows)
    assert run.report.held_out == len(labels)
    for row in rows:
        probs = {name: float(row[f"prob_{name}"]) for name in ("normal", "tumour")}
        assert sum(probs.values()) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == max(probs, key=lambda name: probs[name])


@pytest.mark.slow
def test_training_leaves_a_model_and_its_record(run: Run) -> None:
    assert sorted(file.name for file in run.out.iterdir()) == [
        "held_out.csv",
        "history.json",
        *(f"member-{number}.h5" for number in range(4)),
        "metrics.json",
        "model.json",
        "training.png",
    ]
    bundle = load_bundle(run.out)
    assert bundle.spec == run.report.spec
    assert len(bundle.members) == 4
    assert bundle.spec.mode == "pixels"
    assert bundle.spec.encoder == EncoderSpec(name=SMALL, patch_px=32, dim=128, weights="trained")
    assert bundle.spec.training["slides"] == 12
    assert len({weights_of(member).tobytes() for member in bundle.members}) == 4
    with Image.open(run.out / "training.png") as picture:
        assert min(picture.size) > 100


@pytest.mark.slow
def test_the_figures_have_intervals_and_their_slides_are_named(run: Run) -> None:
    record = json.loads((run.out / "metrics.json").read_text())
    assert set(record["metrics"]) == {"auc", "balanced_accuracy", "accuracy", "loss"}
    for figure in record["metrics"].values():
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert record["held_out_slides"] == record["held_out_cases"] == 12
    assert [set(fold["test"]) for fold in record["folds"]] == run.judged
    assert [set(fold["val"]) for fold in record["folds"]] == run.stopped[::2]
    rows = read_csv(run.out / "held_out.csv")
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert record["metrics"]["accuracy"]["value"] == pytest.approx(right)


@pytest.mark.slow
def test_the_history_is_told_as_it_is_written(run: Run) -> None:
    histories = json.loads((run.out / "history.json").read_text())
    assert len(histories) == 4
    assert all(len(history["val_loss"]) == 2 for history in histories)
    assert run.told == [(member, epoch) for member in range(4) for epoch in range(2)]


# -- the whole, from embeddings ------------------------------------------------------------------


@pytest.fixture
def embedded(tiled: TiledCohort, tmp_path: Path) -> Path:
    """The bags of the drawn slides with embeddings of a small CNN of random weights."""
    bags = Path(shutil.copytree(tiled.bags, tmp_path / "bags"))
    keras.utils.set_random_seed(0)
    encoder = build_encoder(SMALL, 32)
    spec = EncoderSpec(name=SMALL, patch_px=32, dim=128, weights="random")
    save_encoder(bags / "encoder", encoder, spec)
    job = Embedder(encoder, spec)
    for path in bags.glob("*.h5"):
        assert job(SlideEntry(path, path.stem)).status == "ok"
    return bags


@pytest.mark.slow
def test_a_model_of_embeddings_classifies_slides_as_it_was_tested(
    tiled: TiledCohort, embedded: Path, tmp_path: Path
) -> None:
    params = HEAD_ALONE.model_copy(update={"epochs": 3, "test_fraction": 0.4})
    report = train_cohort(tiled.cohort, embedded, tmp_path / "model", params)
    bundle = load_bundle(tmp_path / "model")
    assert bundle.spec == report.spec
    assert bundle.spec.encoder.weights == "random"
    assert bundle.encoder is not None
    by_id = {entry.slide_id: entry for entry in tiled.cohort.entries}
    classifier = Classifier(bundle, tmp_path / "results")
    rows = read_csv(tmp_path / "model" / "held_out.csv")
    assert len(rows) >= 4
    for row in rows[:2]:
        with by_id[row["slide"]].open() as slide:
            found = classifier.predict(slide)
        # from the slide itself: neither JPEG nor float16 stands between
        assert found.probs[1] == pytest.approx(float(row["prob_tumour"]), abs=0.05)


def test_embeddings_of_another_encoder_are_refused(
    tiled: TiledCohort, embedded: Path, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(9)
    spec = EncoderSpec(name=SMALL, patch_px=32, dim=128, weights="random")
    save_encoder(embedded / "encoder", build_encoder(SMALL, 32), spec)
    with pytest.raises(UsageError, match=r"hold embeddings of another encoder than"):
        train_cohort(tiled.cohort, embedded, tmp_path / "model", HEAD_ALONE)
    assert not (tmp_path / "model").exists()


def test_bags_without_embeddings_cannot_teach_a_head_alone(
    tiled: TiledCohort, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="do not all hold embeddings of one encoder"):
        train_cohort(tiled.cohort, tiled.bags, tmp_path / "model", HEAD_ALONE)


# -- what is refused before it starts ------------------------------------------------------------


def test_a_negative_class_that_is_not_there_is_refused(tiled: TiledCohort, tmp_path: Path) -> None:
    params = QUICK.model_copy(update={"negative": "benign"})
    with pytest.raises(UsageError, match=r"no such class; it has normal, tumour"):
        train_cohort(tiled.cohort, tiled.bags, tmp_path / "model", params)
    assert not (tmp_path / "model" / "model.json").exists()


def test_a_negative_class_needs_bags_to_join() -> None:
    with pytest.raises(ValidationError, match="--bag-batch 2 or more"):
        TrainParams(negative="normal", bag_batch=1)


def test_one_fold_is_refused(tiled: TiledCohort, tmp_path: Path) -> None:
    params = QUICK.model_copy(update={"folds": 1})
    with pytest.raises(UsageError, match="--folds 1 leaves nothing to train on"):
        train_cohort(tiled.cohort, tiled.bags, tmp_path / "model", params)


def test_a_class_of_two_cases_is_refused(tmp_path: Path) -> None:
    for number in range(6):
        make_bag(tmp_path, f"b{number}", random_patches(2))
    with pytest.raises(UsageError, match=r"class 'b' has 2 case\(s\), needs at least 3"):
        train_cohort(make_cohort(tmp_path, "aaaabb"), tmp_path, tmp_path / "model", QUICK)


@pytest.mark.slow
def test_slides_without_tissue_are_left_out_and_recorded(tmp_path: Path) -> None:
    for number in range(7):
        make_bag(tmp_path, f"b{number}", random_patches(0 if number == 3 else 2))
    cohort = make_cohort(tmp_path, "aaabbbb")
    with pytest.raises(UsageError, match="do not all hold"):
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
