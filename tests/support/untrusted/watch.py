"""Read files in a child process and record how it ends, its time and its memory."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from milpath.errors import MilpathError

MAX_SECONDS = 60.0
"""Wall-clock time after which a process is said to hang."""
_MAX_ADDRESS_SPACE = 24 << 30  # protects the machine from a file that requests more
_STATUS = Path("/proc/self/status")

Read = Callable[[Path], object]
"""Reads a file as milpath does; returns if the file is accepted."""


@dataclass(frozen=True)
class Case:
    """A file to read.

    Attributes
    ----------
    name : unique name of the case
    write : writes files to an empty folder, and returns the path of the one to read
    read : reads it
    accepted : whether milpath should accept it; None if both are right
    words : part of the expected error message
    """

    name: str
    write: Callable[[Path], Path]
    read: Read
    accepted: bool | None = False
    words: str = ""


@dataclass(frozen=True)
class CaseResult:
    """How the reading of a file ended.

    Attributes
    ----------
    name : of the case
    ending : "accepted", "refused", "wrong" (the other of these, or another message), "fault",
        "hang" or "crash"
    message : the error message
    seconds : processor time; wall-clock time if the process was killed
    mib : peak memory above that before the file was read, MiB
    """

    name: str
    ending: str
    message: str
    seconds: float
    mib: float


def watch(
    cases: Iterable[Case], folder: Path, seconds: float = MAX_SECONDS
) -> Iterator[CaseResult]:
    """Read each file in turn; a child process that hangs or crashes is replaced."""
    child: _Child | None = None
    for number, case in enumerate(cases):
        case_folder = folder / str(number)
        case_folder.mkdir()
        path = case.write(case_folder)
        child = child or _Child()
        result = child.read(case, path, seconds)
        if result.ending in ("hang", "crash"):
            child.end()
            child = None
        yield result
    if child is not None:
        child.end()


class _Child:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end,), daemon=True)
        self._process.start()
        other_end.close()

    def read(self, case: Case, path: Path, seconds: float) -> CaseResult:
        self._connection.send((case.read, None))
        self._connection.recv()  # it has imported the modules
        self._connection.send((case.read, path))
        started = time.monotonic()
        if not self._connection.poll(seconds):
            return CaseResult(case.name, "hang", f"not finished in {seconds:g} s", seconds, 0.0)
        try:
            ending, message, spent, mib = self._connection.recv()
        except EOFError:
            self._process.join()
            message = f"exit {self._process.exitcode}"
            return CaseResult(case.name, "crash", message, time.monotonic() - started, 0.0)
        return CaseResult(case.name, _classify(case, ending, message, path), message, spent, mib)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def _classify(case: Case, ending: str, message: str, path: Path) -> str:
    if ending == "fault":
        return ending
    expected = case.accepted is None or case.accepted == (ending == "accepted")
    if not expected:
        return "wrong"
    if ending == "refused":
        one_line = not any(text in message for text in ("\n", "\x1b", str(path.parent)))
        if not one_line or case.words not in message:
            return "wrong"
    return ending


def _serve(connection: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESS_SPACE, _MAX_ADDRESS_SPACE))
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            read, path = connection.recv()
            connection.send(None if path is None else _measure(read, path))


def _measure(read: Read, path: Path) -> tuple[str, str, float, float]:
    before = _reset_peak()
    started = time.process_time()
    ending, message = "accepted", ""
    try:
        read(path)
    except MilpathError as error:
        ending, message = "refused", str(error)
    except BaseException as error:
        ending, message = "fault", f"{type(error).__name__}: {error} {_where(error)}"
    spent = time.process_time() - started
    return ending, message, spent, max(0.0, _kib("VmHWM") - before) / 1024


def _where(error: BaseException) -> str:
    trace: Any = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"


def _reset_peak() -> float:
    """Reset the process's peak memory; return its present memory, KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _kib("VmRSS")


def _kib(name: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return float(line.split()[1])
