"""Deferred signals, for code in which an exception must not be raised."""

from __future__ import annotations

import os
import signal
import threading
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
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        if _is_running(functions, frame):
            threading.Timer(_RETRY_SECONDS, os.kill, (os.getpid(), number)).start()
        elif callable(handler := before[signal.Signals(number)]):
            handler(number, frame)

    ours = [number for number, handler in before.items() if callable(handler)]
    try:
        for number in ours:
            signal.signal(number, handle)
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _is_running(functions: Set[CodeType], frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in functions:
            return True
        frame = frame.f_back
    return False
