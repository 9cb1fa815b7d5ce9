"""The command line: options to parameters to one call to one line."""

from __future__ import annotations

import os
import signal
import sys

import typer

from milpath.cli import (
    classify,
    demo,
    embed,
    export,
    heatmap,
    info,
    mnist,
    report,
    tile,
    train,
    view,
)
from milpath.cli.runs import STOPPED, exit_immediately
from milpath.errors import MilpathError, OutputError, UsageError

app = typer.Typer(
    name="milpath",
    help=(
        "Learn from one label a slide, and show where the evidence lies.\n\n"
        "From slides to pictures: tile, train, classify. Try milpath demo first: it needs no data."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help loads in half the time, and errors stay one line
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Exit codes: 0 all well, 2 wrong options or cohort file, 3 some slides failed, "
        "4 all failed, 5 results cannot be written, "
        "130 interrupted (Ctrl-C), 143 told to stop (SIGTERM)."
    ),
)
app.command("tile", short_help="Cut the tissue of slides into patches.")(tile.tile)
app.command("embed", short_help="Turn patches into embeddings.")(embed.embed)
app.command("train", short_help="Learn a model from labelled slides.")(train.train)
app.command("classify", short_help="Classify slides and paint heatmaps.")(classify.classify)
app.command("heatmap", short_help="Paint one prediction onto its slide.")(heatmap.heatmap)
app.command("export", short_help="Write a prediction for other programs.")(export.export)
app.command("view", short_help="Look at a slide and its predictions.")(view.view)
app.command("info", short_help="Say what a file holds.")(info.info)
app.command("report", short_help="Say what became of every slide.")(report.report)
app.command("mnist", short_help="Measure the model on bags of digits.")(mnist.mnist)
app.command("demo", short_help="Show the whole way; needs no data.")(demo.demo)

_ENDINGS = {130: "interrupted", STOPPED: "stopped"}
"""Exit codes of commands that others ended; Typer makes the first of Ctrl-C."""


def main() -> None:
    """Run the command line; a `MilpathError` becomes one line and an exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's own remarks are not ours
    signal.signal(signal.SIGTERM, exit_immediately)
    try:
        app()
    except MilpathError as error:
        print(f"milpath: {error}", file=sys.stderr)
        sys.exit(_exit_code(error))
    except SystemExit as end:
        if end.code in _ENDINGS:
            kept = "the files that were finished are kept"
            print(f"milpath: {_ENDINGS[end.code]}; {kept}", file=sys.stderr)
        raise


def _exit_code(error: MilpathError) -> int:
    if isinstance(error, UsageError):
        return 2
    return 5 if isinstance(error, OutputError) else 4
