"""`milpath train`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milpath.cli.console import JsonOption, load_network, progress, show_warnings
from milpath.cli.features import (
    EncoderNameOption,
    FeaturesOption,
    MppOption,
    PatchSizeOption,
    VerifiedOnlyOption,
    make_hints,
)
from milpath.cli.machines import IdsFromPathOption
from milpath.cli.params_file import ParamsOption, given_options, merge_params
from milpath.cli.runs import DryRunOption
from milpath.errors import UsageError
from milpath.params import HeadParams, TrainParams

if TYPE_CHECKING:
    from milpath.nn.evaluation import Evaluation
    from milpath.nn.train import TrainReport
    from milpath.nn.trainingset import TrainingPlan

_TRAIN = TrainParams()
_HEAD = HeadParams()
_NAMES = {name: name for name in TrainParams.model_fields}
_NAMES |= {"gated": "head.gated"}
del _NAMES["mode"]
"""Parameter of each option."""
_ONLY = {
    "encoder": "pixels",
    "patches_per_bag": "pixels",
    "stain_jitter": "pixels",
    "features_per_bag": "features",
    "encoder_name": "features",
    "patch_size": "features",
    "mpp": "features",
    "verified_only": "features",
}
_SOURCES = {"pixels": "--bags", "features": "--features"}
"""Options that only one kind of training uses."""


def train(
    context: typer.Context,
    cohort: Annotated[
        Path,
        typer.Argument(
            help="CSV with columns slide and label, optionally slide_id, case (patient), split, "
            "mpp. Paths in it are relative to its folder.",
            metavar="COHORT",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Output folder, for the model and its metrics.", show_default=False
        ),
    ],
    bags: Annotated[
        Path | None,
        typer.Option(
            help="Folder of bags made by milpath tile: train a CNN together with the attention "
            "head.",
            show_default="none",
        ),
    ] = None,
    features: FeaturesOption = None,
    encoder: Annotated[
        str,
        typer.Option(
            help="CNN to train (with --bags). small: for tissue. centred: for patches centred "
            "on one object, such as a nucleus.",
        ),
    ] = _TRAIN.encoder,
    negative: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="Name of the negative class (normal, benign): all patches of its slides are "
            "assumed negative. Set it whenever the cohort has such a class.",
            show_default="none",
        ),
    ] = _TRAIN.negative,
    instance_loss: Annotated[
        float,
        typer.Option(
            help="Weight of an extra, attention-weighted loss on single patches; 0 = off."
        ),
    ] = _TRAIN.instance_loss,
    folds: Annotated[
        int,
        typer.Option(
            help="Number of cross-validation folds; 0 = a single split into training, "
            "validation and test cases."
        ),
    ] = _TRAIN.folds,
    members: Annotated[
        int, typer.Option(help="Models per ensemble (per fold with --folds); 1 = no ensemble.")
    ] = _TRAIN.members,
    epochs: Annotated[int, typer.Option(help="Maximum number of epochs.")] = _TRAIN.epochs,
    patience: Annotated[
        int,
        typer.Option(help="Stop after this many epochs without improvement on the validation set."),
    ] = _TRAIN.patience,
    patches_per_bag: Annotated[
        int, typer.Option(help="Patches sampled per bag and epoch (with --bags).")
    ] = _TRAIN.patches_per_bag,
    features_per_bag: Annotated[
        int, typer.Option(help="Features sampled per bag and epoch (with --features).")
    ] = _TRAIN.features_per_bag,
    bag_batch: Annotated[int, typer.Option(help="Bags per training step.")] = _TRAIN.bag_batch,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = (
        _TRAIN.learning_rate
    ),
    class_weight: Annotated[
        str,
        typer.Option(help="Class weights in the loss: balanced, or none."),
    ] = _TRAIN.class_weight,
    stain_jitter: Annotated[
        float, typer.Option(help="Strength of stain augmentation; 0 = off.")
    ] = _TRAIN.stain_jitter,
    gated: Annotated[
        bool, typer.Option("--gated/--plain", help="Gated attention, or tanh attention alone.")
    ] = _HEAD.gated,
    test_fraction: Annotated[
        float, typer.Option(help="Fraction of cases held out for the test metrics.")
    ] = _TRAIN.test_fraction,
    val_fraction: Annotated[
        float, typer.Option(help="Fraction of the remaining cases used for early stopping.")
    ] = _TRAIN.val_fraction,
    seed: Annotated[
        int,
        typer.Option(help="Random seed."),
    ] = _TRAIN.seed,
    encoder_name: EncoderNameOption = None,
    patch_size: PatchSizeOption = None,
    mpp: MppOption = None,
    verified_only: VerifiedOnlyOption = False,
    params_file: ParamsOption = None,
    ids_from_path: IdsFromPathOption = False,
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing",
            help="Go on without the slides that have no label, no bag or no features, and list "
            "all of them.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing model in OUT.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model on labelled slides and test it on held-out cases.

    With --bags a CNN and the attention head are trained together on pixels; with --features the
    head alone, on features of a frozen encoder, for which no slides are needed.

    All slides of a case stay on one side of every split. OUT receives the model, metrics.json (test
    metrics with 95 % intervals), held_out.csv (predictions of held-out slides) and training curves.
    """
    if (bags is None) == (features is None):
        raise UsageError(
            "give either --bags (a folder made by milpath tile, to train from pixels) or "
            "--features (a folder of features of a frozen encoder)"
        )
    mode = "pixels" if features is None else "features"
    given = {"mode": mode, **given_options(context, _NAMES)}
    params = merge_params(TrainParams, "train", params_file, given)
    _check_unused_options(context, mode)
    epochs = params.epochs * params.starts
    if (out / "model.json").exists() and not overwrite:
        raise UsageError(
            f"{out}: already contains a model; give another --out, or --overwrite to replace it"
        )
    from milpath.cohort.cohort import read_cohort
    from milpath.nn.trainingset import plan_training
    from milpath.runs.runlog import open_runlog
    from milpath.store import require_permission, require_writable

    show_warnings()
    rows = read_cohort(cohort, ids_from_path=ids_from_path)
    rows.require_classes()
    rows.report_labels()
    rows.report_cases()
    plan = plan_training(
        rows,
        bags or features or Path(),
        params,
        make_hints(encoder_name, patch_size, mpp),
        skip_missing=skip_missing,
        verified_only=verified_only,
    )
    models = max(1, params.folds) * params.members
    require_permission(out)
    if dry_run and params.mode == "pixels":
        _show_plan(plan, models, as_json)
        return
    load_network()
    from milpath.nn.train import load_instances, run_training

    instances = load_instances(plan)
    if dry_run:
        _show_plan(plan, models, as_json)
        return
    require_writable(out)
    done = 0
    with (
        open_runlog(out, "train", params.model_dump(), len(plan.data.bags)),
        progress("train", models * epochs) as advance,
    ):

        def tell(member: int, epoch: int, losses: dict[str, float]) -> None:
            nonlocal done
            word = f"model {member + 1} of {models}, validation loss {losses['val_loss']:.3f}"
            at = member * epochs + epoch + 1  # the one before may have stopped early
            advance(word, at - done)
            done = at

        report = run_training(plan, instances, out, tell)
    _show(report, out, as_json)


