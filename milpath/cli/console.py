"""What all commands share: options, progress, one line per outcome, and the exit code."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from milpath.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

    from milpath.params import Params
    from milpath.runs import Outcome

_P = TypeVar("_P", bound="Params")

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object per line, for programs.")
]
SlideMppOption = Annotated[
    float | None,
    typer.Option(
        "--slide-mpp",
        metavar="UM",
        help="µm per pixel at level 0, for slides with missing or wrong metadata.",
        show_default="from the slide",
    ),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show progress within each slide.")
]
WorkersOption = Annotated[
    int,
    typer.Option("--workers", "-w", min=0, help="Number of processes; 0 = one per CPU."),
]

PLAIN_SECONDS = 10.0
"""Least time between two lines of progress where stderr is not a terminal."""

_OPTIONS = {
    "patch_px": "--patch-size",
    "overlap_px": "--overlap",
    "mode": "--features",
    "normalise": "--stain-normalise",
}
"""Options that are not named after their parameter."""


def describe_option(parameter: str) -> str:
    """Return the option of a parameter: `--patch-size` for `grid.patch_px`."""
    name = parameter.rpartition(".")[2]
    return _OPTIONS.get(name, "--" + name.replace("_", "-"))


def checked(kind: type[_P], **values: Any) -> _P:
    """Build parameters from options; raise `UsageError` with one line where they are not valid."""
    from pydantic import ValidationError

    from milpath.params import describe_violation

    try:
        return kind(**values)
    except ValidationError as error:
        name, rule = describe_violation(error)
        raise UsageError(f"{describe_option(name)} {rule}" if name else rule) from None


class Advance(Protocol):
    """Moves the progress forward."""

    def __call__(self, word: str, steps: int = 1) -> None:
        """Count one step, or several where some were not needed; `word` says what was done."""


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Show progress on stderr: a bar on a terminal, else a line every `PLAIN_SECONDS`."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console, title, total) as advance:
            yield advance
    else:
        yield _plain_lines(title, total)


@contextmanager
def _bar(console: RichConsole, title: str, total: int) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[word]}", style="dim", markup=False),
    )
    # otherwise rich sends stdout to stderr, and wraps the JSON that a program waits for
    shared = sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=shared) as bar:
        task = bar.add_task(title, total=total, word="")
        yield lambda word, steps=1: bar.update(task, advance=steps, word=word)


def _plain_lines(
    title: str,
    total: int,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = datetime.now,
) -> Advance:
    """Print at most one line every `PLAIN_SECONDS`, so that the log of a long run stays short.

    Parameters
    ----------
    title, total : of the work
    clock : seconds
    now : date and time, for the timestamp
    """
    count = 0
    start = last = clock()

    def advance(word: str, steps: int = 1) -> None:
        nonlocal count, last
        count += steps
        time = clock()
        if time - last < PLAIN_SECONDS:
            return
        last = time
        remaining = (time - start) / count * (total - count) if count else 0.0
        print(
            f"{now().astimezone().isoformat(timespec='seconds')} {title} {count}/{total}, "
            f"elapsed {_duration(time - start)}, ETA {_duration(remaining)}: {word}",
            file=sys.stderr,
            flush=True,
        )

    return advance


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(max(seconds, 0.0))))


def report_outcomes(
    outcomes: Iterable[Outcome], total: int, title: str, as_json: bool
) -> list[Outcome]:
    """Print each outcome as it comes, then the number of each kind; return all outcomes."""
    done: list[Outcome] = []
    with progress(title, total) as advance:
        for outcome in outcomes:
            done.append(outcome)
            advance(outcome.slide_id)
            if as_json:
                print(json.dumps(asdict(outcome), ensure_ascii=False), flush=True)
            elif outcome.status == "failed":
                print(f"failed: {outcome.message}", file=sys.stderr, flush=True)
            else:
                print(
                    f"{outcome.slide_id}: {outcome.message} ({outcome.seconds:.1f} s)", flush=True
                )
    words = {
        "planned": "to do",
        "ok": "done",
        "no_tissue": "without tissue",
        "skipped": "skipped",
        "failed": "failed",
    }
    counts = {name: sum(one.status == name for one in done) for name in words}
    summary = ", ".join(f"{counts[name]} {words[name]}" for name in words if counts[name])
    print(f"{title}: {summary or 'nothing to do'}", file=sys.stderr)
    return done


def load_network() -> None:
    """Import Keras and TensorFlow, which takes several seconds."""
    from rich.console import Console

    from milpath.cli.memory import require_memory
    from milpath.nn import import_keras

    require_memory(network=True)
    console = Console(stderr=True)
    if console.is_terminal:
        console.print("loading Keras and TensorFlow ...", style="dim")
    import_keras()


def exit_with(outcomes: Iterable[Outcome]) -> None:
    """End the command: exit code 0 if no slide failed, 3 if some did, 4 if all did."""
    failed = [outcome.status == "failed" for outcome in outcomes]
    if any(failed):
        raise typer.Exit(4 if all(failed) else 3)


def show_warnings(*, verbose: bool = False) -> None:
    """Print milpath's warnings on stderr, one per line; if verbose, its progress too."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    if verbose:
        logging.getLogger("milpath").setLevel(logging.INFO)
