"""A run over slides, as the commands share it: its record, how it is stopped, how it ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milpath.cli.console import exit_with, report_outcomes

if TYPE_CHECKING:
    from milpath.cohort.cohort import SlideEntry
    from milpath.runs import Backend, Outcome
    from milpath.runs.outcome import Job
    from milpath.runs.runlog import RunLog

STOPPED = 128 + signal.SIGTERM
"""The exit code of a command that was told to stop."""

DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Check what is given and say what would be done; write nothing."
    ),
]


def exit_immediately(number: int, frame: FrameType | None) -> None:
    """The answer to SIGTERM where no slide is in hand: end as Ctrl-C does."""
    sys.exit(STOPPED)


@contextmanager
def handle_sigterm() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come: what is in hand is to be finished, and nothing more begun.

    A second one ends the process at once.
    """
    told = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            exit_immediately(number, frame)
        told = True
        os.write(2, b"milpath: told to stop; finishing what is in hand\n")

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: told
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class RequireFolder:
    """A job whose folder of results must still be there: else its disk, or all of it, is gone."""

    job: Job
    out: Path
    mark: Path | None
    """A file in it that goes with it; what is written there later does not bring it back."""

    def __call__(self, entry: SlideEntry) -> Outcome:
        """Do a slide; raises `OutputError` where the folder is gone."""
        from milpath.store import require_folder

        require_folder(self.out, self.mark)
        outcome = self.job(entry)
        require_folder(self.out, self.mark)
        return outcome


@dataclass
class Run:
    """Slides that are to be done, and what has become of them."""

    command: str
    entries: Sequence[SlideEntry]
    out: Path
    as_json: bool
    runlog: RunLog
    stop_requested: Callable[[], bool]
    outcomes: list[Outcome] = field(default_factory=list)

    def do(self, job: Job, backend: Backend) -> None:
        """Do every slide, unless told to stop; each is shown, and written down, as it comes."""
        from milpath.runs import run_job

        job = RequireFolder(job, self.out.absolute(), self.runlog.path)
        outcomes = run_job(job, self.entries, backend, self.stop_requested)
        report_outcomes(self._noted(outcomes), len(self.entries), self.command, self.as_json)
        if self.stop_requested():
            self.runlog.how = "told to stop"

    def _noted(self, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        entry_of = {entry.slide_id: entry for entry in self.entries}
        for outcome in outcomes:
            self.outcomes.append(outcome)
            self.runlog.note(outcome, entry_of[outcome.slide_id])
            yield outcome

    def finish(self) -> None:
        """End the command with the exit code that tells how it went."""
        if self.stop_requested():
            raise SystemExit(STOPPED)
        exit_with(self.outcomes)


@contextmanager
def open_run(
    command: str,
    out: Path,
    entries: Sequence[SlideEntry],
    params: Mapping[str, Any],
    as_json: bool,
) -> Iterator[Run]:
    """A run whose results go into `out`, which is tried and tidied up first.

    Raises
    ------
    OutputError : `out` cannot be written
    """
    from milpath.runs.runlog import open_runlog
    from milpath.store import require_writable

    require_writable(out)
    with handle_sigterm() as told, open_runlog(out, command, params, len(entries)) as runlog:
        yield Run(command, entries, out, as_json, runlog, told)


def preview(
    command: str, job: Job, entries: Sequence[SlideEntry], out: Path, as_json: bool
) -> None:
    """Show what a run would do, in the way that it is shown when it is done.

    Parameters
    ----------
    job : says of a slide what would become of it, and writes nothing
    """
    from milpath.runs import run_job
    from milpath.store import require_permission

    require_permission(out)
    outcomes = run_job(job, entries)
    exit_with(report_outcomes(outcomes, len(entries), f"{command}, dry run", as_json))
