"""`milpath classify`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milpath.cli.console import (
    JsonOption,
    SlideMppOption,
    exit_with,
    load_network,
    report_outcomes,
    show_warnings,
)
from milpath.cli.machines import (
    NetworkWorkersOption,
    SchedulerOption,
    ShardOption,
    open_backend,
    take_shard,
)
from milpath.errors import StoredFileError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milpath.engine import Outcome


def classify(
    slides: Annotated[
        list[Path],
        typer.Argument(
            help="Slides, folders of slides, or CSVs with a column slide.",
            metavar="SLIDE",
            show_default=False,
        ),
    ],
    model: Annotated[
        Path, typer.Option("--model", "-m", help="A model folder.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results.", show_default=False)
    ],
    slide_mpp: SlideMppOption = None,
    workers: NetworkWorkersOption = 1,
    scheduler: SchedulerOption = None,
    shard: ShardOption = None,
    tissue: Annotated[
        Path | None,
        typer.Option(
            help="Outline of the tissue (GeoJSON, level-0 pixels), for one slide.",
            show_default="found on the slide",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also tell how far each slide is.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Classify slides straight from their files, and paint where the evidence lies.

    OUT receives predictions.csv, and for each slide a prediction file and a picture of the slide
    beside its heatmap. Resolution, patch size and everything else come from the model.
    """
    from milpath.cohort import gather_slides
    from milpath.engine import Inline, run_job
    from milpath.model_spec import read_bundle_spec
    from milpath.nn.jobs import ClassifyJob
    from milpath.outline import read_outline
    from milpath.summary import write_predictions

    entries, share = take_shard(gather_slides(slides, slide_mpp), shard)
    if tissue is not None:
        if len(entries) > 1:
            raise UsageError(f"--tissue: an outline is of one slide, not of {len(entries)}")
        read_outline(tissue)  # refused now, not after the network has been loaded
        entries = [replace(entry, outline=tissue) for entry in entries]
    try:
        spec = read_bundle_spec(model)
    except StoredFileError as error:
        raise UsageError(str(error)) from None
    show_warnings(verbose=verbose)
    table = out / (share.file_name("predictions", ".csv") if share else "predictions.csv")
    place = {entry.slide_id: number for number, entry in enumerate(entries)}
    files = [model / "model.json", *(entry.path for entry in entries)]
    outcomes: list[Outcome] = []

    def note(run: Iterator[Outcome]) -> Iterator[Outcome]:
        for outcome in run:
            outcomes.append(outcome)
            yield outcome

    with open_backend(workers, scheduler, len(entries), out, files) as backend:
        if isinstance(backend, Inline):
            load_network()
        job = ClassifyJob(model.absolute(), spec.fingerprint, out.absolute(), backend.threads)
        try:
            run = run_job(job, entries, backend)
            report_outcomes(note(run), len(entries), "classify", as_json)
        finally:  # an interrupted run leaves the table of what it has done
            if outcomes or not entries:
                outcomes.sort(key=lambda outcome: place[outcome.slide_id])
                write_predictions(table, outcomes, spec.class_names)
    exit_with(outcomes)
