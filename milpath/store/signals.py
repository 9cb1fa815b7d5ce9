"""Ctrl-C and SIGTERM are kept out of code that cannot bear an exception."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager
from types import CodeType, FrameType

_AGAIN_SECONDS = 0.01


@contextmanager
def defer_signals(fragile: Set[CodeType]) -> Iterator[None]:
    """Let no signal's handler run while one of some functions does; it runs soon after.

    HDF5 calls Python to write. An exception that comes up there, as Ctrl-C's does anywhere, may be
    lost together with the bytes, or turned into another.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread alone
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        if _runs(fragile, frame):
            threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()
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


def _runs(fragile: Set[CodeType], frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in fragile:
            return True
        frame = frame.f_back
    return False
