"""The whole model equals its formula, and the stream of its instances equals the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from support.nn_tools import HEAD, Floats, Pixels, keras_saves, make_member, random_patches

from milpath.nn.encoders import SMALL, build_encoder
from milpath.nn.mil import (
    Member,
    MILHead,
    PerInstance,
    build_evidence,
    build_head,
    build_mil,
)
from milpath.nn.scoring import collect_evidence, pool_evidence
from milpath.params import HeadParams

DIM, CLASSES, SIDE = 10, 3, 16

both_heads = pytest.mark.parametrize("projected", [True, False], ids=["projected", "bare"])


def make_head(projected: bool = True, gated: bool = True, dropout: float = 0.5) -> MILHead:
    params = HeadParams(projection_dim=6, attention_dim=4, gated=gated, dropout=dropout)
    head = build_head(CLASSES, params, projected)
    head.build((None, None, DIM))
    rng = np.random.default_rng(4)
    for weight in head.weights:  # far from even attention, and biases that are not zero
        weight.assign(rng.normal(size=weight.shape))
    return head


def draw(bags: int = 3, instances: int = 7, seed: int = 0) -> NDArray[np.float32]:
    shape = (bags, instances, DIM)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def everything(bags: NDArray[Any]) -> NDArray[np.bool_]:
    return np.ones(bags.shape[:2], np.bool_)


def run(model: keras.Model, bags: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Floats:
    mask = everything(bags) if mask is None else mask
    return np.asarray(model.predict_on_batch({"instances": bags, "mask": mask}), np.float64)


def twin(head: MILHead, bag: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Logits, attention and contributions of one bag (N, D): eq. 7 and 9 in float64."""
    weights = {w.path.removeprefix("head/"): w.numpy().astype(np.float64) for w in head.weights}
    hidden = bag.astype(np.float64)
    if head.projection is not None:
        hidden = hidden @ weights["projection/kernel"] + weights["projection/bias"]
        hidden = np.maximum(hidden, 0)
    gate = np.ones(1)
    if head.attention.gated:
        gate = 1 / (1 + np.exp(-hidden @ weights["attention/U"]))
    scores = (np.tanh(hidden @ weights["attention/V"]) * gate) @ weights["attention/w"][:, 0]
    attention = np.exp(scores) / np.exp(scores).sum()
    z = sum(a * h for a, h in zip(attention, hidden, strict=True))
    kernel = weights["classifier/kernel"]
    logits = z @ kernel + weights["classifier/bias"]
    contributions = np.stack(
        [a * np.array([w @ h for w in kernel.T]) for a, h in zip(attention, hidden, strict=True)]
    )
    return logits, attention, contributions


# -- the head ------------------------------------------------------------------------------------


@both_heads
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_the_head_is_that_of_the_paper(projected: bool, gated: bool) -> None:
    head, bags = make_head(projected, gated), draw()
    expected = np.array([twin(head, bag)[0] for bag in bags])
    assert run(build_mil((DIM,), head), bags) == pytest.approx(expected, abs=1e-5)


@both_heads
def test_the_order_of_the_instances_does_not_matter(projected: bool) -> None:
    model, bags = build_mil((DIM,), make_head(projected)), draw()
    order = np.random.default_rng(1).permutation(bags.shape[1])
    probs = softmax(run(model, bags), axis=1)
    assert softmax(run(model, bags[:, order]), axis=1) == pytest.approx(probs, abs=1e-6)


@both_heads
@pytest.mark.parametrize("garbage", [0.0, 255.0, -1e20, 1e20])
def test_padding_does_not_matter(projected: bool, garbage: float) -> None:
    model, bags = build_mil((DIM,), make_head(projected)), draw()
    padded = np.concatenate([bags, np.full((3, 5, DIM), garbage, np.float32)], axis=1)
    mask = np.tile(np.arange(padded.shape[1]) < bags.shape[1], (3, 1))
    probs = softmax(run(model, bags), axis=1)
    assert softmax(run(model, padded, mask), axis=1) == pytest.approx(probs, abs=1e-6)


