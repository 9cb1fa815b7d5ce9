"""The slides on this machine: one after the other, or in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from milpath.cohort import SlideEntry
from milpath.engine.outcome import Job, Outcome, attempt_slide, blame_slide


@dataclass(frozen=True)
class Inline:
    """This very process."""

    threads: int = 1

    def run(self, job: Job, entries: Sequence[SlideEntry]) -> Iterator[Outcome]:
        """One slide after the other."""
        for entry in entries:
            yield attempt_slide(job, entry)


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, started afresh: nothing is shared, so nothing is forked."""

    workers: int
    threads: int = 1

    def run(self, job: Job, entries: Sequence[SlideEntry]) -> Iterator[Outcome]:
        """As many slides at a time as there are workers."""
        waiting = deque(entries)
        while waiting:
            # a worker that dies takes its pool along: the slides then in hand are each done alone,
            # so that the one that kills its worker is the one that is blamed, and the rest goes on
            for suspect in (yield from _run_pool(job, waiting, self.workers)):
                if (yield from _run_pool(job, deque([suspect]), 1)):
                    yield blame_slide(suspect)


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
                    future = pool.submit(attempt_slide, job, waiting[0])
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
