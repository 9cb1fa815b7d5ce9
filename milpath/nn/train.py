"""Training: from a cohort and its bags to a model and its metrics on held-out cases."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.cohort.cohort import SPLITS, Cohort
from milpath.errors import StoredFileError, UsageError
from milpath.figures.curves import write_curves
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.layout import curves_path, encoder_folder, metrics_path
from milpath.formats.model_spec import BundleSpec, EncoderSpec
from milpath.formats.space import FeatureSpace, fit_space
from milpath.nn.augment import augment_tissue
from milpath.nn.bags import LabelledBag, TrainingSet
from milpath.nn.baseline import BASELINE, Baseline, pool_mean
from milpath.nn.bundle import assemble_bundle, load_encoder, save_bundle
from milpath.nn.data import Augment
from milpath.nn.encoders import OWN_ENCODERS
from milpath.nn.encoders.encoder import BATCH, NetworkEncoder
from milpath.nn.engine import keras
from milpath.nn.evaluation import Evaluation, HeldOut, evaluate_held_out, write_held_out
from milpath.nn.fit import Task, seed_of, train_member
from milpath.nn.mil import Member, build_evidence
from milpath.nn.scoring import FEATURES_BATCH, score_bag, stack_bias
from milpath.nn.trainingset import TrainingPlan, plan_training
from milpath.nn.unfinished import Unfinished
from milpath.params import TrainParams
from milpath.store import publish_json, require_writable

log = logging.getLogger(__name__)

_MAX_SAMPLE = 20_000  # patches that the feature space is fitted to: 2,048 features take 330 MB
_MIN_SAMPLE = 4  # of a slide

OnEpoch = Callable[[int, int, dict[str, float]], None]
"""Called with (member, epoch, losses) after every epoch, both counted from 0."""


@dataclass(frozen=True)
class TrainReport:
    """The result of training.

    Attributes
    ----------
    spec : record of the model
    evaluation : on slides held out of training and early stopping
    baseline : of `milpath.nn.baseline` on the same slides; None for a model trained from pixels
    excluded : ids of slides without tissue
    """

    spec: BundleSpec
    evaluation: Evaluation
    baseline: Evaluation | None
    excluded: tuple[str, ...]


@dataclass(frozen=True)
class Instances:
    """What the instances of a bag are to a model.

    Attributes
    ----------
    shape : (P, P, 3) of a patch, or (D,) of features
    encoder : the frozen encoder of the features, if the model is to hold it
    encoder_spec : record of the encoder, frozen or to be trained
    """

    shape: tuple[int, ...]
    encoder: NetworkEncoder | None
    encoder_spec: EncoderSpec


def train_cohort(
    cohort: Cohort,
    folder: Path,
    out: Path,
    params: TrainParams,
    on_epoch: OnEpoch = lambda member, epoch, losses: None,
    hints: FeatureHints | None = None,
) -> TrainReport:
    """Train an ensemble on a cohort, test it on held-out cases, and save it.

    Write the model, `metrics.json`, `held_out.csv` and `training.png` into `out`.

    Parameters
    ----------
    cohort : with labels
    folder : holds a bag, or features, for each of its slides, as `params.mode` says
    out : folder of the bundle
    params : how to train
    on_epoch : called after each epoch
    hints : what the files of features do not say

    Raises
    ------
    UsageError : the cohort or its files do not allow it
    OutputError : `out` cannot be written
    """
    plan = plan_training(cohort, folder, params, hints)
    return run_training(plan, load_instances(plan), out, on_epoch)


def load_instances(plan: TrainingPlan) -> Instances:
    """Load the frozen encoder, if features are to be trained on and it lies beside them.

    Raises
    ------
    UsageError : what lies beside them did not make them
    """
    spec = plan.data.encoder
    if spec is not None:
        return Instances((spec.dim,), load_frozen(plan.folder, spec), spec)
    side, name = plan.data.patch_px, plan.params.encoder
    shape = (side, side, 3)
    dim = OWN_ENCODERS[name](shape).output_shape[-1]
    spec = EncoderSpec(name=name, patch_px=side, dim=dim, weights="trained")
    return Instances(shape, None, spec)


def load_frozen(folder: Path, spec: EncoderSpec) -> NetworkEncoder | None:
    """Load the encoder that `milpath embed` stored beside features.

    Returns
    -------
    None if it is not there, or only referred to

    Raises
    ------
    UsageError : it is damaged, or another one than the one that made them
    """
    if spec.kind != "keras":
        return None
    place = encoder_folder(folder)
    if spec.tool != "milpath" or not place.exists():
        log.warning(
            "the encoder %s is not beside the features, so that the model classifies features of "
            "it, and no slides",
            spec.name,
        )
        return None
    try:
        encoder = load_encoder(place)
    except StoredFileError as error:
        raise UsageError(f"the encoder of these features cannot be used: {error}") from None
    if encoder.spec.digest != spec.digest or not isinstance(encoder, NetworkEncoder):
        raise UsageError(
            f"the features in {folder} were made by a different encoder than {place}; run milpath "
            "embed again"
        )
    return encoder


def run_training(
    plan: TrainingPlan, instances: Instances, out: Path, on_epoch: OnEpoch
) -> TrainReport:
    """Train, test and save; see `train_cohort`."""
    start = time.perf_counter()
    require_writable(out)
    cohort, params, data, shape = plan.cohort, plan.params, plan.data, instances.shape
    task = Task(shape, len(cohort.class_names), plan.negative, _augment(params))
    members: list[Member] = []
    histories: list[dict[str, list[float]]] = []
    held_out: list[HeldOut] = []
    unfinished = Unfinished(out, plan, instances.encoder_spec)
    for fold, split in enumerate(plan.splits):
        of_fold = []
        for number in range(params.members):
            place = fold * params.members + number

            def tell(epoch: int, losses: dict[str, float], place: int = place) -> None:
                on_epoch(place, epoch, losses)

            found = unfinished.load(place)
            if found is None:
                found = train_member(
                    _pick(data, split.train),
                    _pick(data, split.val),
                    task,
                    params,
                    seed_of(params.seed, place),
                    tell,
                )
                unfinished.keep(place, *found)
            of_fold.append(found[0])
            histories.append(found[1])
        test = _pick(data, split.test)
        held_out += _score_held_out(of_fold, test, shape, fold)
        members.extend(of_fold)
    evaluation = evaluate_held_out(held_out, len(plan.splits))
    for warning in evaluation.warnings():
        log.warning("%s", warning)
    baseline = _evaluate_baseline(plan)
    bundle = assemble_bundle(
        {
            "class_names": cohort.class_names,
            "mode": params.mode,
            "encoder": instances.encoder_spec,
            "has_encoder": params.mode == "pixels" or instances.encoder is not None,
            "head": params.head,
            "tile": data.tile,
            "background": data.background,
            "seen": _mark_seen(plan),
            "training": {
                "params": params.model_dump(),
                "slides": len(data.bags),
                "cases": len({bag.case for bag in data.bags}),
                "keras": keras.__version__,
                "backend": keras.backend.backend(),
            },
        },
        members,
        instances.encoder,
        _fit_space(data.bags, members[0].encoder),
    )
    seconds = time.perf_counter() - start
    _write_results(out, bundle.spec, plan, (evaluation, baseline), histories, seconds)
    save_bundle(out, bundle)  # last: a folder that holds a model holds everything else too
    unfinished.discard()
    return TrainReport(bundle.spec, evaluation, baseline, data.excluded)


def _fit_space(bags: Sequence[LabelledBag], encoder: keras.Model | None) -> FeatureSpace:
    """Fit a feature space to up to `BATCH` patches of each bag, fewer of very many bags."""
    count = min(BATCH, max(_MIN_SAMPLE, _MAX_SAMPLE // len(bags)))
    return fit_space([_sample_features(bag, encoder, min(count, bag.size)) for bag in bags])


def _sample_features(
    bag: LabelledBag, encoder: keras.Model | None, count: int
) -> NDArray[np.float32]:
    """Compute the features (n, D) of patches of a bag, evenly spaced."""
    instances = bag.read(np.unique(np.linspace(0, bag.size - 1, count).round().astype(np.int64)))
    if encoder is None:
        return np.asarray(instances, np.float32)
    full = np.resize(instances, (BATCH, *instances.shape[1:]))  # one shape: traced once
    return np.asarray(encoder.predict_on_batch(full), np.float32)[: len(instances)]


def _mark_seen(plan: TrainingPlan) -> list[str]:
    """Mark the slides that some member was trained on, or was stopped early by."""
    rows = {row for split in plan.splits for row in (*split.train, *split.val)}
    return sorted({plan.data.bags[row].mark for row in rows})


def _augment(params: TrainParams) -> Augment | None:
    if params.mode == "features":
        return None
    return partial(augment_tissue, stain_jitter=params.stain_jitter)


def _pick(data: TrainingSet, rows: Sequence[int]) -> list[LabelledBag]:
    return [data.bags[row] for row in rows]


def _score_held_out(
    members: Sequence[Member],
    bags: Sequence[LabelledBag],
    shape: tuple[int, ...],
    fold: int,
) -> list[HeldOut]:
    """Apply an ensemble to all patches of some bags."""
    model, bias = build_evidence(shape, members), stack_bias(members)
    scored = []
    for record in bags:
        batches = record.source.iterate(BATCH if len(shape) > 1 else FEATURES_BATCH)
        scored.append(HeldOut(record, fold, score_bag(model, bias, batches).probs))
    return scored


def _evaluate_baseline(plan: TrainingPlan) -> Evaluation | None:
    """Fit the baseline to what each fold's models learned from, test it on what they held out."""
    if plan.params.mode != "features":
        return None
    bags = plan.data.bags
    means = np.stack([pool_mean(bag.source.iterate(FEATURES_BATCH)) for bag in bags])
    labels = np.array([bag.label for bag in bags])
    classes, balanced = len(plan.cohort.class_names), plan.params.class_weight == "balanced"
    held_out = []
    for fold, split in enumerate(plan.splits):
        learn, test = [*split.train, *split.val], list(split.test)
        cases = [bags[row].case for row in learn]
        fitted = Baseline(means[learn], labels[learn], cases, classes, balanced=balanced)
        for row, probs in zip(test, fitted.predict(means[test]), strict=True):
            held_out.append(HeldOut(bags[row], fold, probs))
    return evaluate_held_out(held_out, len(plan.splits))


def _write_results(
    out: Path,
    spec: BundleSpec,
    plan: TrainingPlan,
    evaluations: tuple[Evaluation, Evaluation | None],
    histories: Sequence[dict[str, list[float]]],
    seconds: float,
) -> None:
    evaluation, baseline = evaluations
    ids = [bag.slide_id for bag in plan.data.bags]
    folds = [
        {side: [ids[row] for row in getattr(split, side)] for side in SPLITS}
        for split in plan.splits
    ]
    publish_json(
        metrics_path(out),
        {
            "model": spec.fingerprint,
            **evaluation.as_json(),
            "baseline": None if baseline is None else {"is": BASELINE, **baseline.as_json()},
            "folds": folds,
            "no_tissue": list(plan.data.excluded),
            "skipped": {f"no_{lacks}": list(ids) for lacks, ids in plan.data.skipped.items()},
            "seconds": round(seconds, 1),
        },
    )
    publish_json(out / "history.json", list(histories))
    write_held_out(out, evaluation.slides, spec.class_names)
    write_curves(curves_path(out), histories, f"training on {len(ids)} slides")
