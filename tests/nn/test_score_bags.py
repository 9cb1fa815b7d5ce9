"""Bags scored together have the scores that each has alone, and those of the formula."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from support.nn_tools import make_member, random_patches

from milpath.formats.scores import BagScores
from milpath.nn.scoring import score_bags

SIZES = (1, 6, 3)


def bags_of(sizes: tuple[int, ...] = SIZES) -> list[np.ndarray]:  # type: ignore[type-arg]
    return [random_patches(size, seed=number) for number, size in enumerate(sizes)]


def test_bags_scored_together_have_the_scores_that_each_has_alone() -> None:
    members = [make_member(), make_member()]
    together = score_bags(members, bags_of())
    for one, bag in zip(together, bags_of(), strict=True):
        (alone,) = score_bags(members, [bag])
        assert one.probs == pytest.approx(alone.probs, abs=1e-6)
        assert one.attention == pytest.approx(alone.attention, abs=1e-6)
        assert one.contributions == pytest.approx(alone.contributions, abs=1e-6)


def test_scores_are_those_of_the_formula() -> None:
    member = make_member()
    assert member.encoder is not None
    for bag, found in zip(bags_of(), score_bags([member], bags_of()), strict=True):
        hidden = np.asarray(member.encoder.predict_on_batch(bag), np.float64)
        v, u, w = (weight.numpy() for weight in member.head.attention.weights)
        attention = softmax((np.tanh(hidden @ v) / (1 + np.exp(-hidden @ u)) @ w)[:, 0])
        kernel, bias = (weight.numpy() for weight in member.head.classifier.weights)
        assert found.attention == pytest.approx(attention, abs=1e-5)
        logits = attention @ hidden @ kernel + bias
        assert found.probs == pytest.approx(softmax(logits), abs=1e-5)
        assert found.contributions.sum(axis=0) + found.bias == pytest.approx(logits, abs=1e-4)
        each = attention[:, None] * (hidden @ kernel)
        assert found.contributions == pytest.approx(each, abs=1e-4)
        with_bias = each + attention[:, None] * bias
        assert found.evidence(1) == pytest.approx(
            with_bias[:, 1] - with_bias.mean(axis=1), abs=1e-4
        )


def test_evidence_is_what_an_instance_adds_to_one_class_beyond_the_mean_of_all() -> None:
    found = BagScores(
        member_attention=np.array([[0.5, 0.5]]),
        member_contributions=np.array([[[5.0, 5.0, 5.0], [1.0, 4.0, 1.0]]]),
        member_bias=np.zeros((1, 3)),
    )
    assert found.evidence(1) == pytest.approx([0, 2])
    assert sum(found.evidence(index) for index in range(3)) == pytest.approx([0, 0])
