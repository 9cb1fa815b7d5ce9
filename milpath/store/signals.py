"""Deferred signals, for code in which an exception must not be raised."""

from __future__ import annotations

import signal
import threading
import time
from _thread import start_new_thread
from collections.abc import Iterator, Set
from contextlib import contextmanager
from types import CodeType, FrameType

_RETRY_SECONDS = 0.01


@contextmanager
def defer_signals(functions: Set[CodeType]) -> Iterator[None]:
    """Run no handler of SIGINT or SIGTERM inside certain functions; run it soon after.

    HDF5 calls Python functions to write. An exception raised in one of them, such as the
    `KeyboardInterrupt` of Ctrl-C, may be lost together with the bytes, or turned into another.

    Parameters
    ----------
    functions : code objects of the functions
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs signal handlers in the main thread only
        return
    main = threading.get_ident()
    before = {
        int(number): handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if callable(handler := signal.getsignal(number))
    }
    deferred: set[int] = set()

    def handle(number: int, frame: FrameType | None) -> None:
        if _is_running(functions, frame):
            deferred.add(number)
            # `threading.Thread` takes locks, unsafe in a signal handler
            start_new_thread(_retry, (main, number, deferred))
        else:
            deferred.discard(number)
            before[number](number, frame)

    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        while deferred:
            signal.raise_signal(deferred.pop())


def _retry(main_thread: int, number: int, deferred: Set[int]) -> None:
    time.sleep(_RETRY_SECONDS)
    if number in deferred:
        # to that thread: a signal to the process may reach another, and interrupt no sleep
        signal.pthread_kill(main_thread, number)


def _is_running(functions: Set[CodeType], frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in functions:
            return True
        frame = frame.f_back
    return False
