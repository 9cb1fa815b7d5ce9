"""Fitting: one model learns from bags, and keeps the epoch that was best on others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from milpath.errors import UsageError
from milpath.nn.data import Augment, BagSequence, TrainingBag
from milpath.nn.encoder import OURS, Shape
from milpath.nn.mil import Member, build_head, build_mil
from milpath.params import TrainParams

VAL_PER_BAG = 256
"""Patches of a bag that the stopping criterion sees each epoch."""


@dataclass(frozen=True)
class Task:
    """What a model is to learn."""

    instance_shape: tuple[int, ...]
    """(P, P, channels) to learn encoder and head together, (D,) to learn the head alone."""
    classes: int
    negative: int | None = None
    """Index of the class whose bags hold no instance of any other, if there is one."""
    augment: Augment | None = None
    """What is done to the instances of a training bag, see `milpath.nn.augment`."""


def train_member(
    train: Sequence[TrainingBag],
    val: Sequence[TrainingBag],
    task: Task,
    params: TrainParams,
    seed: int,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, losses: None,
) -> tuple[Member, dict[str, list[float]]]:
    """Train one model, stopping on `val` and keeping its best epoch.

    Parameters
    ----------
    train, val : disjoint sets of bags; without any in `val` all epochs are trained, the last kept
    task, params : what to learn, and how
    seed : of weights, order, drawing and augmentation; the same seed gives the same weights

    Returns
    -------
    The member with the weights of its best epoch, and its history by epoch.

    Raises
    ------
    StoredFileError : a bag is damaged
    UsageError : the loss is not finite from the first epoch on
    """
    keras.utils.set_random_seed(seed)
    _be_deterministic()
    shape, negative = task.instance_shape, task.negative
    from_pixels = len(shape) == 3
    encoder = OURS[params.encoder](cast(Shape, shape)) if from_pixels else None
    head = build_head(task.classes, params.head, projected=encoder is None)
    model = build_mil(shape, head, encoder, presence=negative is not None)
    per_bag = params.patches_per_bag if from_pixels else params.features_per_bag
    weight = class_weights([bag.label for bag in train], task.classes, params.class_weight)
    drawn = BagSequence(train, weight, params.bag_batch, per_bag, seed, task.augment, negative)
    fixed = None
    if val:
        most = max(VAL_PER_BAG, per_bag)
        fixed = BagSequence(val, weight, params.bag_batch, most, negative=negative)
    _compile(model, params, len(drawn))
    return Member(head, encoder), _fit(model, drawn, fixed, params, on_epoch)


def _compile(model: keras.Model, params: TrainParams, steps: int) -> None:
    loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics: Any = ["accuracy"]
    if isinstance(model.output, dict):
        loss, metrics = dict.fromkeys(model.output, loss), {"bag": metrics}
    model.compile(
        optimizer=keras.optimizers.AdamW(
            WarmupCosine(params.learning_rate, params.epochs * steps, 5 * steps),
            weight_decay=params.weight_decay,
            clipnorm=1.0,
        ),
        loss=loss,
        weighted_metrics=metrics,
    )


def _fit(
    model: keras.Model,
    drawn: BagSequence,
    fixed: BagSequence | None,
    params: TrainParams,
    on_epoch: Callable[[int, dict[str, float]], None],
) -> dict[str, list[float]]:
    """Train until the patience is at its end and put the best epoch back; the history."""

    def after_epoch(epoch: int, logs: dict[str, float] | None = None) -> None:
        losses = _of_bags(logs or {})
        on_epoch(epoch, losses)
        if not _all_finite(losses.values()):
            model.stop_training = True

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=after_epoch)]
    if fixed is not None:
        stop = keras.callbacks.EarlyStopping(
            monitor="val_bag_loss" if isinstance(model.output, dict) else "val_loss",
            mode="min",
            patience=params.patience,
            restore_best_weights=True,
        )
        callbacks.insert(0, stop)
    try:
        _make_variables(model, drawn[0])
        history = model.fit(
            drawn,
            validation_data=fixed,
            epochs=params.epochs,
            verbose=0,
            shuffle=False,
            callbacks=callbacks,
        ).history
    except Exception:
        error = drawn.error or (fixed.error if fixed else None)
        if error is None:
            raise
        raise error from None
    history = _of_bags(history)
    sound = sum(map(_all_finite, zip(*history.values(), strict=True)))  # only the last may not be
    if not sound:
        raise UsageError(
            "training ran away in its first epoch (its loss is not a number); "
            "give a lower --learning-rate"
        )
    return {name: [float(value) for value in values[:sound]] for name, values in history.items()}


def _make_variables(model: keras.Model, batch: tuple[Any, Any, Any]) -> None:
    """Have loss, metrics and optimizer make theirs now.

    Where the first training step makes them, TensorFlow traces it a second time, for two seconds.
    """
    inputs, labels, weights = batch
    answers = model(inputs)
    model.compute_loss(inputs, labels, answers, weights)
    model.compute_metrics(inputs, labels, answers, weights)
    model.reset_metrics()
    model.optimizer.build(model.trainable_variables)


def _of_bags(logs: dict[str, Any]) -> dict[str, Any]:
    """Keras' figures of the bags under their plain names, without those of the other answers."""
    if "bag_loss" not in logs:
        return dict(logs)
    return {name.replace("bag_", ""): logs[name] for name in logs if "bag_" in name}


def _all_finite(values: Iterable[float]) -> bool:
    return all(map(math.isfinite, values))


def seed_of(seed: int, place: int) -> int:
    """A seed for each member, far from those of its neighbours."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1)[0])


def class_weights(labels: Sequence[int], classes: int, how: str) -> NDArray[np.float32]:
    """Weight of each class in the loss: inverse to its share, mean 1 over the slides; or all 1."""
    if how == "none":
        return np.ones(classes, np.float32)
    counts = np.bincount(labels, minlength=classes)
    weights: NDArray[np.float32] = (len(labels) / (classes * np.maximum(counts, 1))).astype("f4")
    return weights


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


def _be_deterministic() -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
