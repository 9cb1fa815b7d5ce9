"""What became of one slide, and an attempt at one whose errors are its own."""

from __future__ import annotations

import gc
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal, Protocol

from milpath.cohort.cohort import SlideEntry
from milpath.errors import MilpathError, OutputError, UsageError
from milpath.slides.redaction import redact_path

log = logging.getLogger(__name__)

Status = Literal["ok", "no_tissue", "skipped", "failed", "planned"]
"""`planned` is what a dry run says of a slide that would be done."""


@dataclass(frozen=True)
class Outcome:
    """What became of one slide."""

    slide_id: str
    status: Status
    message: str
    """One line for people."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For programs: numbers and names that can be JSON."""
    seconds: float = 0.0


# Python looks for circles of objects the more seldom the more there is, and a network has loaded a
# million: hundreds of slides' leavings would wait. A look takes a fifth of a second.
_SWEEP_EVERY = 16
_attempts = count(1)

Job = Callable[[SlideEntry], Outcome]

Stop = Callable[[], bool]
"""Whether no further slide is to be begun; those in hand are finished."""


def never_stop() -> bool:
    """The `Stop` of a run that nobody stops."""
    return False


class Backend(Protocol):
    """Where the slides are done."""

    @property
    def threads(self) -> int:
        """Threads that the work on one slide may use there."""

    def run(
        self, job: Job, entries: Sequence[SlideEntry], stop: Stop = never_stop
    ) -> Iterator[Outcome]:
        """Do `job` for every slide; see `milpath.runs.run_job`."""


def attempt_slide(job: Job, entry: SlideEntry) -> Outcome:
    """Do one slide; whatever goes wrong with it is its outcome.

    Raises
    ------
    OutputError, UsageError : what no other slide would change
    """
    start = time.perf_counter()
    try:
        outcome = job(entry)
    except (OutputError, UsageError):
        raise
    except MilpathError as error:
        outcome = Outcome(entry.slide_id, "failed", str(error))
    except Exception as error:  # an unattended run goes on with the other slides
        said = redact_path(str(error), entry.path, entry.slide_id)
        log.error("unexpected error on %s\n%s", entry.slide_id, _trace(error, entry))
        outcome = Outcome(
            entry.slide_id,
            "failed",
            f"{entry.slide_id}: unexpected {type(error).__name__}: {' '.join(said.split())}",
            {"unexpected": type(error).__name__},
        )
    if next(_attempts) % _SWEEP_EVERY == 0:
        gc.collect()
    return replace(outcome, seconds=round(time.perf_counter() - start, 3))


def plan_outcome(entry: SlideEntry, found: Outcome | str | None) -> Outcome:
    """What a dry run says of a slide.

    Parameters
    ----------
    found : the outcome of what is there already, why that will not do, or None
    """
    if isinstance(found, Outcome):
        return replace(found, message=f"would be skipped: {found.message}")
    said = "would be done" if found is None else f"would be made anew: {found}"
    return Outcome(entry.slide_id, "planned", said)


def crashed_outcome(entry: SlideEntry) -> Outcome:
    """The outcome of a slide that kills whichever process works on it."""
    return Outcome(
        entry.slide_id,
        "failed",
        f"{entry.slide_id}: its worker process died (out of memory, or a crash in a library); "
        "try it alone with --workers 1",
    )


def _trace(error: Exception, entry: SlideEntry) -> str:
    """A traceback whose messages do not say where the slide lies."""
    lines = traceback.TracebackException.from_exception(error).format()
    told = (
        line if line.startswith("  File ") else redact_path(line, entry.path, entry.slide_id)
        for line in lines
    )
    return "".join(told).rstrip()
