"""The standard assumption of multiple-instance learning: only what is present makes a bag positive.

After Raff & Holt 2023, "Reproducibility in multiple instance learning: a case for algorithmic unit
tests": a training set is drawn in which a negative witness, an instance of negative bags alone, is
by far the easiest thing to learn, and a test set in which the positive bags hold it too. A model
that learned "positive unless the witness is there" ranks the test bags the wrong way round.
"""

from __future__ import annotations

import numpy as np
import pytest

from milpath.formats.scores import BagScores
from milpath.metrics import auc
from milpath.nn.bags import ArrayBag
from milpath.nn.fit import Task, class_weights, train_member
from milpath.nn.predict import score_bags
from milpath.params import HeadParams, TrainParams

DIM, SIZE = 16, 10
HEAD_ALONE = TrainParams(
    mode="features",
    head=HeadParams(projection_dim=32, attention_dim=16, dropout=0.25),
    epochs=30,
    bag_batch=16,
    learning_rate=3e-3,
    class_weight="none",
)


def draw(label: int, witness: bool, rng: np.random.Generator) -> ArrayBag:
    """Background; in a positive bag one instance of the concept; and the witness, if told so."""
    instances = rng.normal(0, 1, (SIZE, DIM)).astype(np.float32)
    if label:
        instances[0, 4:8] += 2
    if witness:
        instances[1] = rng.normal(0, 0.1, DIM)
        instances[1, 0] -= 10
    return ArrayBag(rng.permutation(instances), label)


def draw_set(count: int, seed: int, *, poisoned: bool) -> list[ArrayBag]:
    """Witnesses in the negative bags, as training has them, or, poisoned, in the positive ones."""
    rng = np.random.default_rng(seed)
    labels = [number % 2 for number in range(count)]
    return [draw(label, bool(label) == poisoned, rng) for label in labels]


def judge(bags: list[ArrayBag], negative: int | None, seed: int) -> list[BagScores]:
    """What a model says of bags, having learned from bags with a negative witness."""
    train = draw_set(200, seed, poisoned=False)
    member, _ = train_member(train, [], Task((DIM,), 2, negative), HEAD_ALONE, seed)
    return score_bags([member], [bag.instances for bag in bags])


def auc_of(bags: list[ArrayBag], bag_scores: list[BagScores]) -> float:
    labels = np.array([bag.label for bag in bags])
    return auc(labels, np.stack([scores.probs for scores in bag_scores])) or 0.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_model_told_the_negative_class_does_not_learn_from_a_negative_witness(seed: int) -> None:
    bags = draw_set(200, 100 + seed, poisoned=True)
    bag_scores = judge(bags, 0, seed)
    assert auc_of(bags, bag_scores) > 0.8


@pytest.mark.slow
def test_the_trap_is_a_trap_for_attention_that_is_not_told() -> None:
    bags = draw_set(200, 100, poisoned=True)
    assert auc_of(bags, judge(bags, None, 0)) < 0.3


@pytest.mark.slow
def test_class_weights_lift_the_rare_class_of_a_nine_to_one_set() -> None:
    rng = np.random.default_rng(0)

    def bags(count: int) -> list[ArrayBag]:
        # the two classes overlap, so that what they weigh decides where the line is drawn
        made = []
        for number in range(count):
            label = int(number % 10 == 0)
            instances = rng.normal(0, 1, (4, 2)).astype(np.float32) + label
            made.append(ArrayBag(instances, label))
        return made

    train, test = bags(200), bags(1000)
    called = {}
    for how in ("none", "balanced"):
        params = HEAD_ALONE.model_copy(update={"class_weight": how, "epochs": 15})
        member, _ = train_member(train, [], Task((2,), 2), params, 0)
        bag_scores = score_bags([member], [bag.instances for bag in test])
        called[how] = np.array([scores.probs.argmax() for scores in bag_scores])
    labels = np.array([bag.label for bag in test])
    found = {how: (hard[labels == 1] == 1).mean() for how, hard in called.items()}
    assert class_weights(labels.tolist(), 2, "balanced") == pytest.approx([5 / 9, 5])
    assert found["balanced"] > found["none"] + 0.1
    assert called["balanced"].mean() > 1.5 * called["none"].mean()
