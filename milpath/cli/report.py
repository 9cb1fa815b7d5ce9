"""`milpath report`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milpath.cli.console import JsonOption

if TYPE_CHECKING:
    from milpath.runs.runlog import RunRecord

_STATES = {
    "running": "still running",
    "killed": "killed",
    "unknown": "no end recorded; it was killed, or runs on another machine",
}


def report(
    results: Annotated[
        Path,
        typer.Argument(
            exists=True,
            file_okay=False,
            help="Output folder of tile, embed, train or classify.",
            metavar="OUT",
            show_default=False,
        ),
    ],
    table: Annotated[
        Path | None,
        typer.Option(
            help="Also write the table of slides as CSV.", metavar="CSV", show_default="none"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Summarize all runs that wrote into a folder: the outcome of each slide and of each run.

    Only the run logs in OUT/runlog are read. A run that is still running is reported with the
    number of slides done so far.
    """
    from milpath.runs.runlog import read_runlogs, tabulate_slides
    from milpath.store import publish_csv

    runs = read_runlogs(results)
    rows = tabulate_slides(runs)
    if table is not None:
        names = ("command", "slide", "status", "message", "time", "runs")
        publish_csv(table, names, [[getattr(row, name) for name in names] for row in rows])
    for row in rows:
        if as_json:
            print(json.dumps(asdict(row), ensure_ascii=False))
        else:
            print(f"{row.slide}: {row.command}, {row.status}, {row.message}")
    for run in runs:
        print(describe_run(run), file=sys.stderr)


def describe_run(run: RunRecord) -> str:
    """Describe a run in one line: when and what, slides done of all, by status, and its state."""
    counts = ", ".join(f"{count} {status}" for status, count in run.count().items())
    slides = f"{run.done} of {run.total} slides" + (f" ({counts})" if counts else "")
    state = run.how if run.how is not None else _STATES[run.state]
    time = run.start.time[:19] + "Z"  # without fractions of a second; UTC
    return f"{time} milpath {run.start.milpath} {run.start.command}: {slides}; {state}"
