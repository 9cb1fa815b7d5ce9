"""Training: from a cohort and its bags to a model bundle and honest figures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from milpath.bag import Bag
from milpath.cohort import Cohort
from milpath.errors import UsageError
from milpath.metrics import Figure, evaluate
from milpath.model_spec import BundleSpec, EncoderSpec
from milpath.nn.bundle import save_bundle
from milpath.nn.data import BagSequence, LabelledBag
from milpath.nn.encoder import SMALL, build_encoder
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


def train_member(
    train: Sequence[LabelledBag],
    val: Sequence[LabelledBag],
    instance_shape: tuple[int, ...],
    classes: int,
    params: TrainParams,
    seed: int,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, losses: None,
) -> tuple[Member, dict[str, list[float]]]:
    """Train one model, stopping on `val` and keeping its best epoch.

    Parameters
    ----------
    train, val : disjoint sets of bags
    instance_shape : (P, P, 3) to learn encoder and head together, (D,) to learn the head alone
    classes : C
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
    from_pixels = len(instance_shape) == 3
    encoder = build_encoder(SMALL, instance_shape[0]) if from_pixels else None
    head = build_head(classes, params.head, projected=encoder is None)
    model = build_mil(instance_shape, head, encoder)
    content: Literal["pixels", "features"] = "pixels" if from_pixels else "features"
    per_bag = params.patches_per_bag if from_pixels else params.features_per_bag
    weight = class_weights([bag.label for bag in train], classes, params.class_weight)
    drawn = BagSequence(
        train, content, weight, params.bag_batch, per_bag, seed, params.stain_jitter
    )
    fixed = BagSequence(val, content, weight, params.bag_batch, max(VAL_PER_BAG, per_bag))
    model.compile(
        optimizer=keras.optimizers.AdamW(
            _schedule(params, len(drawn)), weight_decay=params.weight_decay, clipnorm=1.0
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    return Member(head, encoder), _fit(model, drawn, fixed, params, on_epoch)


def _fit(
    model: keras.Model,
    drawn: BagSequence,
    fixed: BagSequence,
    params: TrainParams,
    on_epoch: Callable[[int, dict[str, float]], None],
) -> dict[str, list[float]]:
    """Train until the patience is at its end and put the best epoch back; the history."""

    def after_epoch(epoch: int, logs: dict[str, float] | None = None) -> None:
        losses = dict(logs or {})
        on_epoch(epoch, losses)
        if not _all_finite(losses.values()):
            model.stop_training = True

    stop = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=params.patience, restore_best_weights=True
    )
    try:
        history = model.fit(
            drawn,
            validation_data=fixed,
            epochs=params.epochs,
            verbose=0,
            shuffle=False,
            callbacks=[stop, keras.callbacks.LambdaCallback(on_epoch_end=after_epoch)],
        ).history
    except Exception:
        if (error := drawn.error or fixed.error) is None:
            raise
        raise error from None
    sound = sum(map(_all_finite, zip(*history.values(), strict=True)))  # only the last may not be
    if not sound:
        raise UsageError(
            "training ran away in its first epoch (its loss is not a number); "
            "give a lower --learning-rate"
        )
    return {name: [float(value) for value in values[:sound]] for name, values in history.items()}


def _all_finite(values: Iterable[float]) -> bool:
    return all(map(math.isfinite, values))


def _seed_of(seed: int, place: int) -> int:
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
    data = gather_bags(cohort, bags)
    splits = split_cohort(data.cohort, params)
    encoder, encoder_spec, shape = _instances(data, bags, params)
    require_writable(out)
    classes = len(cohort.class_names)
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
                shape,
                classes,
                params,
                _seed_of(params.seed, place),
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
    side = data.patch_px
    small = build_encoder(SMALL, side)
    spec = EncoderSpec(name=SMALL, patch_px=side, dim=small.output_shape[-1], weights="trained")
    return None, spec, (side, side, 3)


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
