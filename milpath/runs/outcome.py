"""Outcome: the result of a job on one item, and how a job is attempted."""

from __future__ import annotations

import gc
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from milpath.cohort.workitem import WorkItem
from milpath.errors import MilpathError, OutputError, UsageError
from milpath.formats.existing import Existing
from milpath.slides.redaction import redact_path
from milpath.store import require_folder

log = logging.getLogger(__name__)

Item = TypeVar("Item", bound=WorkItem)

Status = Literal["ok", "no_tissue", "skipped", "failed", "planned"]
"""`planned`: a dry run found that the item would be processed."""


@dataclass(frozen=True)
class Facts:
    """What a program may want to know of an outcome; each command extends it with its own."""


@dataclass(frozen=True)
class UnexpectedError(Facts):
    """Of an item on which a job failed with an error that is not a `MilpathError`."""

    unexpected: str
    """Name of the error's class."""


@dataclass(frozen=True)
class Outcome:
    """The result of a job on one item."""

    slide_id: str
    status: Status
    message: str
    """One line for people."""
    facts: Facts = Facts()
    """For programs."""
    seconds: float = 0.0


Job: TypeAlias = Callable[[Item], Outcome]

Stop = Callable[[], bool]
"""Whether no further item is to be started; those in progress are finished."""


def never_stop() -> bool:
    """Let a run continue to its end: the default `Stop`."""
    return False


class Backend(Protocol):
    """Where the items are processed."""

    @property
    def threads(self) -> int:
        """Threads that a job may use there."""

    def run(
        self, job: Job[Item], items: Sequence[Item], stop: Stop = never_stop
    ) -> Iterator[Outcome]:
        """Process every item; see `milpath.runs.run_job`."""


@dataclass(frozen=True)
class RequireFolder(Generic[Item]):
    """A job that fails unless its folder of results is there before and after.

    Attributes
    ----------
    job : the job itself
    out : folder of the results
    mark : file in it that shows that it is still the same folder, not one created later
    """

    job: Job[Item]
    out: Path
    mark: Path | None

    def __call__(self, item: Item) -> Outcome:
        """Process an item; raise `OutputError` where the folder is gone."""
        require_folder(self.out, self.mark)
        outcome = self.job(item)
        require_folder(self.out, self.mark)
        return outcome


# Python looks for reference cycles less often the more objects there are, and Keras has created a
# million: the cycles of hundreds of slides would accumulate. One collection takes 0.2 s.
_COLLECT_EVERY = 16
_attempts = count(1)


def attempt_slide(job: Job[Item], item: Item) -> Outcome:
    """Process one item; its errors become its outcome.

    Raises
    ------
    OutputError, UsageError : every other item would fail in the same way
    """
    start = time.perf_counter()
    try:
        outcome = job(item)
    except (OutputError, UsageError):
        raise
    except MilpathError as error:
        outcome = Outcome(item.slide_id, "failed", str(error))
    except Exception as error:  # an unattended run continues with the other slides
        reason = redact_path(str(error), item.path, item.slide_id)
        log.error("unexpected error on %s\n%s", item.slide_id, _format_traceback(error, item))
        outcome = Outcome(
            item.slide_id,
            "failed",
            f"{item.slide_id}: unexpected {type(error).__name__}: {' '.join(reason.split())}",
            UnexpectedError(type(error).__name__),
        )
    if next(_attempts) % _COLLECT_EVERY == 0:
        gc.collect()
    return replace(outcome, seconds=round(time.perf_counter() - start, 3))


def skipped_outcome(item: WorkItem, message: str, facts: Facts, *, dry_run: bool) -> Outcome:
    """Outcome of an item whose result is there already."""
    prefix = "would be skipped: " if dry_run else ""
    return Outcome(item.slide_id, "skipped", prefix + message, facts)


def planned_outcome(
    item: WorkItem, verb: str, found: Existing[Any], result: str = "", facts: Facts | None = None
) -> Outcome:
    """Outcome, in a dry run, of an item that would be processed.

    Parameters
    ----------
    verb : what the job does, such as "tiled"
    found : what is in the place of the result: nothing, or something stale
    result, facts : what the result would be, for people and for programs
    """
    message = f"would be {describe_redo(verb, found) or verb}"
    if result:
        message += f", {result}" if found.state == "stale" else f": {result}"
    return Outcome(item.slide_id, "planned", message, facts or Facts())


def describe_redo(verb: str, found: Existing[Any]) -> str:
    """Say why a result was made again: "re-tiled: grid.mpp changed from 0.5 to 1.0"."""
    return f"re-{verb}: {found.reason}" if found.state == "stale" else ""


def crashed_outcome(item: WorkItem) -> Outcome:
    """Outcome of an item whose worker process died each time."""
    return Outcome(
        item.slide_id,
        "failed",
        f"{item.slide_id}: its worker process died (out of memory, or a crash in a library); "
        "try it alone with --workers 1",
    )


def timed_out_outcome(item: WorkItem, seconds: float) -> Outcome:
    """Outcome of an item that took longer than it may."""
    return Outcome(
        item.slide_id,
        "failed",
        f"{item.slide_id}: took longer than --slide-timeout {seconds:g} s (its disk does not "
        "answer, or it needs more time); its process was ended",
        seconds=seconds,
    )


def _format_traceback(error: Exception, item: WorkItem) -> str:
    """Format a traceback whose messages do not contain the path of the item."""
    lines = traceback.TracebackException.from_exception(error).format()
    redacted = (
        line if line.startswith("  File ") else redact_path(line, item.path, item.slide_id)
        for line in lines
    )
    return "".join(redacted).rstrip()
