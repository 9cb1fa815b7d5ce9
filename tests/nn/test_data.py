"""Batches of bags are what they promise: padded, masked, fresh while training, fixed otherwise."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from support.nn_tools import make_features, make_records, random_patches, stored_features

from milpath.nn.augment import augment_tissue, turn_patches
from milpath.nn.bags import ArrayBag, LabelledBag
from milpath.nn.data import BagSequence

SIZES, LABELS = (5, 2, 9, 1, 4), (0, 1, 0, 1, 0)
PAIRS = tuple(zip(SIZES, LABELS, strict=True))
EVEN = np.ones(2, np.float32)
stain = partial(augment_tissue, stain_jitter=0.3)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledBag]:
    return make_records(tmp_path_factory.mktemp("records"), SIZES, LABELS)


def sequence(bags: list[LabelledBag], **options: Any) -> BagSequence:
    given = {"class_weight": EVEN, "batch": 2, "per_bag": 3, "seed": 7}
    return BagSequence(bags, **{**given, **options})


def batches(made: BagSequence) -> list[tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]]]:
    taken = [made[index] for index in range(len(made))]
    return [(inputs["instances"], inputs["mask"], labels) for inputs, labels, _ in taken]


def whose(patch: NDArray[np.uint8]) -> tuple[int, int]:
    """Bag and row of a patch of `records`, however it is turned."""
    key = np.sort(patch, axis=None).tobytes()
    for number, size in enumerate(SIZES):
        for row, other in enumerate(random_patches(size, seed=number)):
            if np.sort(other, axis=None).tobytes() == key:
                return number, row
    raise AssertionError("a patch of no bag")


def rows_by_bag(made: BagSequence) -> dict[int, list[int]]:
    """What a pass takes from each bag."""
    found: dict[int, list[int]] = {}
    for instances, mask, _ in batches(made):
        for bag, real in zip(instances, mask, strict=True):
            places = [whose(patch) for patch in bag[real]]
            (number,) = {number for number, _ in places}
            assert number not in found
            found[number] = [row for _, row in places]
    return found


# -- laws ----------------------------------------------------------------------------------------


def test_a_pass_takes_every_bag_once(records: list[LabelledBag]) -> None:
    for seed in (7, None):
        assert set(rows_by_bag(sequence(records, seed=seed))) == set(range(5))


def test_the_arrays_have_the_promised_shapes(records: list[LabelledBag]) -> None:
    made = sequence(records)
    assert len(made) == 3
    assert [labels.shape for _, _, labels in batches(made)] == [(2,), (2,), (1,)]
    for instances, mask, labels in batches(made):
        assert instances.shape == (len(labels), 3, 16, 16, 3)
        assert instances.dtype == np.uint8
        assert mask.shape == (len(labels), 3)
        assert mask.dtype == np.bool_


@pytest.mark.parametrize("seed", [7, None])
@pytest.mark.parametrize("per_bag", [1, 3, 9, 100])
def test_the_mask_counts_what_a_bag_gives(
    records: list[LabelledBag], per_bag: int, seed: int | None
) -> None:
    made = sequence(records, per_bag=per_bag, seed=seed)
    assert made.width == min(per_bag, max(SIZES))
    taken = rows_by_bag(made)
    for number, size in enumerate(SIZES):
        rows = taken[number]
        assert len(rows) == len(set(rows)) == min(per_bag, size)


def test_a_small_bag_is_padded_with_its_own_patches(records: list[LabelledBag]) -> None:
    made = sequence(records, per_bag=9)
    padded = 0
    for instances, mask, _ in batches(made):
        for bag, real in zip(instances, mask, strict=True):
            assert real[: real.sum()].all()
            (number,) = {whose(patch)[0] for patch in bag}
            assert real.sum() == SIZES[number]
            padded += int((~real).sum())
    assert padded == 9 * 5 - sum(SIZES)


def test_labels_and_class_weights_follow_their_bags(records: list[LabelledBag]) -> None:
    weight = np.array([0.5, 3.0], np.float32)
    made = sequence(records, class_weight=weight)
    for index in range(len(made)):
        inputs, labels, weights = made[index]
        numbers = [whose(bag[0])[0] for bag in inputs["instances"]]
        assert labels.tolist() == [LABELS[number] for number in numbers]
        assert weights.tolist() == [weight[LABELS[number]] for number in numbers]


def test_the_same_seed_gives_the_same_batches(records: list[LabelledBag]) -> None:
    one, same = (batches(sequence(records, augment=stain)) for _ in range(2))
    for left, right in zip(one, same, strict=True):
        for array, twin in zip(left, right, strict=True):
            assert (array == twin).all()


def test_another_seed_gives_other_batches(records: list[LabelledBag]) -> None:
    one, other = (batches(sequence(records, seed=seed)) for seed in (7, 8))
    assert (one[0][0] != other[0][0]).any()


def test_another_epoch_takes_other_patches_in_another_order(records: list[LabelledBag]) -> None:
    made = sequence(records)
    taken, orders = [], []
    for _ in range(30):
        rows = rows_by_bag(made)
        taken.append(sorted(rows[2]))
        orders.append(tuple(rows))
        made.on_epoch_end()
    assert len({tuple(rows) for rows in taken}) > 20
    assert set().union(*taken) == set(range(9))
    assert len(set(orders)) > 20


def test_validation_takes_the_same_even_patches_every_time(records: list[LabelledBag]) -> None:
    made = sequence(records, seed=None, augment=stain)
    first = rows_by_bag(made)
    made.on_epoch_end()
    assert rows_by_bag(made) == first
    assert list(first) == [0, 1, 2, 3, 4]
    assert first[2] == [0, 4, 8]
    original = random_patches(9, seed=2)[[0, 4, 8]]
    assert (batches(made)[1][0][0] == original).all()  # neither turned nor stained


def test_training_augments_the_patches(records: list[LabelledBag]) -> None:
    plain, stained = (batches(sequence(records, augment=a))[0][0] for a in (turn_patches, stain))
    originals = {p.tobytes() for n, s in enumerate(SIZES) for p in random_patches(s, seed=n)}
    flat = plain.reshape(-1, 16, 16, 3)
    assert any(patch.tobytes() not in originals for patch in flat)
    assert np.abs(plain.astype(int) - stained).mean() > 1


def test_the_instance_loss_uses_the_label_of_the_bag(records: list[LabelledBag]) -> None:
    _, labels, weights = sequence(records, negative=0, instance_loss=True)[0]
    assert list(labels) == list(weights) == ["bag", "instance", "pair", "attention_weighted"]
    assert (labels["attention_weighted"] == labels["bag"]).all()
    assert (weights["attention_weighted"] == weights["bag"]).all()


# -- a negative class ----------------------------------------------------------------------------


def test_only_the_real_instances_of_negative_bags_are_known(records: list[LabelledBag]) -> None:
    made = sequence(records, per_bag=9, negative=0)
    for index in range(len(made)):
        inputs, labels, weights = made[index]
        assert (labels["instance"] == labels["bag"][:, None]).all()
        negative = (labels["bag"] == 0)[:, None]
        assert ((weights["instance"] > 0) == (inputs["mask"] & negative)).all()


def test_a_bag_joined_with_a_negative_one_keeps_its_class() -> None:
    bags = [ArrayBag(np.zeros((2, 3), np.float32), label) for label in (0, 1, 2, 2, 0, 0)]
    weight = np.array([1, 2, 3], np.float32)
    _, labels, weights = BagSequence(bags, weight, 6, 2, negative=0)[0]
    # each with the one before it, the first with the last
    assert labels["pair"].tolist() == [0, 1, 1, 2, 2, 0]
    # three of six bags are negative, and one of five pairs: that weighs 5 / 2, any other 5 / 8;
    # the class of a 1 joined with a 2 is unknown
    expected = np.array([1 * 5 / 2, 2 * 5 / 8, 0, 3 * 5 / 8, 3 * 5 / 8, 1 * 5 / 2])
    assert weights["pair"] == pytest.approx(expected)


@pytest.mark.parametrize("batch", [2, 4, 16])
@pytest.mark.parametrize("negatives", [20, 100, 180])
def test_over_epochs_pairs_and_instances_weigh_what_bags_do(negatives: int, batch: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation([0] * negatives + [1] * (200 - negatives))
    bags = [ArrayBag(np.zeros((rng.integers(1, 9), 2), "f4"), int(label)) for label in labels]
    made = BagSequence(bags, EVEN, batch, 6, seed=0, negative=0)
    joint, instance, epochs = np.zeros(2), 0.0, 60
    for _ in range(epochs):
        for _, answers, weights in (made[place] for place in range(len(made))):
            size = len(answers["bag"])
            joint += np.bincount(answers["pair"], weights["pair"], 2)
            instance += weights["instance"].mean() * size
        made.on_epoch_end()
    share = negatives / 200
    assert joint / (200 * epochs) == pytest.approx([share, 1 - share], rel=0.15)
    assert instance / (200 * epochs) == pytest.approx(1, rel=1e-3)


def test_a_bag_in_memory_is_sampled_like_a_stored_one(records: list[LabelledBag]) -> None:
    held = [ArrayBag(random_patches(s, seed=n), label) for n, (s, label) in enumerate(PAIRS)]
    for left, right in zip(batches(sequence(records)), batches(sequence(held)), strict=True):
        for array, twin in zip(left, right, strict=True):
            assert (array == twin).all()


# -- embeddings ----------------------------------------------------------------------------------


def test_features_are_sampled_like_patches(tmp_path: Path) -> None:
    features = np.arange(20, dtype=np.float16).reshape(10, 2)
    bags = [
        LabelledBag(
            stored_features(make_features(tmp_path, name, features[:count])), name, name, 0, count
        )
        for name, count in (("few", 2), ("many", 10))
    ]
    made = sequence(bags, per_bag=4)
    inputs, _, _ = made[0]
    assert inputs["instances"].shape == (2, 4, 2)
    for bag, real in zip(inputs["instances"], inputs["mask"], strict=True):
        rows = bag[real][:, 0] / 2
        assert len(set(rows)) == len(rows)
        assert (np.diff(rows) > 0).all()
        assert set(bag[:, 0]) == set(bag[real][:, 0])
    everything = sequence(bags, per_bag=10, seed=None)
    assert (everything[0][0]["instances"][1] == features).all()


# -- in Keras' hands -----------------------------------------------------------------------------


def test_fit_takes_every_batch_of_every_epoch_once(tmp_path: Path) -> None:
    taken: list[tuple[int, int]] = []

    class Spy(BagSequence):
        def __getitem__(self, index: int) -> tuple[dict[str, Any], Any, Any]:
            taken.append((self.epoch, index))
            return super().__getitem__(index)

    bags = [
        LabelledBag(
            stored_features(make_features(tmp_path, f"b{n}", np.eye(3, 2))), f"b{n}", "", n % 2, 3
        )
        for n in range(7)
    ]
    spy = Spy(bags, EVEN, batch=2, per_bag=2, seed=1)
    shapes = {"instances": (None, 2), "mask": (None,)}
    inputs = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
    pooled = keras.ops.mean(inputs["instances"], axis=1)
    model = keras.Model(inputs, keras.layers.Dense(2)(pooled))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(spy, epochs=4, verbose=0, shuffle=False)
    peeked, trained = taken[: len(taken) - 16], taken[len(taken) - 16 :]
    assert all(epoch == 0 for epoch, _ in peeked)  # Keras looks at the first to learn the shapes
    first = trained[0][0]
    expected = [(first + epoch, index) for epoch in range(4) for index in range(4)]
    assert sorted(trained) == expected
