"""Files are treated in a process of its own, which is watched: how it ends, how long, how much."""

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

MOST_SECONDS = 60.0
"""By the clock, after which a process hangs; others may be at work too."""
_ADDRESS_SPACE = 24 << 30  # what a bomb may reserve before the system's own memory is in danger
_STATUS = Path("/proc/self/status")

Treat = Callable[[Path], object]
"""All that milpath does with a file; returns when it is content."""


@dataclass(frozen=True)
class Case:
    """A file to be treated."""

    name: str
    write: Callable[[Path], Path]
    """Into an empty folder; which file of it is treated."""
    treat: Treat
    accepted: bool | None = False
    """Whether milpath is to be content with it; None where both are right."""
    words: str = ""
    """That a refusal must hold."""


@dataclass(frozen=True)
class Verdict:
    """How the treatment of a file ended."""

    name: str
    ending: str
    """accepted, refused, wrong (the other of them, or without its words), fault, hang, crash"""
    said: str
    seconds: float
    """Of the processor, so that what else a machine does makes no difference; of the clock, where
    the process had to be ended."""
    mib: float
    """Memory taken above what the process held before."""


def watch(cases: Iterable[Case], folder: Path, seconds: float = MOST_SECONDS) -> Iterator[Verdict]:
    """Treat file after file; a child that hangs or dies is replaced."""
    child: _Child | None = None
    for number, case in enumerate(cases):
        place = folder / str(number)
        place.mkdir()
        path = case.write(place)
        child = child or _Child()
        verdict = child.treat(case, path, seconds)
        if verdict.ending in ("hang", "crash"):
            child.end()
            child = None
        yield verdict
    if child is not None:
        child.end()


class _Child:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def treat(self, case: Case, path: Path, seconds: float) -> Verdict:
        self._line.send((case.treat, None))
        self._line.recv()  # its modules are there
        self._line.send((case.treat, path))
        begun = time.monotonic()
        if not self._line.poll(seconds):
            return Verdict(case.name, "hang", f"no end in {seconds:g} s", seconds, 0.0)
        try:
            ending, said, took, mib = self._line.recv()
        except EOFError:
            self._process.join()
            said = f"exit {self._process.exitcode}"
            return Verdict(case.name, "crash", said, time.monotonic() - begun, 0.0)
        return Verdict(case.name, _judge(case, ending, said, path), said, took, mib)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._line.close()


def _judge(case: Case, ending: str, said: str, path: Path) -> str:
    if ending == "fault":
        return ending
    expected = case.accepted is None or case.accepted == (ending == "accepted")
    if not expected:
        return "wrong"
    if ending == "refused":
        one_line = "\n" not in said and "\x1b" not in said and str(path.parent) not in said
        if not one_line or case.words not in said:
            return "wrong"
    return ending


def _serve(line: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            treat, path = line.recv()
            line.send(None if path is None else _treated(treat, path))


def _treated(treat: Treat, path: Path) -> tuple[str, str, float, float]:
    before = _forget_peak()
    begun = time.process_time()
    ending, said = "accepted", ""
    try:
        treat(path)
    except MilpathError as error:
        ending, said = "refused", str(error)
    except BaseException as error:
        ending, said = "fault", f"{type(error).__name__}: {error} {_where(error)}"
    took = time.process_time() - begun
    return ending, said, took, max(0.0, _kib("VmHWM") - before) / 1024


def _where(error: BaseException) -> str:
    trace: Any = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"


def _forget_peak() -> float:
    """Let the kernel count the peak anew; what is held now, KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _kib("VmRSS")


def _kib(name: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return float(line.split()[1])
