"""Command line: options become parameters, one function call, and one line per outcome."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from milpath.cli.ending import INTERRUPTED, Ending
from milpath.cli.memory import require_memory
from milpath.errors import MilpathError, OutputError, UsageError, is_out_of_memory
from milpath.version import __version__

COMMANDS = {
    "tile": "Cut the tissue of slides into patches.",
    "embed": "Compute features of patches.",
    "encoders": "List encoders and how to get their weights.",
    "train": "Train a model on labelled slides.",
    "classify": "Classify slides and render heatmaps.",
    "heatmap": "Render a prediction over its slide.",
    "export": "Export a prediction to other formats.",
    "export-features": "Write features for other tools.",
    "view": "Open a slide and its predictions.",
    "info": "Show what a file contains.",
    "check": "Verify stored files by their checksums.",
    "report": "Summarize runs and their slides.",
    "mnist": "Run the MNIST-bags benchmark.",
    "demo": "Run a demo on synthetic slides.",
}
"""Summary of each command; its function has its name (with _ for -), in a module of that name."""

_SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,  # plain help loads in half the time, and errors stay one line
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class _Commands(TyperGroup):
    """All commands; each is imported when it is called, since all together take 0.2 s."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = dict.fromkeys(COMMANDS)  # Typer suggests a name from these

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        app = typer.Typer(add_completion=False, **_SETTINGS | {"no_args_is_help": False})
        name = cmd_name.replace("-", "_")
        app.command(cmd_name)(getattr(import_module(f"milpath.cli.{name}"), name))
        command = typer.main.get_command(app)
        command.short_help = COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=_Commands,
    name="milpath",
    help=(
        "Classify whole-slide images with one label per slide, and show where the evidence "
        "lies.\n\nThe usual order is tile, train, classify. Try milpath demo first: it needs no "
        "data."
    ),
    epilog=(
        "Exit codes: 0 success, 2 wrong usage (options, parameters or cohort file), 3 some slides "
        "or files failed, 4 all failed, 5 results cannot be written, 130 interrupted (Ctrl-C), "
        "143 terminated (SIGTERM)."
    ),
    **_SETTINGS,
)

_ClickUsageError: Any = typer.BadParameter.__mro__[1]
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
    require_memory()


def main() -> None:
    """Run the command line; an error becomes one line on stderr and an exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no log output of TensorFlow's C++
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # the search takes 0.05 s
    os.environ["PYTHONSAFEPATH"] = "1"  # no child process imports from the current folder
    ending = Ending()
    try:
        ending.handle_signals()
        ending.finish(_run())
    except KeyboardInterrupt:
        ending.finish(INTERRUPTED)
    except BaseException:
        if not ending.begun:  # libraries turn Ctrl-C into other errors
            raise
    ending.leave()


def _run() -> int:
    """Run the command; return its exit code."""
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
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        code = _report_no_memory()
    return int(_flush_stdout(code) or 0)


def _report_no_memory() -> int:
    print(
        "milpath: not enough memory; raise the limit (ulimit -v, or the memory of the job)",
        file=sys.stderr,
    )
    return 4


def _report_os_error(error: OSError) -> int:
    if is_out_of_memory(error):
        return _report_no_memory()
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
    from pydantic import ValidationError

    from milpath.params import describe_violation

    if isinstance(error.__cause__, ValidationError):  # of Typer, for one option
        error.message = describe_violation(error.__cause__)[1]
    text = "".join(filter(str.isprintable, " ".join(error.format_message().split())))
    command = error.ctx.command_path if error.ctx else "milpath"
    return f"{command}: {text.rstrip('.')}; see {command} --help"


def _exit_code(error: MilpathError) -> int:
    if isinstance(error, UsageError):
        return 2
    return 5 if isinstance(error, OutputError) else 4
