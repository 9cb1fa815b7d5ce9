"""Child: a process of this machine that processes one item at a time, and can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic

from milpath.runs.outcome import Item, Job, Outcome, attempt_slide
from milpath.store.signals import defer_signals

_END_SECONDS = 5.0
"""Killed processes are waited for this long; one that waits for a dead disk ends later."""


@dataclass(frozen=True)
class Died:
    """The process ended without an outcome."""


@dataclass(frozen=True)
class TimedOut:
    """The item took too long, and the process was killed."""

    seconds: float
    """The limit."""


@dataclass(frozen=True)
class _Started:
    """Sent by a process when it starts on an item: from then on, time counts."""


class Child(Generic[Item]):
    """A process that starts with its first item; it imports nothing from the current folder."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.item: Item
        self._deadline: float | None = None
        self._process: BaseProcess | None = None
        self._connection: Connection

    def begin(self, job: Job[Item], item: Item) -> None:
        """Send it an item; raise what pickling raises for a job that cannot be sent."""
        self.item = item
        if self._process is None:
            with defer_signals({_start.__code__}):  # a process half started would end with errors
                _start(self)
        with suppress(OSError):  # it died while it waited, which `receive` finds
            self._connection.send((job, item))

    def receive(self) -> Outcome | Died | TimedOut | None:
        """Return how its item ended, None if it is in progress; raise what the item raised."""
        assert self._process is not None
        alive = self._process.is_alive()
        if not self._connection.poll():
            if alive and self.seconds_left() > 0:
                return None
            self.kill()
            return Died() if self.timeout is None or not alive else TimedOut(self.timeout)
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            self.kill()
            return Died()
        if isinstance(message, _Started):
            self._deadline = None if self.timeout is None else time.monotonic() + self.timeout
            return None
        self._deadline = None
        if isinstance(message, BaseException):
            raise message
        outcome: Outcome = message
        return outcome

    def seconds_left(self) -> float:
        """Return the time until its item has taken too long; infinite without a limit."""
        return float("inf") if self._deadline is None else self._deadline - time.monotonic()

    def kill(self) -> None:
        """Kill the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._connection.close()

    def join(self, seconds: float) -> None:
        """Wait until the process has ended."""
        if self._process is not None:
            self._process.join(seconds)

    @property
    def _events(self) -> list[Any]:
        """What `wait` can wait for: a message of the process, and its end."""
        assert self._process is not None
        return [self._connection, self._process.sentinel]


def wait_for_children(busy: Sequence[Child[Item]]) -> list[Child[Item]]:
    """Wait for messages, ends and time limits; return the children that may have one."""
    seconds = min(child.seconds_left() for child in busy)
    events = [event for child in busy for event in child._events]
    ready = wait(events, None if seconds == float("inf") else max(0.0, seconds))
    return [
        child
        for child in busy
        if child.seconds_left() <= 0 or any(event in ready for event in child._events)
    ]


def end_children(children: Sequence[Child[Item]]) -> None:
    """Kill the processes, and wait until they have ended."""
    for child in children:
        child.kill()
    end = time.monotonic() + _END_SECONDS
    for child in children:
        child.join(max(0.0, end - time.monotonic()))


def _start(child: Child[Any]) -> None:
    """Start the process of a child."""
    context = multiprocessing.get_context("spawn")  # TensorFlow and OpenSlide survive no fork
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    with theirs, _safe_path(), _blocked_signals():
        process.start()
    child._process, child._connection = process, ours


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


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Start child processes that leave Ctrl-C and SIGTERM to this one, from their first moment.

    Both are often sent to all processes of a job.
    """
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # which unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- in the process ------------------------------------------------------------------------------


def _serve(connection: Connection) -> None:
    """Process the items that come, until the parent has ended."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with_parent, args=[parent], daemon=True).start()
    while True:
        try:
            job, item = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        except Exception as error:  # the parent raises it again
            connection.send(error)
            continue
        connection.send(_Started())
        try:
            connection.send(attempt_slide(job, item))
        except Exception as error:
            connection.send(error)


def _exit_with_parent(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
