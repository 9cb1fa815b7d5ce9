"""Fitting: train one model on bags and keep the epoch that is best on validation bags."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import UsageError
from milpath.nn.bags import TrainingBag
from milpath.nn.data import Augment, BagSequence
from milpath.nn.engine import keras
from milpath.nn.mil import Member
from milpath.nn.scaling import fit_scaling, scale_bags
from milpath.nn.step import Step, build_or_reset_optimizer, compile_model, copy_variables
from milpath.params import TrainParams

VAL_PER_BAG = 256
"""Patches per bag that validation uses each epoch."""


@dataclass(frozen=True)
class Task:
    """What a model is trained to do."""

    instance_shape: tuple[int, ...]
    """(P, P, channels) to train encoder and head together, (D,) to train the head alone."""
    classes: int
    negative: int | None = None
    """Index of the negative class, if there is one."""
    augment: Augment | None = None
    """Augmentation of the instances of a training bag, see `milpath.nn.augment`."""


def train_member(
    train: Sequence[TrainingBag],
    val: Sequence[TrainingBag],
    task: Task,
    params: TrainParams,
    seed: int,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, losses: None,
) -> tuple[Member, dict[str, list[float]]]:
    """Train one model, stopping on `val` and keeping its best epoch.

    On features it is trained twice, from even and from random attention, and the one with the lower
    loss on `val` is kept. From even attention a bag stays close to the mean of its instances, which
    is best where all of them say something and bags are few; rare instances that the mean hides
    are only found from random attention, which is also the start without `val`.

    Parameters
    ----------
    train, val : disjoint sets of bags; with an empty `val` all epochs are trained and the last kept
    task, params : what to train, and how
    seed : of weights, order, sampling and augmentation; the same seed gives the same weights
    on_epoch : called with the epoch, from 0 on, and its losses; the second training counts on from
        `params.epochs`

    Returns
    -------
    The member with the weights of its best epoch, and its history by epoch.

    Raises
    ------
    StoredFileError : a bag is damaged
    UsageError : the loss is not finite from the first epoch on
    """
    shape = task.instance_shape
    per_bag = params.patches_per_bag if len(shape) == 3 else params.features_per_bag
    weight = class_weights([bag.label for bag in train], task.classes, params.class_weight)
    scaling = fit_scaling(train) if len(shape) == 1 else None
    if scaling is not None:
        train, val = scale_bags(train, scaling), scale_bags(val, scaling)
    form: Any = {"negative": task.negative, "instance_loss": params.instance_loss > 0}
    sampled = BagSequence(train, weight, params.bag_batch, per_bag, seed, task.augment, **form)
    fixed = None
    if val:
        fixed = BagSequence(val, weight, params.bag_batch, max(VAL_PER_BAG, per_bag), **form)
    widths = sampled.width, fixed.width if fixed else None
    step = Step(shape, task.classes, task.negative is not None, params, len(sampled), widths)
    model = compile_model(step)
    found = []
    for number, even in enumerate((True, False) if scaling is not None and val else (False,)):
        sampled.epoch = 0
        keras.utils.set_random_seed(seed)
        member = step.draw_member()
        fresh = step.build_model(member)
        if even:
            member.head.start_even()
        copy_variables(fresh, model)
        tell = partial(_tell_later, on_epoch, number * params.epochs)
        history = _fit(model, sampled, fixed, params, tell)
        copy_variables(model, fresh)
        found.append((member, history))
    member, history = min(found, key=_lowest_loss)
    if scaling is not None:
        member.head.fold_scaling(scaling)
    return member, history


def _tell_later(
    on_epoch: Callable[[int, dict[str, float]], None],
    before: int,
    epoch: int,
    losses: dict[str, float],
) -> None:
    on_epoch(before + epoch, losses)


def _lowest_loss(found: tuple[Member, dict[str, list[float]]]) -> float:
    """Return the validation loss of the best epoch; 0 where there is no validation."""
    return min(found[1].get("val_loss", [0.0]))


def _fit(
    model: keras.Model,
    sampled: BagSequence,
    fixed: BagSequence | None,
    params: TrainParams,
    on_epoch: Callable[[int, dict[str, float]], None],
) -> dict[str, list[float]]:
    """Train until early stopping, restore the best epoch, and return the history."""

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
        build_or_reset_optimizer(model, sampled)
        history = model.fit(
            sampled,
            validation_data=fixed,
            epochs=params.epochs,
            verbose=0,
            shuffle=False,
            callbacks=callbacks,
        ).history
    except Exception:
        error = sampled.error or (fixed.error if fixed else None)
        if error is None:
            raise
        raise error from None
    history = _of_bags(history)
    sound = sum(
        map(_all_finite, zip(*history.values(), strict=True))
    )  # only the last epoch may be invalid
    if not sound:
        raise UsageError(
            "training diverged in its first epoch (the loss is not finite); "
            "give a lower --learning-rate"
        )
    return {name: [float(value) for value in values[:sound]] for name, values in history.items()}


def _of_bags(logs: dict[str, Any]) -> dict[str, Any]:
    """Select the losses of the bag output and give them their plain names."""
    if "bag_loss" not in logs:
        return dict(logs)
    return {name.replace("bag_", ""): logs[name] for name in logs if "bag_" in name}


def _all_finite(values: Iterable[float]) -> bool:
    return all(map(math.isfinite, values))


def seed_of(seed: int, place: int) -> int:
    """Derive a seed for each member, unrelated to those of its neighbours."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1)[0])


def class_weights(labels: Sequence[int], classes: int, how: str) -> NDArray[np.float32]:
    """Compute each class's weight in the loss: inverse to its share, mean 1 over slides; or 1."""
    if how == "none":
        return np.ones(classes, np.float32)
    counts = np.bincount(labels, minlength=classes)
    weights: NDArray[np.float32] = (len(labels) / (classes * np.maximum(counts, 1))).astype("f4")
    return weights
