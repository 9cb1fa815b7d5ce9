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
    main = threading.main_thread().ident
    assert main is not None
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    deferred: set[int] = set()

    def retry(number: int) -> None:
        time.sleep(_RETRY_SECONDS)
        if number in deferred:
            # to the main thread: a signal to the process may reach another, and wake no sleep here
            signal.pthread_kill(main, number)

    def handle(number: int, frame: FrameType | None) -> None:
        if _is_running(functions, frame):
            deferred.add(number)
            start_new_thread(retry, (number,))  # `Thread` takes locks, unsafe in a signal handler
        else:
            deferred.discard(number)
            if callable(handler := before[signal.Signals(number)]):
                handler(number, frame)

    ours = [number for number, handler in before.items() if callable(handler)]
    try:
        for number in ours:
            signal.signal(number, handle)
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
        while deferred:
            signal.raise_signal(deferred.pop())


def _is_running(functions: Set[CodeType], frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in functions:
            return True
        frame = frame.f_back
    return False
