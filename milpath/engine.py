"""One job over many slides, in this process or in several; one slide's failure is its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
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
    waiting = deque(entries)
    while waiting:
        # a worker that dies takes its pool along: the slides then in hand are each done alone, so
        # that the one that kills its worker is the one that is blamed, and the rest goes on
        for suspect in (yield from _run_pool(job, waiting, workers)):
            if (yield from _run_pool(job, deque([suspect]), 1)):
                yield Outcome(
                    suspect.slide_id,
                    "failed",
                    f"{suspect.slide_id}: its worker process died (out of memory, or a crash in a "
                    "library); try it alone with --workers 1",
                )


def _run_pool(
    job: Job, waiting: deque[SlideEntry], workers: int
) -> Generator[Outcome, None, list[SlideEntry]]:
    """Take slides from `waiting` until none is left or a worker dies; those then in hand."""
    spawn = multiprocessing.get_context("spawn")  # TensorFlow and OpenSlide do not survive a fork
    running: dict[Future[Outcome], SlideEntry] = {}
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_obey_parent) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    future = pool.submit(_attempt, job, waiting[0])
                    running[future] = waiting.popleft()
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    if not isinstance(future.exception(), BrokenProcessPool):
                        del running[future]
                        yield future.result()
                if any(future in running for future in done):
                    break
        except BrokenProcessPool:  # found out on submitting
            pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return list(running.values())


def _obey_parent() -> None:
    """Leave Ctrl-C to the parent, and go when it is gone, however it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=[parent], daemon=True).start()


def _follow(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


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
            f"{entry.slide_id}: unexpected {type(error).__name__}: {' '.join(str(error).split())}",
        )
    return replace(outcome, seconds=round(time.perf_counter() - start, 3))
