"""Bags judged together get what each would get alone, and what the formula says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from support.nn_tools import make_member, random_patches

from milpath.nn.predict import BagScores, score_bags

SIZES = (1, 6, 3)


def bags_of(sizes: tuple[int, ...] = SIZES) -> list[np.ndarray]:  # type: ignore[type-arg]
    return [random_patches(size, seed=number) for number, size in enumerate(sizes)]


def test_bags_judged_together_are_judged_as_if_alone() -> None:
    members = [make_member(), make_member()]
    together = score_bags(members, bags_of())
    for one, bag in zip(together, bags_of(), strict=True):
        (alone,) = score_bags(members, [bag])
        assert one.probs == pytest.approx(alone.probs, abs=1e-6)
        assert one.attention == pytest.approx(alone.attention, abs=1e-6)
        assert one.contributions == pytest.approx(alone.contributions, abs=1e-6)


def test_a_verdict_is_that_of_the_formula() -> None:
    member = make_member()
    assert member.encoder is not None
    for bag, scores in zip(bags_of(), score_bags([member], bags_of()), strict=True):
        hidden = np.asarray(member.encoder.predict_on_batch(bag), np.float64)
        v, u, w = (weight.numpy() for weight in member.head.attention.weights)
        scores = (np.tanh(hidden @ v) / (1 + np.exp(-hidden @ u)) @ w)[:, 0]
        attention = softmax(scores)
        kernel, bias = (weight.numpy() for weight in member.head.classifier.weights)
        assert scores.attention == pytest.approx(attention, abs=1e-5)
        logits = attention @ hidden @ kernel + bias
        assert scores.probs == pytest.approx(softmax(logits), abs=1e-5)
        assert scores.contributions.sum(axis=0) == pytest.approx(logits, abs=1e-4)
        each = attention[:, None] * (hidden @ kernel + bias)
        assert scores.contributions == pytest.approx(each, abs=1e-4)


def test_evidence_is_what_a_contribution_adds_to_one_class_more_than_to_the_others() -> None:
    contributions = np.array([[5.0, 5.0, 5.0], [1.0, 4.0, 1.0]])
    scores = BagScores(np.ones(3) / 3, np.ones(2) / 2, contributions)
    assert scores.evidence(1) == pytest.approx([0, 2])
    assert sum(scores.evidence(index) for index in range(3)) == pytest.approx([0, 0])
