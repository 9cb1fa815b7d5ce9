"""Command line: options become parameters, one function call, and one line per outcome."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

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
from milpath.params import describe_violation
from milpath.version import __version__

app = typer.Typer(
    name="milpath",
    help=(
        "Classify whole-slide images with one label per slide, and show where the evidence "
        "lies.\n\nThe usual order is tile, train, classify. Try milpath demo first: it needs no "
        "data."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help loads in half the time, and errors stay one line
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Exit codes: 0 success, 2 wrong usage (options, parameters or cohort file), 3 some slides "
        "failed, 4 all failed, 5 results cannot be written, 130 interrupted (Ctrl-C), "
        "143 terminated (SIGTERM)."
    ),
)
app.command("tile", short_help="Cut the tissue of slides into patches.")(tile.tile)
app.command("embed", short_help="Compute features of patches.")(embed.embed)
app.command("train", short_help="Train a model on labelled slides.")(train.train)
app.command("classify", short_help="Classify slides and render heatmaps.")(classify.classify)
app.command("heatmap", short_help="Render a prediction over its slide.")(heatmap.heatmap)
app.command("export", short_help="Export a prediction to other formats.")(export.export)
app.command("view", short_help="Open a slide and its predictions.")(view.view)
app.command("info", short_help="Show what a file contains.")(info.info)
app.command("report", short_help="Summarize runs and their slides.")(report.report)
app.command("mnist", short_help="Run the MNIST-bags benchmark.")(mnist.mnist)
app.command("demo", short_help="Run a demo on synthetic slides.")(demo.demo)

_ENDINGS = {130: "interrupted", STOPPED: "stopped"}
"""Exit codes of interrupted commands; Typer returns the first after Ctrl-C."""

_ClickUsageError = typer.BadParameter.__mro__[1]
"""Base of what Typer raises for wrong options; it has no public name there."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"milpath {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error becomes one line on stderr and an exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no log output of TensorFlow's C++
    os.environ["PYTHONSAFEPATH"] = "1"  # no child process imports from the current folder
    signal.signal(signal.SIGTERM, exit_immediately)
    try:
        code = app(prog_name="milpath", standalone_mode=False)
    except MilpathError as error:
        print(f"milpath: {error}", file=sys.stderr)
        code = _exit_code(error)
    except _ClickUsageError as error:
        print(_describe_usage_error(error), file=sys.stderr)
        code = 2
    except OSError as error:
        code = _report_os_error(error)
    except SystemExit as end:
        code = end.code
    code = _flush_stdout(code)
    if code in _ENDINGS:
        print(f"milpath: {_ENDINGS[code]}; the files that were finished are kept", file=sys.stderr)
    sys.exit(code)


def _report_os_error(error: OSError) -> int:
    try:
        Path.cwd()
    except OSError:
        print("milpath: the current folder was deleted; change to another one", file=sys.stderr)
        return 2
    print(f"milpath: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
    return 5


def _flush_stdout(code: Any) -> Any:
    """Write what is left for stdout; return the exit code, 5 where that fails."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor at the very end
        if code != 5:
            print(f"milpath: stdout cannot be written ({error.strerror})", file=sys.stderr)
        return 5
    return code


def _describe_usage_error(error: Any) -> str:
    """Describe wrong options in one line; the help itself where there are no arguments at all."""
    if error.message.startswith("Usage:"):
        return str(error.message)
    if isinstance(error.__cause__, ValidationError):  # of Typer, for one option
        error.message = describe_violation(error.__cause__)[1]
    text = "".join(filter(str.isprintable, " ".join(error.format_message().split())))
    command = error.ctx.command_path if error.ctx else "milpath"
    return f"{command}: {text.rstrip('.')}; see {command} --help"


def _exit_code(error: MilpathError) -> int:
    if isinstance(error, UsageError):
        return 2
    return 5 if isinstance(error, OutputError) else 4
