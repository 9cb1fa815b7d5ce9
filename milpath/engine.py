"""One job over many slides, in this process or in several; one slide's failure is its own."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from milpath.cohort import SlideEntry
from milpath.errors import MilpathError, OutputError

log = logging.getLogger(__name__)

Status = Literal["ok", "no_tissue", "skipped", "failed"]


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


Job = Callable[[SlideEntry], Outcome]


def run_job(job: Job, entries: Sequence[SlideEntry], workers: int = 1) -> Iterator[Outcome]:
    """Do `job` for every slide and give the outcomes as they come.

    Parameters
    ----------
    job : called once a slide; with more than one worker it must be picklable
    entries : the slides
    workers : processes; 1 stays in this one

    Raises
    ------
    OutputError : results cannot be written, which no further slide would change
    """
    if workers <= 1 or len(entries) <= 1:
        for entry in entries:
            yield _attempt(job, entry)
        return
    left = dict(enumerate(entries))
    while left:
        # a worker that dies takes its pool along: start another, and do each slide alone then,
        # so that the one that kills its worker is the one that is blamed
        yield from _run_pool(job, left, workers)
        if left:
            for place, entry in list(left.items()):
                yield from _run_pool(job, {place: entry}, 1, blame=True)
                del left[place]


def _run_pool(
    job: Job, left: dict[int, SlideEntry], workers: int, blame: bool = False
) -> Iterator[Outcome]:
    """Run what is `left`, striking off what is done; on a dead worker stop, or blame its slide."""
    spawn = multiprocessing.get_context("spawn")  # TensorFlow and OpenSlide do not survive a fork
    with ProcessPoolExecutor(min(workers, len(left)), mp_context=spawn) as pool:
        places: dict[Future[Outcome], int] = {
            pool.submit(_attempt, job, entry): place for place, entry in left.items()
        }
        try:
            for future in as_completed(places):
                outcome = future.result()
                if not blame:
                    del left[places[future]]
                yield outcome
        except BrokenProcessPool:
            if blame:
                (entry,) = left.values()
                yield Outcome(
                    entry.slide_id,
                    "failed",
                    f"{entry.slide_id}: its worker process died (out of memory, or a crash in a "
                    "library); try it alone with --workers 1",
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _attempt(job: Job, entry: SlideEntry) -> Outcome:
    start = time.perf_counter()
    try:
        outcome = job(entry)
    except OutputError:
        raise
    except MilpathError as error:
        outcome = Outcome(entry.slide_id, "failed", str(error))
    except Exception as error:  # an unattended run goes on with the other slides
        log.exception("unexpected error on %s", entry.slide_id)
        outcome = Outcome(
            entry.slide_id,
            "failed",
            f"{entry.slide_id}: unexpected {type(error).__name__}: {error}",
        )
    return replace(outcome, seconds=round(time.perf_counter() - start, 3))