@both_heads
def test_a_batch_of_bags_is_the_bags_one_at_a_time(projected: bool) -> None:
    model, bags = build_mil((DIM,), make_head(projected)), draw()
    sizes = [7, 1, 4]
    mask = np.arange(7) < np.array(sizes)[:, None]
    alone = [run(model, bags[i : i + 1, :size]) for i, size in enumerate(sizes)]
    assert run(model, bags, mask) == pytest.approx(np.concatenate(alone), abs=1e-5)


def test_the_size_of_a_bag_may_differ_from_call_to_call() -> None:
    head = make_head()
    model = build_mil((DIM,), head)
    for size in (4, 1, 900, 3):
        bags = draw(bags=1, instances=size, seed=size)
        assert run(model, bags)[0] == pytest.approx(twin(head, bags[0])[0], abs=1e-4)


def test_a_bag_twice_over_has_the_same_logits() -> None:
    model, bags = build_mil((DIM,), make_head()), draw()
    twice = np.concatenate([bags, bags], axis=1)
    assert run(model, twice) == pytest.approx(run(model, bags), abs=1e-5)


def test_dropout_works_in_training_only() -> None:
    head, bags = make_head(dropout=0.5), draw()
    calm = [np.asarray(head(bags, training=False)) for _ in range(2)]
    wild = [np.asarray(head(bags, training=True)) for _ in range(2)]
    assert (calm[0] == calm[1]).all()
    assert (wild[0] != wild[1]).any()
    assert (wild[0] != calm[0]).any()


def test_the_logits_are_float32_under_a_half_precision_policy() -> None:
    head = MILHead(CLASSES, 4, dtype="mixed_float16")
    mask = np.tile(np.arange(7) < 4, (3, 1))
    logits = head(draw(), mask=mask)
    assert logits.dtype == "float32"
    assert np.isfinite(np.asarray(logits)).all()


@both_heads
def test_build_head_has_a_projection_for_a_frozen_encoder_only(projected: bool) -> None:
    head = build_head(CLASSES, HEAD, projected)
    assert head.projection_dim == (HEAD.projection_dim if projected else None)
    assert head.attention.units == HEAD.attention_dim
    assert head.compute_output_shape((None, None, DIM)) == (None, CLASSES)


@both_heads
def test_a_config_rebuilds_the_head(projected: bool) -> None:
    head = make_head(projected)
    again = MILHead.from_config(head.get_config())
    again.build((None, None, DIM))
    assert again.get_config() == head.get_config()
    assert [tuple(w.shape) for w in again.weights] == [tuple(w.shape) for w in head.weights]


# -- the encoder within --------------------------------------------------------------------------


def test_every_instance_goes_through_the_same_network() -> None:
    encoder = build_encoder(SMALL, SIDE)
    bags = random_patches(6, SIDE).reshape(2, 3, SIDE, SIDE, 3)
    found = np.asarray(PerInstance(encoder)(bags, training=False))
    for bag, embeddings in zip(bags, found, strict=True):
        for patch, embedding in zip(bag, embeddings, strict=True):
            expected = encoder.predict_on_batch(patch[None])[0]
            assert embedding == pytest.approx(expected, abs=1e-5)


def test_per_instance_computes_its_output_shape() -> None:
    layer = PerInstance(build_encoder(SMALL, SIDE))
    assert layer.compute_output_shape((None, None, SIDE, SIDE, 3)) == (None, None, 128)
    assert layer(keras.Input((None, SIDE, SIDE, 3))).shape == (None, None, 128)


def pixel_model(seed: int = 0) -> tuple[keras.Model, Member]:
    keras.utils.set_random_seed(seed)
    member = make_member(CLASSES, SIDE)
    assert member.encoder is not None
    return build_mil((SIDE, SIDE, 3), member.head, member.encoder), member


def pixel_bags(bags: int, instances: int) -> Pixels:
    return random_patches(bags * instances, SIDE).reshape(bags, instances, SIDE, SIDE, 3)


