"""A run over slides, as the commands share it: its run log, how it is stopped, how it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import typer

from milpath.cli.console import exit_with, report_outcomes
from milpath.cli.ending import STOPPED, exit_immediately

if TYPE_CHECKING:
    from milpath.cohort.workitem import WorkItem
    from milpath.runs import Backend, Job, Outcome
    from milpath.runs.runlog import RunLog

_Item = TypeVar("_Item", bound="WorkItem")

DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Check the input and show what would be done; write nothing."),
]


@contextmanager
def handle_sigterm() -> Iterator[Callable[[], bool]]:
    """Handle SIGTERM in a run: yield whether it has come, so that the current slides are finished.

    A second SIGTERM ends the process immediately.
    """
    requested = False

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            end = before if callable(before) else exit_immediately
            end(number, frame)
        requested = True
        os.write(2, b"milpath: stopping after the current slides\n")

    before = signal.signal(signal.SIGTERM, request)
    try:
        yield lambda: requested
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class Run(Generic[_Item]):
    """A run of a command, and its outcomes so far.

    Attributes
    ----------
    command, items, out, as_json : as for `open_run`
    runlog : None in a dry run
    stop_requested : whether SIGTERM has come
    """

    command: str
    items: Sequence[_Item]
    out: Path
    as_json: bool
    runlog: RunLog | None
    stop_requested: Callable[[], bool]
    outcomes: list[Outcome] = field(default_factory=list)

    def do(self, job: Job[_Item], backend: Backend) -> None:
        """Process every item until a stop is requested; print and log each outcome as it comes."""
        from milpath.runs import RequireFolder, run_job

        title = f"{self.command}, dry run"
        if self.runlog is not None:
            title = self.command
            job = RequireFolder(job, self.out.absolute(), self.runlog.path)
        outcomes = run_job(job, self.items, backend, self.stop_requested)
        report_outcomes(self._noted(outcomes), len(self.items), title, self.as_json)
        if self.stop_requested() and self.runlog is not None:
            self.runlog.how = "stopped by SIGTERM"

    def _noted(self, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        item_of = {item.slide_id: item for item in self.items}
        for outcome in outcomes:
            self.outcomes.append(outcome)
            if self.runlog is not None:
                self.runlog.note(outcome, item_of[outcome.slide_id])
            yield outcome

    def finish(self) -> None:
        """End the command with the exit code of the run."""
        if self.stop_requested():
            raise SystemExit(STOPPED)
        exit_with(self.outcomes)


@contextmanager
def open_run(
    command: str,
    out: Path,
    items: Sequence[_Item],
    params: Mapping[str, Any],
    as_json: bool,
    *,
    dry_run: bool = False,
) -> Iterator[Run[_Item]]:
    """Open a run whose results go into `out`.

    Parameters
    ----------
    command, params : for the run log
    out : folder of the results; stale temporary files in it are removed
    items : to be processed
    as_json : print outcomes as JSON
    dry_run : write nothing, and keep no run log

    Raises
    ------
    OutputError : `out` cannot be written
    """
    from milpath.runs.runlog import open_runlog
    from milpath.store import remove_stale_temps, require_permission, require_writable

    if dry_run:
        require_permission(out)
        with handle_sigterm() as requested:
            yield Run(command, items, out, as_json, None, requested)
        return
    require_writable(out)
    try:
        with handle_sigterm() as requested, open_runlog(out, command, params, len(items)) as runlog:
            yield Run(command, items, out, as_json, runlog, requested)
    finally:
        remove_stale_temps(out)  # of processes that were killed: too slow, or interrupted
