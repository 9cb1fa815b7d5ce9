"""Fitting one model: what it learns, when it stops, and that nothing else is left to chance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from support.nn_tools import (
    DIM,
    HEAD,
    HEAD_ALONE,
    PER_BAG,
    Floats,
    Marked,
    make_marked,
    make_records,
)
from support.untrusted.tamper import edited

from milpath.errors import StoredFileError, UsageError
from milpath.metrics import auc
from milpath.nn.bags import ArrayBag
from milpath.nn.fit import Task, class_weights, train_member
from milpath.nn.mil import Member, build_evidence, build_head
from milpath.nn.scoring import collect_evidence, pool_evidence
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


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Marked:
    return make_marked(tmp_path_factory.mktemp("marked"), 60)


@pytest.mark.slow
def test_attention_finds_the_instances_that_differ_between_classes(marked: Marked) -> None:
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
def test_training_stops_early_and_keeps_the_best_epoch(
    marked: Marked, negative: int | None
) -> None:
    epochs: list[int] = []
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
        on_epoch=lambda epoch, losses: epochs.append(epoch),
    )
    losses = history["val_loss"]
    second = epochs.index(30)  # from another start
    assert epochs[:second] == list(range(second))
    assert epochs[second:] == list(range(30, 30 + len(epochs) - second))
    assert len(losses) in (second, len(epochs) - second)
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
@pytest.mark.parametrize("seed", range(3))
def test_of_both_starts_the_one_with_the_lower_validation_loss_is_kept(
    marked: Marked, seed: int
) -> None:
    params = HEAD_ALONE.model_copy(update={"epochs": 5})
    losses: list[float] = []
    _, history = train_member(
        marked.records[:20],
        marked.records[20:30],
        Task((DIM,), 2),
        params,
        seed,
        on_epoch=lambda epoch, values: losses.append(values["val_loss"]),
    )
    assert len(losses) == 10
    assert losses[:5] != losses[5:]
    kept = losses[:5] if min(losses[:5]) <= min(losses[5:]) else losses[5:]
    assert history["val_loss"] == kept


def test_even_attention_gives_the_mean_of_the_instances() -> None:
    head = build_head(2, HEAD_ALONE.head, projected=True)
    head.build((None, None, DIM))
    head.start_even()
    bag = np.random.default_rng(0).normal(size=(1, 7, DIM)).astype(np.float32)
    attention = np.asarray(head.attention(head.hidden(bag)))
    np.testing.assert_allclose(attention, 1 / 7, rtol=1e-6)


@pytest.mark.slow
def test_with_an_instance_loss_attended_instances_alone_predict_the_class() -> None:
    rng = np.random.default_rng(0)
    bags = [
        ArrayBag(rng.normal(0.4 * (number % 2), 1, (6, DIM)).astype(np.float32), number % 2)
        for number in range(120)
    ]
    alone = {}  # loss of an instance by itself, mean by attention
    for weight in (0.0, 2.0):
        params = HEAD_ALONE.model_copy(update={"instance_loss": weight})
        member, _ = train_member(bags[:60], [], Task((DIM,), 2), params, 0)
        unseen = np.stack([bag.instances for bag in bags[60:]])
        evidence = build_evidence((DIM,), [member])
        scores, logits = (found[0] for found in collect_evidence(evidence, unseen, 6))
        log_probs = log_softmax(logits + member.head.classifier.bias.numpy(), axis=1)
        labels = np.repeat([bag.label for bag in bags[60:]], 6)
        of_label = np.take_along_axis(log_probs, labels[:, None], 1).reshape(60, 6)
        alone[weight] = -(softmax(scores.reshape(60, 6), axis=1) * of_label).sum(axis=1).mean()
    assert alone[2.0] < 0.8 * alone[0.0]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_to_the_last_bit(tmp_path: Path) -> None:
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


def test_a_damaged_patch_in_training_raises_one_clear_line(tmp_path: Path) -> None:
    records = make_records(tmp_path, (4,) * 9, (0, 1, 0) * 3)
    bad = tmp_path / "b2.h5"
    with edited(bad) as h5:
        del h5["patches"]
        h5["patches"] = np.zeros((4, 16, 16, 3), np.int32)
    params = QUICK.model_copy(update={"bag_batch": 1})
    with pytest.raises(StoredFileError, match=r"^b2\.h5: 'patches' is int32, expected uint8"):
        train_member(records[:6], records[6:], Task((16, 16, 3), 2), params, seed=5)


def test_training_that_diverges_raises(marked: Marked) -> None:
    params = HEAD_ALONE.model_copy(update={"learning_rate": 1e30, "epochs": 3})
    with pytest.raises(UsageError, match=r"training diverged .*--learning-rate"):
        train_member(marked.records[:8], marked.records[8:12], Task((DIM,), 2), params, seed=0)
