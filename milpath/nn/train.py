"""Training: from a cohort and its bags to a model and its metrics on held-out cases."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from milpath.cohort.cohort import SPLITS, Cohort
from milpath.cohort.splits import Split, split_cohort
from milpath.errors import UsageError
from milpath.figures.curves import write_curves
from milpath.formats.bag import Bag
from milpath.formats.layout import curves_path, metrics_path
from milpath.formats.model_spec import BundleSpec, EncoderSpec
from milpath.nn.augment import augment_tissue
from milpath.nn.bundle import assemble_bundle, save_bundle
from milpath.nn.data import Augment, LabelledBag
from milpath.nn.encoders import OWN_ENCODERS
from milpath.nn.engine import keras
from milpath.nn.evaluation import Evaluation, HeldOut, evaluate_held_out, write_held_out
from milpath.nn.fit import Task, seed_of, train_member
from milpath.nn.mil import Member, build_evidence
from milpath.nn.predict import BATCH, score_bag, stack_bias
from milpath.nn.trainingset import TrainingSet, frozen_encoder, gather_bags
from milpath.params import TrainParams
from milpath.store import publish_json, require_writable

log = logging.getLogger(__name__)

OnEpoch = Callable[[int, int, dict[str, float]], None]
"""Called with (member, epoch, losses) after every epoch, both counted from 0."""


@dataclass(frozen=True)
class TrainReport:
    """The result of training.

    Attributes
    ----------
    spec : record of the model
    evaluation : on slides held out of training and early stopping
    excluded : ids of slides without tissue
    """

    spec: BundleSpec
    evaluation: Evaluation
    excluded: tuple[str, ...]


@dataclass(frozen=True)
class TrainingPlan:
    """What will be trained on which bags; everything has been checked."""

    cohort: Cohort
    params: TrainParams
    data: TrainingSet
    splits: Sequence[Split]
    encoder: keras.Model | None
    """The frozen encoder, if there is one."""
    encoder_spec: EncoderSpec
    shape: tuple[int, ...]
    """Shape of an instance."""


def plan_training(cohort: Cohort, bags: Path, params: TrainParams) -> TrainingPlan:
    """Check a cohort and its bags, and split them; see `train_cohort`. Writes nothing.

    Raises
    ------
    UsageError : the cohort or its bags do not allow it
    StoredFileError : a bag is damaged
    """
    _index_negative(cohort, params)
    data = gather_bags(cohort, bags, params.mode)
    splits = split_cohort(data.cohort, params)
    return TrainingPlan(cohort, params, data, splits, *_instances(data, bags, params))


def train_cohort(
    cohort: Cohort,
    bags: Path,
    out: Path,
    params: TrainParams,
    on_epoch: OnEpoch = lambda member, epoch, losses: None,
) -> TrainReport:
    """Train an ensemble on the bags of a cohort, test it on held-out cases, and save it.

    Write the model, `metrics.json`, `held_out.csv` and `training.png` into `out`.

    Parameters
    ----------
    cohort : with labels
    bags : folder that holds a bag for each of its slides
    out : folder of the bundle
    params : how to train
    on_epoch : called after each epoch

    Raises
    ------
    UsageError : the cohort or its bags do not allow it
    OutputError : `out` cannot be written
    """
    return run_training(plan_training(cohort, bags, params), out, on_epoch)


def run_training(plan: TrainingPlan, out: Path, on_epoch: OnEpoch) -> TrainReport:
    """Train, test and save; see `train_cohort`."""
    start = time.perf_counter()
    require_writable(out)
    cohort, params, data, shape = plan.cohort, plan.params, plan.data, plan.shape
    task = Task(shape, len(cohort.class_names), _index_negative(cohort, params), _augment(params))
    members: list[Member] = []
    histories: list[dict[str, list[float]]] = []
    held_out: list[HeldOut] = []
    for fold, split in enumerate(plan.splits):
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
        test = _pick(data, split.test)
        held_out += _score_held_out(of_fold, test, shape, params.mode, fold)
        members.extend(of_fold)
    evaluation = evaluate_held_out(held_out, len(plan.splits))
    for warning in evaluation.warnings():
        log.warning("%s", warning)
    bundle = assemble_bundle(
        {
            "class_names": cohort.class_names,
            "mode": params.mode,
            "encoder": plan.encoder_spec,
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
        plan.encoder,
    )
    seconds = time.perf_counter() - start
    _write_results(out, bundle.spec, plan, evaluation, histories, seconds)
    save_bundle(out, bundle)  # last: a folder that holds a model holds everything else too
    return TrainReport(bundle.spec, evaluation, data.excluded)


def _instances(
    data: TrainingSet, bags: Path, params: TrainParams
) -> tuple[keras.Model | None, EncoderSpec, tuple[int, ...]]:
    """Find the frozen encoder, if there is one, its record, and the shape of an instance."""
    if params.mode == "features":
        encoder, spec = frozen_encoder(bags, data.encoder)
        return encoder, spec, (spec.dim,)
    shape = (data.patch_px, data.patch_px, 3)
    dim = OWN_ENCODERS[params.encoder](shape).output_shape[-1]
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


def _score_held_out(
    members: Sequence[Member],
    bags: Sequence[LabelledBag],
    shape: tuple[int, ...],
    mode: str,
    fold: int,
) -> list[HeldOut]:
    """Apply an ensemble to all patches of some bags."""
    model, bias = build_evidence(shape, members), stack_bias(members)
    scored = []
    for record in bags:
        with Bag(record.path) as bag:
            batches = bag.iter_patches(BATCH) if mode == "pixels" else bag.iter_features(BATCH)
            scored.append(HeldOut(record, fold, score_bag(model, bias, batches).probs))
    return scored


def _write_results(
    out: Path,
    spec: BundleSpec,
    plan: TrainingPlan,
    evaluation: Evaluation,
    histories: Sequence[dict[str, list[float]]],
    seconds: float,
) -> None:
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
            "folds": folds,
            "no_tissue": list(plan.data.excluded),
            "seconds": round(seconds, 1),
        },
    )
    publish_json(out / "history.json", list(histories))
    write_held_out(out, evaluation.slides, spec.class_names)
    write_curves(curves_path(out), histories, f"training on {len(ids)} slides")