def test_order_and_padding_do_not_matter_from_the_pixels_on() -> None:
    model, _ = pixel_model()
    bags = pixel_bags(2, 6)
    probs = softmax(run(model, bags), axis=1)
    order = np.random.default_rng(1).permutation(6)
    white = np.concatenate([bags, np.full((2, 3, SIDE, SIDE, 3), 255, np.uint8)], axis=1)
    mask = np.tile(np.arange(9) < 6, (2, 1))
    assert softmax(run(model, bags[:, order]), axis=1) == pytest.approx(probs, abs=1e-6)
    assert softmax(run(model, white, mask), axis=1) == pytest.approx(probs, abs=1e-6)


def test_encoder_and_head_learn_together() -> None:
    model, member = pixel_model()
    assert member.encoder is not None
    parts = len(member.encoder.trainable_weights) + len(member.head.trainable_weights)
    assert len(model.trainable_weights) == parts
    before = [weight.numpy() for weight in model.trainable_weights]
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    bags = pixel_bags(2, 3)
    model.train_on_batch({"instances": bags, "mask": everything(bags)}, np.array([0, 1]))
    after = [weight.numpy() for weight in model.trainable_weights]
    assert all((one != other).any() for one, other in zip(before, after, strict=True))


@keras_saves
def test_a_saved_model_is_loaded_unchanged(tmp_path: Path) -> None:
    model, _ = pixel_model()
    bags = pixel_bags(2, 3)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert (run(again, bags) == run(model, bags)).all()


# -- instance by instance ------------------------------------------------------------------------


@both_heads
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_streamed_bag_has_the_logits_of_the_trained_model(projected: bool, batch: int) -> None:
    head, (bag,) = make_head(projected), draw(bags=1, instances=50)
    evidence = build_evidence((DIM,), [Member(head)])
    parts = (bag[start : start + batch] for start in range(0, 50, batch))
    attention, contributions = pool_evidence(*collect_evidence(evidence, parts, batch))
    logits = contributions[0].sum(axis=0) + head.classifier.bias.numpy()
    assert logits == pytest.approx(run(build_mil((DIM,), head), bag[None])[0], abs=1e-5)
    expected = twin(head, bag)
    assert logits == pytest.approx(expected[0], abs=1e-5)
    assert attention[0] == pytest.approx(expected[1], abs=1e-6)
    assert contributions[0] == pytest.approx(expected[2], abs=1e-5)


def test_a_streamed_slide_has_the_logits_of_the_model_trained_on_pixels() -> None:
    model, member = pixel_model()
    (bag,) = pixel_bags(1, 20)
    evidence = build_evidence((SIDE, SIDE, 3), [member])
    for sizes in ([20], [7, 13], [1] * 20):
        parts = np.split(bag, np.cumsum(sizes)[:-1])
        _, contributions = pool_evidence(*collect_evidence(evidence, parts, max(sizes)))
        logits = contributions[0].sum(axis=0) + member.head.classifier.bias.numpy()
        assert logits == pytest.approx(run(model, bag[None])[0], abs=1e-5)


def test_contributions_sum_to_the_pooled_logit_exactly() -> None:
    rng = np.random.default_rng(0)
    scores, kernel = rng.normal(size=(2, 10_000)), rng.normal(size=(8, CLASSES))
    hidden = rng.normal(size=(2, 10_000, 8))
    attention, contributions = pool_evidence(scores, hidden @ kernel)
    assert attention.sum(axis=1) == pytest.approx(np.ones(2), abs=1e-12)
    z = np.einsum("mn,mnd->md", softmax(scores, axis=1), hidden)
    assert contributions.sum(axis=1) == pytest.approx(z @ kernel, abs=1e-9)


def test_each_member_of_an_ensemble_gives_its_own_evidence() -> None:
    members = [pixel_model(seed)[1] for seed in (1, 2, 3)]
    (bag,) = pixel_bags(1, 5)
    together = collect_evidence(build_evidence((SIDE, SIDE, 3), members), [bag], 5)
    for place, member in enumerate(members):
        alone = collect_evidence(build_evidence((SIDE, SIDE, 3), [member]), [bag], 5)
        for one, all_of_them in zip(alone, together, strict=True):
            assert all_of_them[place] == pytest.approx(one[0], abs=1e-6)
    assert np.abs(np.diff(together[1], axis=0)).max() > 0.01


