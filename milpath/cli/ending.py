"""How Ctrl-C and SIGTERM end a command: once, soon, and with one line, however often they come."""

from __future__ import annotations

import os
import signal
import sys
import time
from _thread import get_ident, start_new_thread
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a command that was ended by Ctrl-C."""
STOPPED = 128 + signal.SIGTERM
"""Exit code of a command that was ended by SIGTERM."""

_MESSAGES = {
    INTERRUPTED: b"milpath: interrupted; the files that were finished are kept\n",
    STOPPED: b"milpath: stopped; the files that were finished are kept\n",
}
_RETRY_SECONDS = 0.01
_END_SECONDS = 10.0
"""Time for a command to end by itself; then its process ends wherever it is."""


class Ending:
    """The end of this process, which the first signal begins and later ones do not disturb."""

    def __init__(self) -> None:
        self._code: int | None = None
        self._forced = False
        self._report_unraisable = sys.unraisablehook

    def handle_signals(self) -> None:
        """Handle Ctrl-C and SIGTERM from now on; a Ctrl-C that is ignored remains ignored."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self.begin)
        signal.signal(signal.SIGTERM, self.begin)
        sys.unraisablehook = self._repeat

    def begin(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first one raises `KeyboardInterrupt` or `SystemExit`."""
        if self._code is not None:
            return
        self._code = 128 + number
        if not self._forced:
            self._forced = True
            with suppress(RuntimeError):  # the process is already ending
                start_new_thread(self._force, (self._code,))  # takes no lock
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        exit_immediately(number, frame)

    @property
    def begun(self) -> bool:
        """Whether a signal has come."""
        return self._code in _MESSAGES

    def finish(self, code: int) -> None:
        """Ignore signals from now on; the exit code is `code` unless a signal came before."""
        if self._code is None:
            self._code = code

    def leave(self) -> NoReturn:
        """End this process; after a signal, whatever threads and libraries still do."""
        code = self._code or 0
        if self.begun:
            _write_and_exit(code)
        sys.exit(code)

    def _force(self, code: int) -> None:
        time.sleep(_END_SECONDS)
        _write_and_exit(code)

    def _interrupt_soon(self, thread: int) -> None:
        time.sleep(_RETRY_SECONDS)
        self._code = None
        signal.pthread_kill(thread, signal.SIGINT)

    def _repeat(self, unraisable: Any) -> None:
        """Repeat a Ctrl-C whose exception came where Python can only ignore it."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt) and self._code == INTERRUPTED:
            with suppress(RuntimeError):
                start_new_thread(self._interrupt_soon, (get_ident(),))
        else:
            self._report_unraisable(unraisable)


def exit_immediately(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM outside a run: exit as on Ctrl-C."""
    sys.exit(STOPPED)


def _write_and_exit(code: int) -> NoReturn:
    """End this process and its child processes, with one line on stderr."""
    if "multiprocessing" in sys.modules:
        import multiprocessing

        for child in multiprocessing.active_children():
            child.kill()
    with suppress(OSError):
        os.write(2, _MESSAGES[code])
    os._exit(code)
