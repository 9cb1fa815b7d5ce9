"""`milpath train`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milpath.cli.console import JsonOption, checked, load_network, progress, show_warnings
from milpath.cli.machines import IdsFromPathOption
from milpath.cli.runs import DryRunOption
from milpath.errors import UsageError
from milpath.params import HeadParams, TrainParams

if TYPE_CHECKING:
    from milpath.nn.train import TrainingPlan, TrainReport

_TRAIN = TrainParams()
_HEAD = HeadParams()
_ONLY = {
    "encoder": "pixels",
    "patches_per_bag": "pixels",
    "stain_jitter": "pixels",
    "features_per_bag": "features",
}
"""Options that only one kind of training heeds."""


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
    bags: Annotated[
        Path, typer.Option(help="Folder of its bags, made by milpath tile.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the model.", show_default=False)
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="pixels: a CNN and the attention head learn together. "
            "features: the head alone learns, on embeddings made by milpath embed.",
        ),
    ] = _TRAIN.mode,
    encoder: Annotated[
        str,
        typer.Option(
            help="The CNN that learns from pixels. small: for tissue. "
            "centred: for patches that show one thing in their middle, such as a nucleus.",
        ),
    ] = _TRAIN.encoder,
    negative: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="The class whose slides show nothing of any other (normal, benign): all their "
            "patches are then known to be of it. Say so wherever it is true.",
            show_default="none",
        ),
    ] = _TRAIN.negative,
    instance_loss: Annotated[
        float,
        typer.Option(
            help="Weight of a second loss: each patch is to show its slide's class by itself, in "
            "the measure that attention rests on it. 0 for none."
        ),
    ] = _TRAIN.instance_loss,
    folds: Annotated[
        int,
        typer.Option(help="Cross-validation folds; 0 for one train, validation and test split."),
    ] = _TRAIN.folds,
    members: Annotated[int, typer.Option(help="Models in the ensemble (a fold).")] = _TRAIN.members,
    epochs: Annotated[int, typer.Option(help="Most epochs.")] = _TRAIN.epochs,
    patience: Annotated[
        int, typer.Option(help="Epochs without a better validation loss before it stops.")
    ] = _TRAIN.patience,
    patches_per_bag: Annotated[
        int, typer.Option(help="Patches drawn from each bag an epoch (from pixels).")
    ] = _TRAIN.patches_per_bag,
    features_per_bag: Annotated[
        int, typer.Option(help="Embeddings drawn from each bag an epoch (from features).")
    ] = _TRAIN.features_per_bag,
    bag_batch: Annotated[int, typer.Option(help="Bags in a training step.")] = _TRAIN.bag_batch,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = (
        _TRAIN.learning_rate
    ),
    class_weight: Annotated[
        str, typer.Option(help="balanced: rare classes weigh more in the loss; or none.")
    ] = _TRAIN.class_weight,
    stain_jitter: Annotated[
        float, typer.Option(help="Strength of the stain augmentation; 0 for none.")
    ] = _TRAIN.stain_jitter,
    gated: Annotated[
        bool, typer.Option("--gated/--plain", help="Gated attention, or tanh alone.")
    ] = _HEAD.gated,
    test_fraction: Annotated[
        float, typer.Option(help="Share of the cases kept for the report.")
    ] = _TRAIN.test_fraction,
    val_fraction: Annotated[
        float, typer.Option(help="Share of the rest kept to decide when to stop.")
    ] = _TRAIN.val_fraction,
    seed: Annotated[int, typer.Option(help="Same seed, same model.")] = _TRAIN.seed,
    ids_from_path: IdsFromPathOption = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model that is in OUT.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Learn from labelled slides; report on cases the model has not seen.

    All slides of a case stay on one side of every split. OUT receives the model, metrics.json
    (with 95 % intervals), held_out.csv and the training curves.
    """
    _refuse_idle_options(context, source)
    params = checked(
        TrainParams,
        mode=source,
        encoder=encoder,
        negative=negative,
        instance_loss=instance_loss,
        head=checked(HeadParams, gated=gated),
        folds=folds,
        members=members,
        epochs=epochs,
        patience=patience,
        patches_per_bag=patches_per_bag,
        features_per_bag=features_per_bag,
        bag_batch=bag_batch,
        learning_rate=learning_rate,
        class_weight=class_weight,
        stain_jitter=stain_jitter,
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        seed=seed,
    )
    if (out / "model.json").exists() and not overwrite:
        raise UsageError(f"{out}: holds a model already; give another --out, or --overwrite")
    from milpath.cohort.cohort import read_cohort

    show_warnings()
    rows = read_cohort(cohort, ids_from_path=ids_from_path)
    rows.require_labels()
    rows.report_cases()
    if negative is not None and negative not in rows.class_names:
        raise UsageError(
            f"--negative {negative}: {rows.name} has no such class; "
            f"it has {', '.join(rows.class_names)}"
        )
    load_network()
    from milpath.nn.train import plan_training, run_training
    from milpath.runs.runlog import open_runlog
    from milpath.store import require_permission, require_writable

    plan = plan_training(rows, bags, params)
    models = max(1, folds) * members
    if dry_run:
        require_permission(out)
        _foresee(plan, models, as_json)
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

        report = run_training(plan, out, tell)
    _show(report, out, as_json)


def _refuse_idle_options(context: typer.Context, source: str) -> None:
    """An option that this kind of training does not heed was given by mistake."""
    for name, heeded_by in _ONLY.items():
        given = context.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE" and source != heeded_by:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} is for --from {heeded_by}, this is --from {source}")


def _foresee(plan: TrainingPlan, models: int, as_json: bool) -> None:
    """Say what would be learned from what."""
    sides = {side: len(getattr(plan.splits[0], side)) for side in ("train", "val", "test")}
    if as_json:
        print(json.dumps({"models": models, "slides": len(plan.data.bags), "first_fold": sides}))
        return
    for slide_id in plan.data.excluded:
        print(f"{slide_id}: no tissue, would be left out of training", file=sys.stderr)
    print(
        f"would train {models} for {', '.join(plan.cohort.class_names)} on {len(plan.data.bags)} "
        f"slides: first on {sides['train']}, stopped by {sides['val']}, {sides['test']} held out"
    )


def _show(report: TrainReport, out: Path, as_json: bool) -> None:
    if as_json:
        figures = {name: asdict(figure) for name, figure in report.figures.items()}
        print(json.dumps({"model": str(out), "held_out": report.held_out, "metrics": figures}))
        return
    for slide_id in report.excluded:
        print(f"{slide_id}: no tissue, left out of training", file=sys.stderr)
    print(f"{out}: a model of {report.spec.members} for {', '.join(report.spec.class_names)}")
    print(f"on {report.held_out} slides held out (95 % interval over cases):")
    for name, figure in report.figures.items():
        if figure.value is None:
            print(f"  {name.replace('_', ' ')}: not defined, a class is missing")
        elif figure.low is None or figure.high is None:
            print(f"  {name.replace('_', ' ')}: {figure.value:.3f}")
        else:
            print(
                f"  {name.replace('_', ' ')}: {figure.value:.3f} "
                f"({figure.low:.3f} to {figure.high:.3f})"
            )
