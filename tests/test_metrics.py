"""Figures agree with scikit-learn, and intervals with what cases can tell."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from milpath import metrics
from milpath.metrics import (
    Figure,
    accuracy,
    auc,
    balanced_accuracy,
    evaluate,
    evaluate_folds,
    instance_auc,
    log_loss,
)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 200)


def drawn(count: int, classes: int, seed: int, skill: float = 1.0) -> tuple[NDArray, NDArray]:  # type: ignore[type-arg]
    """Labels, every class among them, and probabilities that know them somewhat."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=count - classes)])
    logits = rng.normal(size=(count, classes)) + skill * np.eye(classes)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probs


# -- laws ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_figures_are_those_of_scikit_learn(classes: int, seed: int) -> None:
    labels, probs = drawn(40, classes, seed)
    hard = probs.argmax(axis=1)
    soft = probs[:, 1] if classes == 2 else probs
    assert auc(labels, probs) == pytest.approx(
        reference.roc_auc_score(labels, soft, multi_class="ovr", average="macro")
    )
    assert accuracy(labels, probs) == pytest.approx(reference.accuracy_score(labels, hard))
    assert balanced_accuracy(labels, probs) == pytest.approx(
        reference.balanced_accuracy_score(labels, hard)
    )
    assert log_loss(labels, probs) == pytest.approx(reference.log_loss(labels, probs))


def test_figures_do_not_depend_on_the_order_of_slides() -> None:
    labels, probs = drawn(30, 3, 1)
    turn = np.random.default_rng(2).permutation(30)
    for name, metric in metrics.METRICS.items():
        assert metric(labels, probs) == pytest.approx(metric(labels[turn], probs[turn])), name


def test_the_same_seed_gives_the_same_intervals() -> None:
    labels, probs = drawn(30, 2, 1)
    cases = [str(i) for i in range(30)]
    assert evaluate(labels, probs, cases, 4) == evaluate(labels, probs, cases, 4)
    assert evaluate(labels, probs, cases, 4) != evaluate(labels, probs, cases, 5)


@pytest.mark.parametrize("classes", [2, 3])
def test_an_interval_holds_its_value(classes: int) -> None:
    labels, probs = drawn(40, classes, 3)
    for figure in evaluate(labels, probs, [str(i) for i in range(40)]).values():
        assert figure.value is not None
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low < figure.value < figure.high


def test_an_interval_counts_cases_and_not_slides() -> None:
    labels, probs = drawn(40, 2, 3)
    alone = evaluate(labels, probs, [str(i) for i in range(40)])
    copies = evaluate(
        np.repeat(labels, 4), np.repeat(probs, 4, axis=0), [str(i // 4) for i in range(160)]
    )
    for name, figure in alone.items():  # copies of a slide make no interval narrower
        assert (copies[name].low, copies[name].high) == pytest.approx((figure.low, figure.high))


def test_metrics_of_folds_are_computed_within_each_fold() -> None:
    labels, probs = drawn(30, 2, 4)
    folds = np.arange(30) % 3
    found = evaluate_folds(labels, probs, folds)
    each = [accuracy(labels[folds == fold], probs[folds == fold]) for fold in range(3)]
    assert found["accuracy"].folds == pytest.approx(each)
    assert found["accuracy"].mean == pytest.approx(np.mean(each))
    assert found["accuracy"].sd == pytest.approx(np.std(each, ddof=1))


def test_constant_models_have_a_mean_auc_of_one_half_over_folds() -> None:
    labels = np.tile([0, 1, 1, 0, 1], 4)
    folds = np.repeat(np.arange(4), 5)
    constant = np.array([0.3, 0.5, 0.6, 0.8])[folds]  # each fold's model answers one number
    found = evaluate_folds(labels, np.stack([1 - constant, constant], axis=1), folds)
    assert found["auc"].folds == (0.5,) * 4
    assert (found["auc"].mean, found["auc"].sd) == (0.5, 0.0)


# -- examples --------------------------------------------------------------------------------------


def test_a_class_without_a_slide_leaves_auc_undefined() -> None:
    labels, probs = drawn(20, 2, 0)
    ones = np.ones_like(labels)
    assert auc(ones, probs) is None
    assert auc(np.zeros_like(labels), probs) is None
    found = evaluate(ones, probs, [str(i) for i in range(20)])
    assert found["auc"] == Figure(None, None, None)
    assert found["accuracy"].value is not None
    labels3, probs3 = drawn(20, 3, 0)
    assert auc(np.where(labels3 == 2, 1, labels3), probs3) is None


def test_balanced_accuracy_is_of_the_classes_present() -> None:
    probs = np.array([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.5, 0.3, 0.2]])
    assert balanced_accuracy(np.array([0, 0, 1]), probs) == 0.5


def test_too_few_cases_have_no_interval_and_the_figure_says_so() -> None:
    labels = np.array([0, 0, 1, 1])
    sure = np.eye(2)[labels]
    found = evaluate(labels, sure, list("abcd"))
    assert found["accuracy"] == Figure(
        1.0, note="too few cases for an interval: 4, at least 10 are needed"
    )
    assert found["auc"] == Figure(
        1.0, note="too few cases for an interval: 2 of a class, at least 5 are needed"
    )


def test_an_accuracy_of_one_has_an_interval_below_one() -> None:
    labels = np.repeat([0, 1], 8)
    found = evaluate(labels, np.eye(2)[labels] * 0.8 + 0.1, [str(i) for i in range(16)])
    for name in ("auc", "accuracy", "balanced_accuracy"):
        assert found[name].value == found[name].high == 1
        assert 0.6 < (found[name].low or 0) < 0.9


def test_a_perfect_order_has_auc_one_and_a_reversed_one_zero() -> None:
    labels = np.array([0, 0, 1, 1])
    right = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    assert auc(labels, right) == 1
    assert auc(labels[::-1], right) == 0


def test_the_loss_of_a_certain_mistake_is_finite() -> None:
    loss = log_loss(np.array([0]), np.array([[0.0, 1.0]]))
    assert 20 < loss < 40


# -- instances -----------------------------------------------------------------------------------


def test_instance_auc_ranks_within_each_bag() -> None:
    truths = [np.array([True, False, False]), np.array([False, True]), np.array([True, True])]
    scores = [np.array([0.9, 0.1, 0.2]), np.array([100.0, 50.0]), np.array([7.0, 8.0])]
    # the first bag is ranked right, the second wrong, the third has nothing to rank
    assert instance_auc(truths, scores) == pytest.approx(0.5)
    assert instance_auc(truths[2:], scores[2:]) is None