def test_an_empty_stream_gives_no_evidence() -> None:
    evidence = build_evidence((DIM,), [Member(make_head()), Member(make_head())])
    attention, contributions = pool_evidence(*collect_evidence(evidence, []))
    assert attention.shape == (2, 0)
    assert contributions.shape == (2, 0, CLASSES)


# -- the standard assumption ---------------------------------------------------------------------


def answers(
    head: MILHead, bags: NDArray[Any], mask: NDArray[np.bool_], instance_loss: bool = False
) -> dict[str, Floats]:
    model = build_mil((DIM,), head, negative_class=not instance_loss, instance_loss=instance_loss)
    found = model.predict_on_batch({"instances": bags, "mask": mask})
    return {name: np.asarray(value, np.float64) for name, value in found.items()}


@both_heads
def test_an_instance_has_the_logits_of_a_bag_of_one(projected: bool) -> None:
    head, bags = make_head(projected), draw()
    mask = everything(bags)
    found = answers(head, bags, mask)
    assert found["bag"] == pytest.approx(run(build_mil((DIM,), head), bags), abs=1e-5)
    for bag, row in np.ndindex(bags.shape[:2]):
        alone, _, _ = twin(head, bags[bag, row : row + 1])
        assert found["instance"][bag, row] == pytest.approx(alone, abs=1e-4)


@both_heads
def test_the_logits_of_a_bag_are_a_mean_of_those_of_its_instances(projected: bool) -> None:
    head, bags = make_head(projected), draw()
    found = answers(head, bags, everything(bags))
    for number, bag in enumerate(bags):
        _, attention, _ = twin(head, bag)
        assert found["bag"][number] == pytest.approx(
            attention @ found["instance"][number], abs=1e-4
        )


@both_heads
def test_a_bag_is_joined_with_the_one_before_it(projected: bool) -> None:
    head, bags = make_head(projected), draw()
    mask = everything(bags)
    mask[1, 4:] = False
    found = answers(head, bags, mask)
    for number in range(len(bags)):
        both = np.concatenate([bags[i][mask[i]] for i in (number, number - 1)])
        logits, _, _ = twin(head, both)
        assert found["pair"][number] == pytest.approx(logits, abs=1e-4)


# -- the instance loss ---------------------------------------------------------------------------


@both_heads
def test_log_probabilities_of_instances_are_averaged_by_attention(projected: bool) -> None:
    head, bags = make_head(projected), draw()
    mask = everything(bags)
    mask[1, 4:] = False
    found = answers(head, bags, mask, instance_loss=True)
    assert found.keys() == {"bag", "attention_weighted"}
    for number, bag in enumerate(bags):
        logits, attention, _ = twin(head, bag[mask[number]])
        alone = np.stack([twin(head, one[None])[0] for one in bag[mask[number]]])
        assert found["bag"][number] == pytest.approx(logits, abs=1e-4)
        expected = attention @ log_softmax(alone, axis=1)
        assert found["attention_weighted"][number] == pytest.approx(expected, abs=1e-4)


def test_the_instance_loss_has_no_gradient_through_the_attention() -> None:
    head, bags = make_head(dropout=0.0), draw()
    model = build_mil((DIM,), head, instance_loss=True)
    reached = {}
    for name in ("bag", "attention_weighted"):
        with tf.GradientTape() as tape:
            answer = model({"instances": bags, "mask": everything(bags)})[name]
            loss = keras.ops.sum(keras.ops.square(answer))
        attention = [head.attention.V, head.attention.U, head.attention.w]
        gradients = tape.gradient(loss, [v.value for v in [*attention, head.classifier.kernel]])
        reached[name] = [gradient is not None for gradient in gradients]
    assert reached == {"bag": [True] * 4, "attention_weighted": [False] * 3 + [True]}
