"""The standard assumption of multiple-instance learning: only what is present makes a bag positive.

After Raff & Holt 2023, "Reproducibility in multiple instance learning: a case for algorithmic unit
tests": in the training set a distractor, an instance of negative bags alone, is by far the easiest
thing to learn; in the test set the positive bags contain it instead. A model that learned "positive
unless it contains the distractor" ranks the test bags in reverse.
"""

from __future__ import annotations

import numpy as np
import pytest

from milpath.formats.scores import BagScores
from milpath.metrics import auc
from milpath.nn.bags import ArrayBag
from milpath.nn.fit import Task, class_weights, train_member
from milpath.nn.scoring import score_bags
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


def draw(label: int, distractor: bool, rng: np.random.Generator) -> ArrayBag:
    """Draw a bag of background; a positive one contains one instance of the concept."""
    instances = rng.normal(0, 1, (SIZE, DIM)).astype(np.float32)
    if label:
        instances[0, 4:8] += 2
    if distractor:
        instances[1] = rng.normal(0, 0.1, DIM)
        instances[1, 0] -= 10
    return ArrayBag(rng.permutation(instances), label)


def draw_set(count: int, seed: int, *, poisoned: bool) -> list[ArrayBag]:
    """Draw bags: the distractor is in the negative ones, or, if poisoned, in the positive ones."""
    rng = np.random.default_rng(seed)
    labels = [number % 2 for number in range(count)]
    return [draw(label, bool(label) == poisoned, rng) for label in labels]


def score(bags: list[ArrayBag], negative: int | None, seed: int) -> list[BagScores]:
    """Train on bags with the distractor in the negative ones, and score others."""
    train = draw_set(200, seed, poisoned=False)
    member, _ = train_member(train, [], Task((DIM,), 2, negative), HEAD_ALONE, seed)
    return score_bags([member], [bag.instances for bag in bags])


def auc_of(bags: list[ArrayBag], bag_scores: list[BagScores]) -> float:
    labels = np.array([bag.label for bag in bags])
    return auc(labels, np.stack([scores.probs for scores in bag_scores])) or 0.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_with_a_negative_class_a_model_ignores_the_distractor_of_negative_bags(seed: int) -> None:
    bags = draw_set(200, 100 + seed, poisoned=True)
    bag_scores = score(bags, 0, seed)
    assert auc_of(bags, bag_scores) > 0.8


@pytest.mark.slow
def test_without_a_negative_class_a_model_learns_the_distractor() -> None:
    bags = draw_set(200, 100, poisoned=True)
    assert auc_of(bags, score(bags, None, 0)) < 0.3


@pytest.mark.slow
def test_class_weights_raise_the_recall_of_a_rare_class() -> None:
    rng = np.random.default_rng(0)

    def bags(count: int) -> list[ArrayBag]:
        # the two classes overlap, so that the class weights move the decision boundary
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
