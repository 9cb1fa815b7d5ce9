"""`milpath classify`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from milpath.cli.console import (
    JsonOption,
    SlideMppOption,
    load_network,
    show_warnings,
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

log = logging.getLogger(__name__)


def classify(
    slides: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            help="Slides, folders of slides, or cohort CSVs with a column slide. "
            "Paths in a CSV are relative to its folder.",
            metavar="SLIDE",
            show_default=False,
        ),
    ],
    model: Annotated[Path, typer.Option("--model", "-m", help="Model folder.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.", show_default=False)],
    slide_mpp: SlideMppOption = None,
    workers: NetworkWorkersOption = 1,
    scheduler: SchedulerOption = None,
    shard: ShardOption = None,
    slide_timeout: SlideTimeoutOption = None,
    tissue: TissueOption = None,
    frame: FrameOption = Frame.qupath,
    ids_from_path: IdsFromPathOption = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show progress within each slide.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Classify slides with a trained model, and render heatmaps of its attention.

    OUT receives for each slide a prediction file and a picture of the slide beside its heatmap,
    and predictions.csv: all predictions of the model in OUT, and the slides that failed. The
    resolution, the patch size and all other parameters come from the model. A slide that is
    already classified with the same model is skipped.
    """
    from milpath.formats.layout import model_spec_path, predictions_table_path
    from milpath.formats.model_spec import check_weights, read_bundle_spec
    from milpath.nn.jobs import ClassifyJob
    from milpath.predictions_table import add_stored, write_predictions_table
    from milpath.runs import Inline

    show_warnings(verbose=verbose)
    gathered = gather_entries(slides, slide_mpp, tissue, frame, ids_from_path=ids_from_path)
    entries, part = take_shard(gathered, shard)
    try:
        spec = read_bundle_spec(model)
        if dry_run:
            check_weights(model, spec)
    except StoredFileError as error:
        raise UsageError(str(error)) from None
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
    files = [model_spec_path(model), *files_of(entries)]
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
        job = ClassifyJob(
            model.absolute(), spec.fingerprint, out.absolute(), backend.threads, dry_run
        )
        try:
            run.do(job, backend)
        finally:  # also an interrupted run writes the table
            if not dry_run and (run.outcomes or not entries) and out.is_dir():
                outcomes = sorted(run.outcomes, key=lambda outcome: place[outcome.slide_id])
                shard_ids = list(place) if part else None
                outcomes = add_stored(outcomes, out, spec.fingerprint, shard_ids)
                write_predictions_table(table, outcomes, spec.class_names)
    run.finish()
