"""The training step: traced once, and shared by every member, fold and seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from milpath.nn.data import BagSequence
from milpath.nn.encoders import OWN_ENCODERS
from milpath.nn.engine import keras, ops
from milpath.nn.mil import Member, build_head, build_mil
from milpath.params import TrainParams


@dataclass(frozen=True)
class Step:
    """Everything that defines a training step, except weights and bags."""

    instance_shape: tuple[int, ...]
    classes: int
    negative_class: bool
    """Whether there is a negative class, see `milpath.nn.mil.build_mil`."""
    params: TrainParams
    per_epoch: int
    """Steps per epoch."""
    widths: tuple[int, int | None]
    """Instances per bag in training and, if there is any, in validation: a step that was traced
    for one number is not used with another, so that weights never depend on earlier trainings."""

    def draw_member(self) -> Member:
        """Create a member with new random weights."""
        shape = self.instance_shape
        encoder = OWN_ENCODERS[self.params.encoder](shape) if len(shape) == 3 else None
        head = build_head(self.classes, self.params.head, projected=encoder is None)
        return Member(head, encoder)

    def build_model(self, member: Member) -> keras.Model:
        """Build the model that trains a member."""
        return build_mil(
            self.instance_shape,
            member.head,
            member.encoder,
            negative_class=self.negative_class,
            instance_loss=self.params.instance_loss > 0,
        )


@lru_cache(maxsize=2)
def compile_model(step: Step) -> keras.Model:
    """Build and compile the model of a step, shared by every member, fold and seed.

    TensorFlow takes more than a second to trace a step, and never frees the graph.
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
        if "attention_weighted" in loss:
            loss["attention_weighted"] = negative_log_likelihood
            weights = {
                name: params.instance_loss if name == "attention_weighted" else 1.0 for name in loss
            }
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
    """Compute the loss (B,) of labels (B,) under log-probabilities (B, C)."""
    classes = log_probs.shape[-1]
    chosen = ops.one_hot(ops.reshape(labels, (-1,)), classes, dtype=log_probs.dtype)
    return -ops.sum(chosen * log_probs, axis=-1)


def build_or_reset_optimizer(model: keras.Model, bags: BagSequence) -> None:
    """Create the variables of loss, metrics and optimizer, or reset those of the optimizer.

    If the first training step created them, TensorFlow would trace it a second time.
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
    """Copy weights, statistics and dropout state to a model of the same architecture."""
    for new, old in zip(source.variables, target.variables, strict=True):
        old.assign(new)


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A warm-up from a tenth of the peak learning rate, then a cosine decay to a hundredth.

    Keras' own schedule has a conditional that is traced for every variable, which takes half a
    second longer.

    Parameters
    ----------
    rate : peak learning rate
    total : number of steps
    most : maximum number of warm-up steps; there are at most `total` / 20
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
