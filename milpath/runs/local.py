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
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess

from milpath.cohort.cohort import SlideEntry
from milpath.runs.outcome import Job, Outcome, Stop, attempt_slide, crashed_outcome, never_stop


@dataclass(frozen=True)
class Inline:
    """This very process."""

    threads: int = 1

    def run(
        self, job: Job, entries: Sequence[SlideEntry], stop: Stop = never_stop
    ) -> Iterator[Outcome]:
        """One slide after the other."""
        for entry in entries:
            if stop():
                return
            yield attempt_slide(job, entry)


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, started afresh: nothing is shared, so nothing is forked."""

    workers: int
    threads: int = 1

    def run(
        self, job: Job, entries: Sequence[SlideEntry], stop: Stop = never_stop
    ) -> Iterator[Outcome]:
        """As many slides at a time as there are workers."""
        waiting = deque(entries)
        while waiting and not stop():
            # a worker that dies takes its pool along: the slides then in hand are each done alone,
            # so that the one that kills its worker is the one that is blamed, and the rest goes on
            for retry in (yield from _run_pool(job, waiting, self.workers, stop)):
                if (yield from _run_pool(job, deque([retry]), 1, stop)):
                    yield crashed_outcome(retry)


def _run_pool(
    job: Job, waiting: deque[SlideEntry], workers: int, stop: Stop
) -> Generator[Outcome, None, list[SlideEntry]]:
    """Take slides from `waiting` until none is left or a worker dies; those then in hand."""
    running: dict[Future[Outcome], SlideEntry] = {}
    with ProcessPoolExecutor(
        workers, mp_context=_Spawn(), initializer=_ignore_signals_and_watch_parent
    ) as pool:
        try:
            while running or (waiting and not stop()):
                while waiting and len(running) < workers and not stop():
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


class _Worker(SpawnProcess):
    """A process that a pool can end though it does not heed SIGTERM."""

    def terminate(self) -> None:
        """As the pool does with those that are left when one has died."""
        self.kill()


class _Spawn(SpawnContext):
    """Starts processes afresh: TensorFlow and OpenSlide do not survive a fork."""

    Process = _Worker


def _ignore_signals_and_watch_parent() -> None:
    """Leave Ctrl-C and SIGTERM to the parent, and go when it is gone, however it went."""
    for number in (signal.SIGINT, signal.SIGTERM):  # which may be sent to all processes of a job
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with_parent, args=[parent], daemon=True).start()


def _exit_with_parent(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
