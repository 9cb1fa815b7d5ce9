"""The training step: traced once, it gives every member the weights it would have had alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.nn_tools import DIM, HEAD_ALONE

from milpath.nn.attention import GatedAttention
from milpath.nn.bags import ArrayBag
from milpath.nn.data import BagSequence
from milpath.nn.fit import Task, train_member
from milpath.nn.step import Step, WarmupCosine, compile_model, negative_log_likelihood
from milpath.params import TrainParams

QUICK = HEAD_ALONE.model_copy(update={"epochs": 2})


def draw_bags(count: int = 6, size: int = 5) -> list[ArrayBag]:
    rng = np.random.default_rng(0)
    return [
        ArrayBag(rng.normal(number % 2, 1, (size, DIM)).astype(np.float32), number % 2)
        for number in range(count)
    ]


def train(params: TrainParams = QUICK, seed: int = 0, negative: int | None = None) -> Any:
    """Train a head; return its weights and history."""
    bags = draw_bags()
    member, history = train_member(bags[:4], bags[4:], Task((DIM,), 2, negative), params, seed)
    return np.concatenate([w.numpy().ravel() for w in member.head.weights]), history


@pytest.fixture(scope="module")
def usual() -> Any:
    """Weights with the usual parameters."""
    return train()[0]


@pytest.mark.parametrize("negative", [None, 0])
def test_a_reused_step_gives_the_weights_of_a_new_one(negative: int | None) -> None:
    compile_model.cache_clear()
    new, history = train(seed=3, negative=negative)
    other, _ = train(seed=4, negative=negative)
    again, same_history = train(seed=3, negative=negative)
    assert compile_model.cache_info()[:2] == (2, 1)  # hits and misses
    assert (new == again).all()
    assert history == same_history
    assert (new != other).mean() > 0.5


def test_a_step_is_traced_once_for_all_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    scores = GatedAttention.scores

    def count(self: GatedAttention, instances: Any) -> Any:
        calls.append(self)
        return scores(self, instances)

    monkeypatch.setattr(GatedAttention, "scores", count)
    compile_model.cache_clear()
    taken = []
    for seed in range(3):
        calls.clear()
        train(seed=seed)
        taken.append(len(calls))
    assert taken[0] > taken[1] == taken[2] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1e-3},
        {"weight_decay": 0.5},
        {"epochs": 3},
        {"instance_loss": 1.0},
        {"head": HEAD_ALONE.head.model_copy(update={"dropout": 0.0})},
        {"head": HEAD_ALONE.head.model_copy(update={"gated": False})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_parameters_need_a_new_step(usual: Any, change: dict[str, Any]) -> None:
    params = QUICK.model_copy(update=change)
    found, _ = train(params)
    compile_model.cache_clear()
    expected, _ = train(params)
    assert (found == expected).all()
    assert found.shape != usual.shape or (found != usual).any()


def test_the_loss_of_a_label_is_its_log_probability() -> None:
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(3), 5)).astype(np.float32)
    labels = np.array([0, 2, 1, 1, 0])
    expected = -log_probs[np.arange(5), labels]
    for given in (labels, labels[:, None]):
        assert np.asarray(negative_log_likelihood(given, log_probs)) == pytest.approx(expected)


@pytest.mark.parametrize("negative_class", [False, True])
def test_the_instance_loss_has_the_weight_it_is_given(negative_class: bool) -> None:
    params = QUICK.model_copy(update={"instance_loss": 0.7})
    step = Step((DIM,), 2, negative_class, params, per_epoch=2, widths=(5, None))
    weight = np.array([0.5, 2], np.float32)
    negative = 0 if negative_class else None
    batch = BagSequence(draw_bags(), weight, 6, 5, negative=negative, instance_loss=True)[0]
    found = compile_model(step).test_on_batch(*batch, return_dict=True)
    others = sum(found[f"{name}_loss"] for name in batch[1] if name != "attention_weighted")
    assert found["loss"] == pytest.approx(others + 0.7 * found["attention_weighted_loss"], rel=1e-5)


@pytest.mark.parametrize(("total", "most"), [(1, 5), (30, 5), (400, 5), (400, 1000)])
def test_the_learning_rate_warms_up_then_decays_as_a_cosine(total: int, most: int) -> None:
    warm = max(1, min(total // 20, most))
    rising = np.linspace(0.1, 1, warm, endpoint=False)
    turn = np.linspace(0, np.pi, max(1, total - warm) + 1)
    expected = 0.3 * np.concatenate([rising, 0.505 + 0.495 * np.cos(turn)])
    schedule = WarmupCosine(0.3, total, most)
    rates = [float(schedule(step)) for step in range(len(expected))]
    assert rates == pytest.approx(expected, rel=1e-5)
    again = WarmupCosine.from_config(schedule.get_config())
    assert [float(again(step)) for step in range(len(expected))] == rates
