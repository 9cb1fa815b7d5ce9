"""A head learns on scaled features, and the stored head takes them as they are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from support.nn_tools import HEAD_ALONE

from milpath.nn.bags import ArrayBag
from milpath.nn.fit import Task, train_member
from milpath.nn.mil import build_head
from milpath.nn.scaling import fit_scaling, scale_bags

DIM = 12


def draw(count: int, size: int = 20, seed: int = 0) -> list[ArrayBag]:
    """Draw bags of features whose means and deviations differ a thousandfold."""
    rng = np.random.default_rng(seed)
    wide = np.logspace(-2, 1, DIM)
    return [
        ArrayBag(((rng.normal(2, 1, (size, DIM)) + number % 2) * wide).astype("f4"), number % 2)
        for number in range(count)
    ]


def forward(head: object, bag: NDArray) -> NDArray:
    return np.asarray(head(bag[None]))[0]  # type: ignore[operator]


def test_a_folded_head_gives_on_raw_features_what_it_gave_on_scaled_ones() -> None:
    bags = draw(6)
    scaling = fit_scaling(bags)
    head = build_head(2, HEAD_ALONE.head, projected=True)
    head.build((None, None, DIM))
    before = [forward(head, bag.instances) for bag in scale_bags(bags, scaling)]
    head.fold_scaling(scaling)
    after = [forward(head, bag.instances) for bag in bags]
    np.testing.assert_allclose(before, after, atol=1e-4)


def test_scaled_training_features_have_mean_0_and_deviation_1() -> None:
    bags = draw(6)
    scaled = np.concatenate([bag.instances for bag in scale_bags(bags, fit_scaling(bags))])
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-4)


def test_every_bag_has_the_same_weight_whatever_its_size() -> None:
    one = ArrayBag(np.zeros((1000, 1), np.float32), 0)
    two = ArrayBag(np.full((10, 1), 2.0, np.float32), 1)
    scaling = fit_scaling([one, two])
    assert (scaling.mean[0], scaling.factor[0]) == (1, 1)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_feature_that_never_varies_in_training_is_left_out(value: float) -> None:
    bags = draw(6)
    for bag in bags:
        bag.instances[:, 3] = value
    scaling = fit_scaling(bags)
    assert scaling.factor[3] == 0
    assert (np.delete(scaling.factor, 3) > 0).all()


def test_tiny_variation_is_not_made_large() -> None:
    bags = draw(6)
    for bag in bags:
        bag.instances[:, 3] *= 1e-6
    factor = fit_scaling(bags).factor
    assert 0 < factor[3] <= 101 / np.median(1 / factor[factor > 0])


def test_features_that_all_stay_the_same_are_no_error() -> None:
    bags = [ArrayBag(np.ones((4, DIM), np.float32), number) for number in (0, 1)]
    assert not fit_scaling(bags).factor.any()


def test_units_of_the_features_do_not_change_what_is_learned() -> None:
    params = HEAD_ALONE.model_copy(update={"epochs": 3})
    bags, unseen = draw(12), draw(4, seed=1)
    other = [ArrayBag(bag.instances * np.float32(64) + 8, bag.label) for bag in bags]
    one, _ = train_member(bags, [], Task((DIM,), 2), params, seed=1)
    two, _ = train_member(other, [], Task((DIM,), 2), params, seed=1)
    for bag in unseen:
        first = forward(one.head, bag.instances)
        second = forward(two.head, bag.instances * np.float32(64) + 8)
        np.testing.assert_allclose(first, second, atol=2e-3)
