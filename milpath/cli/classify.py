"""`milpath classify`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, cast

import typer

from milpath.cli.console import (
    JsonOption,
    SlideMppOption,
    VerboseOption,
    load_network,
    show_warnings,
)
from milpath.cli.features import (
    EncoderNameOption,
    FeaturesOption,
    MppOption,
    PatchSizeOption,
    VerifiedOnlyOption,
    make_hints,
)
from milpath.cli.machines import (
    FrameOption,
    IdsFromPathOption,
    NetworkWorkersOption,
    SchedulerOption,
    ShardOption,
    SlideTimeoutOption,
    TissueOption,
    files_of,
    gather_entries,
    open_backend,
    take_shard,
)
from milpath.cli.memory import require_memory
from milpath.cli.runs import DryRunOption, open_run
from milpath.errors import StoredFileError, UsageError
from milpath.slides.frame import Frame

if TYPE_CHECKING:
    from milpath.cohort.cohort import SlideEntry
    from milpath.cohort.workitem import WorkItem
    from milpath.formats.foreign import FeatureFolder
    from milpath.formats.foreign.values import FeatureHints
    from milpath.formats.model_spec import BundleSpec
    from milpath.nn.classify_features import FeatureItem
    from milpath.runs import Job

log = logging.getLogger(__name__)

_Item = TypeVar("_Item", bound="WorkItem")
_Here = tuple[Path, str, Path]
"""Folder of the model, its fingerprint, and the folder of results."""


def classify(
    context: typer.Context,
    model: Annotated[Path, typer.Option("--model", "-m", help="Model folder.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.", show_default=False)],
    slides: Annotated[
        list[Path] | None,
        typer.Argument(
            exists=True,
            help="Slides, folders of slides, or cohort CSVs with a column slide. "
            "Paths in a CSV are relative to its folder.",
            metavar="SLIDE",
            show_default=False,
        ),
    ] = None,
    features: FeaturesOption = None,
    feature_slides: Annotated[
        list[Path] | None,
        typer.Option(
            "--slides",
            exists=True,
            metavar="SLIDE",
            help="Slides of --features, as files, folders or CSVs, to render heatmaps on; may be "
            "repeated.",
            show_default="none",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="Weights of the model's encoder, a file or a folder with it, if the model only "
            "refers to them, as it does for published encoders.",
            show_default="where they were found before",
        ),
    ] = None,
    encoder_name: EncoderNameOption = None,
    patch_size: PatchSizeOption = None,
    mpp: MppOption = None,
    verified_only: VerifiedOnlyOption = False,
    slide_mpp: SlideMppOption = None,
    workers: NetworkWorkersOption = 1,
    scheduler: SchedulerOption = None,
    shard: ShardOption = None,
    slide_timeout: SlideTimeoutOption = None,
    tissue: TissueOption = None,
    frame: FrameOption = Frame.qupath,
    ids_from_path: IdsFromPathOption = False,
    verbose: VerboseOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Classify slides with a trained model, and render heatmaps of its attention.

    OUT receives for each slide a prediction file and a picture of the slide beside its heatmap,
    and predictions.csv: all predictions of the model in OUT, and the slides that failed. The
    resolution, the patch size and all other parameters come from the model. A slide that is
    already classified with the same model is skipped.

    With --features, a model that was trained on features is applied to such features of other
    slides; heatmaps are rendered on the --slides that are given.
    """
    from milpath.formats.foreign import detect_features
    from milpath.formats.layout import model_spec_path, predictions_table_path
    from milpath.formats.model_spec import check_weights, read_bundle_spec
    from milpath.predictions_table import add_stored, write_predictions_table
    from milpath.runs import Inline

    show_warnings(verbose=verbose)
    _check_sources(context, slides, features)
    take_shard((), shard)  # a wrong one is said first
    given = slides if features is None else feature_slides
    found = gather_entries(given or [], slide_mpp, tissue, frame, ids_from_path=ids_from_path)
    try:
        spec = read_bundle_spec(model)
        if dry_run:
            check_weights(model, spec)
    except StoredFileError as error:
        raise UsageError(str(error)) from None
    here = model.absolute(), spec.fingerprint, out.absolute()
    if features is None:
        jobs = cast("_Jobs[Any]", _plan_slides(found, spec, here, weights, dry_run=dry_run))
    else:
        hints = make_hints(encoder_name, patch_size, mpp)
        folder = detect_features(features, verified_only=verified_only)
        planned = _plan_features(folder, hints, found, spec, here, dry_run=dry_run)
        jobs = cast("_Jobs[Any]", planned)
    entries, part = take_shard(jobs.items, shard)
    if scheduler is None and not dry_run:
        require_memory(network=True)
    if not spec.has_space:
        log.warning(
            "%s: was trained by an earlier version, so that slides unlike its training slides are "
            "not recognised",
            model,
        )
    table = predictions_table_path(out, (part.number, part.count) if part else None)
    place = {entry.slide_id: number for number, entry in enumerate(entries)}
    files = [model_spec_path(model), *jobs.files(entries)]
    annotated = {"annotated": tissue is not None, "frame": str(frame)}
    params = {"model": spec.fingerprint, **annotated}
    with (
        open_backend(
            workers, scheduler, len(entries), out, files, timeout=slide_timeout, dry_run=dry_run
        ) as backend,
        open_run("classify", out, entries, params, as_json, dry_run=dry_run) as run,
    ):
        if isinstance(backend, Inline) and not dry_run:
            load_network()
        try:
            run.do(jobs.make_job(backend.threads), backend)
        finally:  # also an interrupted run writes the table
            if not dry_run and (run.outcomes or not entries) and out.is_dir():
                outcomes = sorted(run.outcomes, key=lambda outcome: place[outcome.slide_id])
                shard_ids = list(place) if part else None
                outcomes = add_stored(outcomes, out, spec.fingerprint, shard_ids)
                write_predictions_table(table, outcomes, spec.class_names)
    run.finish()


