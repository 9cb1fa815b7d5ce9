"""Attention is that of the paper, sums to one, and sees neither order nor padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from support.nn_tools import keras_saves

from milpath.nn.attention import GatedAttention

Floats = NDArray[np.float64]
BAGS, INSTANCES, DIM, UNITS = 3, 7, 5, 4

both_forms = pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])


def draw(seed: int = 0, instances: int = INSTANCES, scale: float = 1.0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=(BAGS, instances, DIM))).astype(np.float32)


def make_layer(gated: bool = True, **options: Any) -> GatedAttention:
    keras.utils.set_random_seed(0)  # some draws are even attention, which hides faults
    layer = GatedAttention(UNITS, gated, kernel_initializer="random_normal", **options)
    layer.build((None, None, DIM))
    for weight in layer.weights:  # large enough for the attention to be far from even
        weight.assign(20 * weight.numpy())
    return layer


def attend(layer: GatedAttention, bags: Any, mask: Any = None) -> Floats:
    return np.asarray(keras.ops.convert_to_numpy(layer(bags, mask=mask)), np.float64)


def twin(layer: GatedAttention, bag: NDArray[Any]) -> Floats:
    """Eq. 9 of Ilse et al. (eq. 8 without the gate), instance by instance, V and U (L, M)."""
    weights = {weight.name: weight.numpy().astype(np.float64) for weight in layer.weights}
    v, w = weights["V"].T, weights["w"][:, 0]
    powers = []
    for h in bag.astype(np.float64):
        gate = 1 / (1 + np.exp(-(weights["U"].T @ h))) if layer.gated else 1.0
        powers.append(np.exp(w @ (np.tanh(v @ h) * gate)))
    return np.array(powers) / np.sum(powers)


# -- laws ----------------------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize("seed", range(3))
def test_attention_is_that_of_the_paper(gated: bool, seed: int) -> None:
    layer, bags = make_layer(gated), draw(seed)
    expected = [twin(layer, bag) for bag in bags]
    assert np.ptp(expected) > 0.1  # not the even attention that hides faults
    assert attend(layer, bags) == pytest.approx(np.array(expected), abs=1e-6)


@both_forms
def test_a_mask_leaves_the_paper_s_attention_over_the_real_instances(gated: bool) -> None:
    layer, bags = make_layer(gated), draw()
    mask = np.random.default_rng(1).random((BAGS, INSTANCES)) < 0.6
    mask[:, 2] = True
    found = attend(layer, bags, mask)
    for bag, real, attention in zip(bags, mask, found, strict=True):
        assert attention[real] == pytest.approx(twin(layer, bag[real]), abs=1e-6)
        assert (attention[~real] == 0).all()


@both_forms
def test_permuting_the_instances_permutes_the_attention(gated: bool) -> None:
    layer, bags = make_layer(gated), draw()
    order = np.random.default_rng(2).permutation(INSTANCES)
    assert attend(layer, bags[:, order]) == pytest.approx(attend(layer, bags)[:, order], abs=1e-6)


@both_forms
@pytest.mark.parametrize("instances", [1, 2, 5000])
def test_attention_sums_to_one_over_bags_of_any_size(gated: bool, instances: int) -> None:
    found = attend(make_layer(gated), draw(instances=instances))
    assert (found >= 0).all()
    assert found.sum(axis=1) == pytest.approx(np.ones(BAGS), abs=1e-5)


@both_forms
@pytest.mark.parametrize("garbage", [0.0, 255.0, -1e30, 1e30])
def test_padding_that_the_mask_hides_changes_nothing(gated: bool, garbage: float) -> None:
    layer, bags = make_layer(gated), draw()
    padded = np.concatenate([bags, np.full((BAGS, 4, DIM), garbage, np.float32)], axis=1)
    mask = np.arange(INSTANCES + 4) < INSTANCES
    found = attend(layer, padded, np.tile(mask, (BAGS, 1)))
    assert found[:, :INSTANCES] == pytest.approx(attend(layer, bags), abs=1e-6)
    assert (found[:, INSTANCES:] == 0).all()


@both_forms
def test_a_bag_of_one_has_attention_one(gated: bool) -> None:
    layer, bags = make_layer(gated), draw()
    mask = np.zeros((BAGS, INSTANCES), np.bool_)
    mask[:, 3] = True
    assert (attend(layer, bags[:, :1]) == 1).all()
    assert (attend(layer, bags, mask) == mask).all()


@both_forms
def test_a_bag_of_padding_only_has_attention_zero(gated: bool) -> None:
    found = attend(make_layer(gated), draw(), np.zeros((BAGS, INSTANCES), np.bool_))
    assert (found == 0).all()


def test_a_mask_of_ones_is_no_mask() -> None:
    layer, bags = make_layer(), draw()
    ones = np.ones((BAGS, INSTANCES))  # numbers do as well
    assert (attend(layer, bags, ones) == attend(layer, bags)).all()


@pytest.mark.parametrize("policy", ["float16", "mixed_float16"])
def test_half_precision_keeps_sum_and_mask(policy: str) -> None:
    layer = make_layer(dtype=policy)
    bags = draw(instances=3000, scale=100.0).astype(np.float16)
    mask = np.tile(np.arange(3000) < 2000, (BAGS, 1))
    found = attend(layer, bags, mask)
    assert found.sum(axis=1) == pytest.approx(np.ones(BAGS), abs=1e-5)
    assert (found[~mask] == 0).all()
    assert (attend(layer, bags, np.zeros_like(mask)) == 0).all()


def test_half_precision_gives_the_attention_of_single_precision() -> None:
    single, half = make_layer(), make_layer(dtype="mixed_float16")
    half.set_weights(single.get_weights())
    assert attend(half, draw()) == pytest.approx(attend(single, draw()), abs=0.02)


# -- learning ------------------------------------------------------------------------------------


@both_forms
def test_the_gradient_reaches_every_weight(gated: bool) -> None:
    layer, bags = make_layer(gated), draw(scale=0.1)
    mask = np.tile(np.arange(INSTANCES) < 5, (BAGS, 1))
    with tf.GradientTape() as tape:
        answer = keras.ops.sum(keras.ops.square(layer(bags, mask=mask)))
    names = [weight.name for weight in layer.trainable_weights]
    assert names == (["V", "U", "w"] if gated else ["V", "w"])
    values = [weight.value for weight in layer.trainable_weights]
    for gradient in tape.gradient(answer, values):
        assert np.isfinite(gradient.numpy()).all()
        assert (np.abs(gradient.numpy()).max(axis=0) > 0).all()


def test_the_gradient_of_padding_is_zero() -> None:
    layer, bags = make_layer(), tf.constant(draw())
    mask = np.tile(np.arange(INSTANCES) < 5, (BAGS, 1))
    with tf.GradientTape() as tape:
        tape.watch(bags)
        answer = keras.ops.sum(keras.ops.square(layer(bags, mask=mask)))
    gradient = tape.gradient(answer, bags).numpy()
    assert (gradient[:, 5:] == 0).all()
    assert (gradient[:, :5] != 0).any()


def test_v_u_and_w_have_different_initial_weights() -> None:
    layer = GatedAttention(DIM)
    layer.build((None, None, DIM))
    v, u, w = (weight.numpy() for weight in layer.weights)
    assert v.shape == u.shape == (DIM, DIM)
    assert w.shape == (DIM, 1)
    assert np.abs(v - u).min() > 0
    assert np.abs(v[:, :1] - w).min() > 0


def test_the_seed_determines_the_initial_weights() -> None:
    drawn = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        layer = GatedAttention(UNITS)
        layer.build((None, None, DIM))
        drawn.append(np.concatenate([weight.numpy().ravel() for weight in layer.weights]))
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).all()


# -- the layer as Keras sees it ------------------------------------------------------------------


@both_forms
def test_initializer_and_regularizer_are_those_of_every_kernel(gated: bool) -> None:
    layer = GatedAttention(
        UNITS, gated, kernel_initializer="ones", kernel_regularizer=keras.regularizers.L2(0.5)
    )
    layer.build((None, None, DIM))
    kernels = 2 if gated else 1
    assert all((weight.numpy() == 1).all() for weight in layer.weights)
    assert float(sum(layer.losses)) == pytest.approx(0.5 * (kernels * DIM * UNITS + UNITS))


@both_forms
def test_a_config_rebuilds_the_layer(gated: bool) -> None:
    layer = GatedAttention(
        UNITS, gated, "he_normal", keras.regularizers.L1(0.25), name="look", dtype="mixed_float16"
    )
    again = GatedAttention.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.units, again.gated, again.name) == (UNITS, gated, "look")
    assert isinstance(again.kernel_initializer, keras.initializers.HeNormal)
    assert float(again.kernel_regularizer.l1) == 0.25


@keras_saves
@both_forms
def test_a_saved_layer_is_loaded_unchanged(gated: bool, tmp_path: Path) -> None:
    bags, mask = draw(), np.tile(np.arange(INSTANCES) < 5, (BAGS, 1))
    inputs = keras.Input((None, DIM)), keras.Input((None,), dtype="bool")
    model = keras.Model(inputs, make_layer(gated)(inputs[0], mask=inputs[1]))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert (again.predict_on_batch([bags, mask]) == model.predict_on_batch([bags, mask])).all()


def test_the_computed_output_shape_is_the_shape_of_the_output() -> None:
    layer = make_layer()
    assert layer.compute_output_shape((BAGS, INSTANCES, DIM)) == (BAGS, INSTANCES)
    assert layer.compute_output_shape((None, None, DIM)) == (None, None)
    assert attend(layer, draw()).shape == (BAGS, INSTANCES)
    assert layer(keras.Input((None, DIM))).shape == (None, None)