def _check_unused_options(context: typer.Context, source: str) -> None:
    """Raise `UsageError` for an option that this kind of training does not use."""
    for name, used_by in _ONLY.items():
        given = context.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE" and source != used_by:
            option = "--" + name.replace("_", "-")
            raise UsageError(
                f"{option} is for training with {_SOURCES[used_by]}, this is with "
                f"{_SOURCES[source]}"
            )


def _show_plan(plan: TrainingPlan, models: int, as_json: bool) -> None:
    """Say what would be trained on what."""
    sides = {side: len(getattr(plan.splits[0], side)) for side in ("train", "val", "test")}
    if as_json:
        print(json.dumps({"models": models, "slides": len(plan.data.bags), "first_fold": sides}))
        return
    for slide_id in plan.data.excluded:
        print(f"{slide_id}: no tissue, would be left out of training", file=sys.stderr)
    print(
        f"would train {_count(models, 'model')} (classes {', '.join(plan.cohort.class_names)}) on "
        f"{len(plan.data.bags)} slides{', in the first fold' if len(plan.splits) > 1 else ''}: "
        f"{sides['train']} train, {sides['val']} validation, {sides['test']} test"
    )


def _show(report: TrainReport, out: Path, as_json: bool) -> None:
    from milpath.nn.baseline import BASELINE

    if as_json:
        found = report.evaluation.as_json()
        if report.baseline is not None:
            found["baseline"] = report.baseline.as_json()
        print(json.dumps({"model": str(out), "held_out": found["held_out_slides"], **found}))
        return
    for slide_id in report.excluded:
        print(f"{slide_id}: no tissue, left out of training", file=sys.stderr)
    members, names = _count(report.spec.members, "member"), ", ".join(report.spec.class_names)
    print(f"{out}: a model with {members} (classes {names})")
    evaluation, baseline = report.evaluation, report.baseline
    print(f"on {_count(len(evaluation.slides), 'held-out slide')}, with 95 % intervals:")
    for name in evaluation.pooled:
        print(f"  {name.replace('_', ' ')}: {_describe(evaluation, name)}")
        if baseline is not None:
            print(f"    baseline: {_describe(baseline, name)}")
    if baseline is not None:
        print(f"the baseline is {BASELINE}")


def _describe(evaluation: Evaluation, name: str) -> str:
    """A metric in words: over the folds first, since their models are calibrated apart."""
    figure = evaluation.pooled[name]
    over = None if evaluation.folds is None else evaluation.folds[name]
    if figure.value is None:
        return "not defined, a class is missing"
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f" ({figure.low:.3f} to {figure.high:.3f})"
    elif figure.note:
        interval = f" ({figure.note})"
    if over is None:
        return f"{figure.value:.3f}{interval}"
    known = sum(value is not None for value in over.folds)
    mean = "not defined in any fold" if over.mean is None else f"{over.mean:.3f}"
    if over.sd is not None:
        mean += f" ± {over.sd:.3f}"
    return f"{mean} (mean and SD of {_count(known, 'fold')}); pooled {figure.value:.3f}{interval}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
