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


def report(
    results: Annotated[
        Path,
        typer.Argument(
            help="Folder of results: of bags, predictions or a model.",
            metavar="OUT",
            show_default=False,
        ),
    ],
    table: Annotated[
        Path | None,
        typer.Option(help="Also write the slides as a CSV.", metavar="CSV", show_default="none"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what became of every slide, over all runs that had their results in OUT.

    It is made from the runlogs that runs keep in OUT/runlog, and from nothing else.
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
        print(_sentence(run), file=sys.stderr)


def _sentence(run: RunRecord) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in run.count().items())
    what = f"milpath {run.start.milpath} {run.start.command}"
    return f"{run.start.time} {what}: {counts or 'no slides'} ({run.how or run.state})"
