"""The training step: what a model does with a batch of bags, traced once and taken by many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import keras
from keras import ops

from milpath.nn.data import BagSequence
from milpath.nn.encoder import OURS
from milpath.nn.mil import Member, build_head, build_mil
from milpath.params import TrainParams


@dataclass(frozen=True)
class Step:
    """All that a training step is, but for weights and bags."""

    instance_shape: tuple[int, ...]
    classes: int
    presence: bool
    """Whether it learns under the standard assumption, see `milpath.nn.mil.build_mil`."""
    params: TrainParams
    per_epoch: int
    """Steps in an epoch."""
    widths: tuple[int, int | None]
    """Instances in a bag of training and, if there are any, of validation: a step traced for one
    number is not taken with another, so that no weight depends on what was trained before."""

    def draw_member(self) -> Member:
        """A member with new weights."""
        shape = self.instance_shape
        encoder = OURS[self.params.encoder](shape) if len(shape) == 3 else None
        head = build_head(self.classes, self.params.head, projected=encoder is None)
        return Member(head, encoder)

    def build_model(self, member: Member) -> keras.Model:
        """The model that trains a member."""
        return build_mil(
            self.instance_shape,
            member.head,
            member.encoder,
            presence=self.presence,
            attended=self.params.instance_loss > 0,
        )


@lru_cache(maxsize=2)
def compile_model(step: Step) -> keras.Model:
    """The model that takes such steps, one for every member, fold and seed.

    TensorFlow traces a step for more than a second, and never forgets it.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    params, model = step.params, step.build_model(step.draw_member())
    loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics: Any = ["accuracy"]
    weights = None
    if isinstance(model.output, dict):
        loss, metrics = dict.fromkeys(model.output, loss), {"bag": metrics}
        if "attended" in loss:
            loss["attended"] = negative_log_likelihood
            weights = {name: params.instance_loss if name == "attended" else 1.0 for name in loss}
    steps = params.epochs * step.per_epoch
    rate = WarmupCosine(params.learning_rate, steps, 5 * step.per_epoch)
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=params.weight_decay, clipnorm=1.0),
        loss=loss,
        loss_weights=weights,
        weighted_metrics=metrics,
    )
    return model


def negative_log_likelihood(labels: Any, log_probs: Any) -> Any:
    """Of labels (B,) under log-probabilities (B, C): (B,)."""
    classes = log_probs.shape[-1]
    chosen = ops.one_hot(ops.reshape(labels, (-1,)), classes, dtype=log_probs.dtype)
    return -ops.sum(chosen * log_probs, axis=-1)


def begin(model: keras.Model, bags: BagSequence) -> None:
    """Have loss, metrics and optimizer make their variables, or the optimizer forget what it knew.

    Where the first training step makes them, TensorFlow traces it a second time.
    """
    if not model.optimizer.built:
        inputs, labels, weights = bags[0]
        answers = model(inputs)
        model.compute_loss(inputs, labels, answers, weights)
        model.compute_metrics(inputs, labels, answers, weights)
        model.optimizer.build(model.trainable_variables)
    for variable in model.optimizer.variables:
        variable.assign(ops.zeros_like(variable))


def copy_variables(source: keras.Model, target: keras.Model) -> None:
    """Weights, statistics and the state of dropout, from a model to one like it."""
    for new, old in zip(source.variables, target.variables, strict=True):
        old.assign(new)


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A short warm-up from a tenth of the learning rate, then a cosine down to a hundredth.

    That of Keras asks whether it is still warming up, and is asked anew for every variable: half a
    second of tracing.

    Parameters
    ----------
    rate : the highest
    total : steps in all
    most : steps of warm-up at most; otherwise they are a twentieth of all
    """

    def __init__(self, rate: float, total: int, most: int) -> None:
        self.rate = rate
        self.total = total
        self.warm = max(1, min(total // 20, most))

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        done = ops.clip((step - self.warm) / max(1, self.total - self.warm), 0, 1)
        falling = 0.505 + 0.495 * ops.cos(math.pi * done)
        return self.rate * ops.minimum(0.1 + 0.9 * step / self.warm, falling)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "total": self.total, "most": self.warm}
