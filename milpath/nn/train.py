"""Training: from a cohort and its bags to a model bundle and honest figures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from milpath.bag import Bag
from milpath.cohort import Cohort
from milpath.errors import UsageError
from milpath.metrics import Figure, evaluate
from milpath.model_spec import BundleSpec, EncoderSpec
from milpath.nn.augment import augment_tissue
from milpath.nn.bundle import save_bundle
from milpath.nn.data import Augment, BagSequence, LabelledBag, TrainingBag
from milpath.nn.encoder import OURS, Shape
from milpath.nn.mil import Member, build_evidence, build_head, build_mil
from milpath.nn.predict import BATCH, collect_evidence, pool_evidence, stack_bias
from milpath.nn.trainingset import TrainingSet, frozen_encoder, gather_bags
from milpath.params import TrainParams
from milpath.report import write_curves
from milpath.splits import Split, split_cohort
from milpath.store import publish_json, require_writable
from milpath.table import write_csv

VAL_PER_BAG = 256
"""Patches of a bag that the stopping criterion sees each epoch."""

OnEpoch = Callable[[int, int, dict[str, float]], None]
"""Told of (member, epoch, losses) after every epoch, both counted from 0."""


@dataclass(frozen=True)
class TrainReport:
    """What training gave."""

    spec: BundleSpec
    figures: dict[str, Figure]
    """On slides held out of training and stopping."""
    held_out: int
    excluded: tuple[str, ...]


# -- one member ----------------------------------------------------------------------------------


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
        # a mean over the answers that are known, not over all of them
        known = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        )
        loss, metrics = {"bag": loss, "instance": known, "joint": known}, {"bag": metrics}
    model.compile(
        optimizer=keras.optimizers.AdamW(
            _schedule(params, steps), weight_decay=params.weight_decay, clipnorm=1.0
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


def _schedule(params: TrainParams, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A short warm-up, then a cosine down to a hundredth."""
    total = params.epochs * steps
    warm = min(total // 20, 5 * steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=params.learning_rate / 10,
        decay_steps=max(1, total - warm),
        alpha=0.01,
        warmup_target=params.learning_rate,
        warmup_steps=max(1, warm),
    )


def _be_deterministic() -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


# -- the whole -----------------------------------------------------------------------------------


def train_cohort(
    cohort: Cohort,
    bags: Path,
    out: Path,
    params: TrainParams,
    on_epoch: OnEpoch = lambda member, epoch, losses: None,
) -> TrainReport:
    """Train an ensemble on the bags of a cohort, test it on cases it has not seen, and save it.

    Writes into `out` the bundle, `metrics.json`, `held_out.csv` and `training.png`.

    Parameters
    ----------
    cohort : with labels
    bags : folder that holds a bag for each of its slides
    out : folder of the bundle
    params : how
    on_epoch : called after each epoch

    Raises
    ------
    UsageError : the cohort or its bags do not allow it
    """
    start = time.perf_counter()
    data = gather_bags(cohort, bags, params.mode)
    splits = split_cohort(data.cohort, params)
    encoder, encoder_spec, shape = _instances(data, bags, params)
    require_writable(out)
    task = Task(shape, len(cohort.class_names), _index_negative(cohort, params), _augment(params))
    members: list[Member] = []
    histories: list[dict[str, list[float]]] = []
    held_out: list[tuple[LabelledBag, NDArray[np.float64]]] = []
    for fold, split in enumerate(splits):
        of_fold = []
        for number in range(params.members):
            place = fold * params.members + number

            def tell(epoch: int, losses: dict[str, float], place: int = place) -> None:
                on_epoch(place, epoch, losses)

            member, history = train_member(
                _pick(data, split.train),
                _pick(data, split.val),
                task,
                params,
                seed_of(params.seed, place),
                tell,
            )
            of_fold.append(member)
            histories.append(history)
        held_out.extend(_judge(of_fold, _pick(data, split.test), shape, params.mode))
        members.extend(of_fold)
    figures = _figures(held_out)
    spec = save_bundle(
        out,
        {
            "class_names": cohort.class_names,
            "mode": params.mode,
            "encoder": encoder_spec,
            "head": params.head,
            "tile": data.tile,
            "background": data.background,
            "training": {
                "params": params.model_dump(),
                "slides": len(data.bags),
                "cases": len({bag.case for bag in data.bags}),
                "keras": keras.__version__,
                "backend": keras.backend.backend(),
            },
        },
        members,
        encoder,
    )
    seconds = time.perf_counter() - start
    _write_results(out, data, splits, held_out, figures, histories, spec, seconds)
    return TrainReport(spec, figures, len(held_out), data.excluded)


