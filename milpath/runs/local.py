"""Backends of this machine: this process, or several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess

from milpath.runs.outcome import (
    Item,
    Job,
    Outcome,
    Stop,
    attempt_slide,
    crashed_outcome,
    never_stop,
)


@dataclass(frozen=True)
class Inline:
    """This process."""

    threads: int = 1

    def run(
        self, job: Job[Item], items: Sequence[Item], stop: Stop = never_stop
    ) -> Iterator[Outcome]:
        """Process one item after the other."""
        for item in items:
            if stop():
                return
            yield attempt_slide(job, item)


@dataclass(frozen=True)
class Processes:
    """Processes of this machine; they are spawned, and share nothing."""

    workers: int
    threads: int = 1

    def run(
        self, job: Job[Item], items: Sequence[Item], stop: Stop = never_stop
    ) -> Iterator[Outcome]:
        """Process as many items at a time as there are workers."""
        waiting = deque(items)
        while waiting and not stop():
            # a worker that dies breaks its pool: each item that was in progress is then processed
            # alone, so that the one that kills its worker is the only one that fails
            for retry in (yield from _run_pool(job, waiting, self.workers, stop)):
                if (yield from _run_pool(job, deque([retry]), 1, stop)):
                    yield crashed_outcome(retry)


def _run_pool(
    job: Job[Item], waiting: deque[Item], workers: int, stop: Stop
) -> Generator[Outcome, None, list[Item]]:
    """Process `waiting` until it is empty or a worker dies; return the items then in progress."""
    running: dict[Future[Outcome], Item] = {}
    with (
        _safe_path(),
        ProcessPoolExecutor(
            workers, mp_context=_Spawn(), initializer=_ignore_signals_and_watch_parent
        ) as pool,
    ):
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
        except BrokenProcessPool:  # raised by submit
            pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return list(running.values())


@contextmanager
def _safe_path() -> Iterator[None]:
    """Start child processes that import no modules from the current folder."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONSAFEPATH", None)
        else:
            os.environ["PYTHONSAFEPATH"] = before


class _Worker(SpawnProcess):
    """A process that a pool can end although it ignores SIGTERM."""

    def terminate(self) -> None:
        """End the process; a pool does this with the others when one has died."""
        self.kill()


class _Spawn(SpawnContext):
    """Spawns processes: TensorFlow and OpenSlide do not survive a fork."""

    Process = _Worker


def _ignore_signals_and_watch_parent() -> None:
    """Leave Ctrl-C and SIGTERM to the parent, and exit when the parent has ended."""
    for number in (signal.SIGINT, signal.SIGTERM):  # often sent to all processes of a job
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with_parent, args=[parent], daemon=True).start()


def _exit_with_parent(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