_TRIED = 3  # files that are opened before a run
_FEATURES_ONLY = ("feature_slides", "encoder_name", "patch_size", "mpp", "verified_only")
_SLIDES_ONLY = ("tissue", "frame", "weights")


def _check_sources(
    context: typer.Context, slides: Sequence[Path] | None, features: Path | None
) -> None:
    """Raise `UsageError` unless either slides or features are given, with options for them."""
    if features is None and not slides:
        raise UsageError("give slides to classify, or --features with a folder of features")
    if features is not None and slides:
        raise UsageError(
            "with --features, give the slides that heatmaps are rendered on with --slides"
        )
    unused = _FEATURES_ONLY if features is None else _SLIDES_ONLY
    for name in unused:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = {"feature_slides": "slides", "tissue": "tissue-annotations"}.get(name, name)
            other = "is for --features" if features is None else "has no effect on --features"
            raise UsageError(f"--{option.replace('_', '-')} {other}; leave it out")


@dataclass(frozen=True)
class _Jobs(Generic[_Item]):
    """What is to be classified: the items, their input files, and the job for each of them."""

    items: Sequence[_Item]
    files: Callable[[Sequence[_Item]], list[Path]]
    make_job: Callable[[int], Job[_Item]]


def _plan_slides(
    entries: Sequence[SlideEntry],
    spec: BundleSpec,
    here: _Here,
    weights: Path | None,
    *,
    dry_run: bool,
) -> _Jobs[SlideEntry]:
    from milpath.formats.model_spec import require_encoder
    from milpath.nn.jobs import ClassifyJob
    from milpath.registry import ENCODERS
    from milpath.registry.weights import locate_weights

    require_encoder(spec)
    if spec.encoder.kind == "published" and spec.encoder.name in ENCODERS and not dry_run:
        weights = locate_weights(ENCODERS[spec.encoder.name], weights, download=True)
    place = None if weights is None else weights.absolute()
    return _Jobs(entries, files_of, lambda threads: ClassifyJob(*here, threads, place, dry_run))


def _plan_features(
    folder: FeatureFolder,
    hints: FeatureHints,
    entries: Sequence[SlideEntry],
    spec: BundleSpec,
    here: _Here,
    *,
    dry_run: bool,
) -> _Jobs[FeatureItem]:
    """Match features with slides by their ids, and say which slides have no features."""
    from milpath.cohort.cohort import count_slides, list_slides
    from milpath.formats.model_spec import require_features_model
    from milpath.nn.classify_features import FeatureItem
    from milpath.nn.jobs import ClassifyFeaturesJob

    require_features_model(spec)
    if not entries:  # with a slide, more may be known
        _require_known(folder, hints)
    slides = {entry.slide_id: entry for entry in entries}
    without = [slide_id for slide_id in slides if slide_id not in folder.files]
    if without:
        log.warning(
            "%s: %s no features there, and are left out: %s",
            folder.folder,
            count_slides(without),
            list_slides(without),
        )
    bare = [slide_id for slide_id in folder.files if slide_id not in slides]
    if entries and bare:
        log.warning(
            "%s not among --slides, and get no heatmap: %s",
            f"{len(bare):,} of {len(folder.files):,} slides with features are",
            list_slides(bare),
        )
    items = [FeatureItem(path, name, slides.get(name)) for name, path in folder.files.items()]
    job = ClassifyFeaturesJob(folder.layout, hints, *here, dry_run)
    return _Jobs(items, _list_inputs, lambda threads: job)


def _require_known(folder: FeatureFolder, hints: FeatureHints) -> None:
    """Raise `UsageError` if the first file that can be read does not say what its features are."""
    from milpath.formats.foreign.identity import identify_encoder

    for path in [*folder.files.values()][:_TRIED]:
        try:
            with folder.layout.open(path, hints) as features:
                identify_encoder(path, features)
                return
        except StoredFileError:
            continue


def _list_inputs(items: Sequence[FeatureItem]) -> list[Path]:
    slides = [item.slide for item in items if item.slide is not None]
    return [item.path for item in items] + files_of(slides)