def _instances(
    data: TrainingSet, bags: Path, params: TrainParams
) -> tuple[keras.Model | None, EncoderSpec, tuple[int, ...]]:
    """The frozen encoder if there is one, its record, and the shape of an instance."""
    if params.mode == "features":
        encoder, spec = frozen_encoder(bags, data.encoder)
        return encoder, spec, (spec.dim,)
    shape = (data.patch_px, data.patch_px, 3)
    dim = OURS[params.encoder](shape).output_shape[-1]
    spec = EncoderSpec(name=params.encoder, patch_px=data.patch_px, dim=dim, weights="trained")
    return None, spec, shape


def _augment(params: TrainParams) -> Augment | None:
    if params.mode == "features":
        return None
    return partial(augment_tissue, stain_jitter=params.stain_jitter)


def _index_negative(cohort: Cohort, params: TrainParams) -> int | None:
    if params.negative is None:
        return None
    if params.negative not in cohort.class_names:
        raise UsageError(
            f"--negative {params.negative}: {cohort.name} has no such class; "
            f"it has {', '.join(cohort.class_names)}"
        )
    return cohort.class_names.index(params.negative)


def _pick(data: TrainingSet, rows: Sequence[int]) -> list[LabelledBag]:
    return [data.bags[row] for row in rows]


def _judge(
    members: Sequence[Member],
    bags: Sequence[LabelledBag],
    shape: tuple[int, ...],
    mode: str,
) -> list[tuple[LabelledBag, NDArray[np.float64]]]:
    """The ensemble's class probabilities for whole bags, all their patches."""
    model = build_evidence(shape, members)
    bias = stack_bias(members)
    judged = []
    for record in bags:
        with Bag(record.path) as bag:
            batches = bag.iter_patches(BATCH) if mode == "pixels" else bag.iter_features(BATCH)
            _, contributions = pool_evidence(*collect_evidence(model, batches))
        logits = (contributions.sum(axis=1) + bias).mean(axis=0)
        judged.append((record, softmax(logits)))
    return judged


def _figures(held_out: Sequence[tuple[LabelledBag, NDArray[np.float64]]]) -> dict[str, Figure]:
    return evaluate(
        np.array([bag.label for bag, _ in held_out]),
        np.stack([probs for _, probs in held_out]),
        [bag.case for bag, _ in held_out],
    )


def _write_results(
    out: Path,
    data: TrainingSet,
    splits: Sequence[Split],
    held_out: Sequence[tuple[LabelledBag, NDArray[np.float64]]],
    figures: dict[str, Figure],
    histories: Sequence[dict[str, list[float]]],
    spec: BundleSpec,
    seconds: float,
) -> None:
    names = spec.class_names
    ids = [bag.slide_id for bag in data.bags]
    publish_json(
        out / "metrics.json",
        {
            "held_out_slides": len(held_out),
            "held_out_cases": len({bag.case for bag, _ in held_out}),
            "interval": "95 % percentile bootstrap over cases",
            "metrics": {name: asdict(figure) for name, figure in figures.items()},
            "folds": [
                {
                    side: [ids[row] for row in getattr(split, side)]
                    for side in ("train", "val", "test")
                }
                for split in splits
            ],
            "no_tissue": list(data.excluded),
            "seconds": round(seconds, 1),
        },
    )
    publish_json(out / "history.json", list(histories))
    write_csv(
        out / "held_out.csv",
        ["slide", "case", "label", "predicted", *(f"prob_{name}" for name in names)],
        [
            [
                bag.slide_id,
                bag.case,
                names[bag.label],
                names[int(probs.argmax())],
                *(f"{value:.6f}" for value in probs),
            ]
            for bag, probs in held_out
        ],
    )
    write_curves(out / "training.png", histories, f"{data.cohort.name}: training")
