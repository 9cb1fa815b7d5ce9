"""What all commands share: progress, one line a slide, the exit code, options to parameters."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer
from pydantic import ValidationError

from milpath.errors import UsageError
from milpath.params import Params

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

    from milpath.runs import Outcome

_P = TypeVar("_P", bound=Params)

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object a line, for programs.")
]
SlideMppOption = Annotated[
    float | None,
    typer.Option(
        "--slide-mpp",
        metavar="UM",
        help="µm per pixel at full size, for slides that do not say or say it wrong.",
        show_default="what the slide says",
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option("--workers", "-w", min=0, help="Processes at work; 0 for one a processor."),
]


_OPTIONS = {"patch_px": "--patch-size", "overlap_px": "--overlap", "mode": "--from"}
"""Options that are not named after their parameter."""


def checked(kind: type[_P], **values: Any) -> _P:
    """Options as a parameter value; raises `UsageError` in one line when they do not fit."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        fact = first["msg"].removeprefix("Value error, ")
        if first["loc"]:
            name = str(first["loc"][-1])
            option = _OPTIONS.get(name, "--" + name.replace("_", "-"))
            fact = f"{option} {first['input']}: {fact}"
        raise UsageError(fact) from None


class Advance(Protocol):
    """What moves a progress bar."""

    def __call__(self, word: str, steps: int = 1) -> None:
        """Count a step, or several where some were not needed, with a word on what was done."""


@contextmanager
def progress(title: str, total: int, *, plain: bool = True) -> Iterator[Advance]:
    """A progress bar on stderr; where that is no terminal, a plain line now and then.

    Parameters
    ----------
    title, total : of the work
    plain : whether those lines are wanted; not where the command prints a line a step anyhow
    """
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console, title, total) as advance:
            yield advance
    else:
        yield _plain_lines(title, total) if plain else lambda word, steps=1: None


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
    # rich would else take stdout along to stderr, and wrap the JSON that a program waits for
    shared = sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=shared) as bar:
        task = bar.add_task(title, total=total, word="")
        yield lambda word, steps=1: bar.update(task, advance=steps, word=word)


def _plain_lines(title: str, total: int) -> Advance:
    """At most a line every `PLAIN_SECONDS`: a log of a night stays readable."""
    count = 0
    last = float("-inf")

    def advance(word: str, steps: int = 1) -> None:
        nonlocal count, last
        count += steps
        if time.monotonic() - last >= PLAIN_SECONDS or count == total:
            last = time.monotonic()
            print(f"{title} {count}/{total}: {word}", file=sys.stderr, flush=True)

    return advance


PLAIN_SECONDS = 10.0


def report_outcomes(
    outcomes: Iterable[Outcome], total: int, title: str, as_json: bool
) -> list[Outcome]:
    """Show each slide's outcome as it comes, then the count of each kind."""
    done: list[Outcome] = []
    with progress(title, total, plain=False) as advance:
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
    said = ", ".join(f"{counts[name]} {words[name]}" for name in words if counts[name])
    print(f"{title}: {said or 'nothing to do'}", file=sys.stderr)
    return done


def load_network() -> None:
    """Import Keras and its backend, which takes some seconds."""
    from rich.console import Console

    from milpath.nn import import_keras

    console = Console(stderr=True)
    if console.is_terminal:
        console.print("starting the network's library ...", style="dim")
    import_keras()


def exit_with(outcomes: Iterable[Outcome]) -> None:
    """End the command: 0 when no slide failed, 3 when some did, 4 when all did."""
    failed = [outcome.status == "failed" for outcome in outcomes]
    if any(failed):
        raise typer.Exit(4 if all(failed) else 3)


def show_warnings(*, verbose: bool = False) -> None:
    """Send the library's warnings to stderr, a line each; if asked for, its progress too."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    if verbose:
        logging.getLogger("milpath").setLevel(logging.INFO)
