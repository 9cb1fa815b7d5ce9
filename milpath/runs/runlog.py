"""Run log: what a run did, one JSON object per line, and the table made from all run logs.

A run writes a file of its own, `runlog/<start>-<pid>.jsonl` in its folder of results: a start
(command, parameters, milpath's version), the outcome of every slide, an end. A killed run has no
end. No path, user or machine is written. Where the run log cannot be written, the run logs a
warning and continues: results matter more than their record.

A run holds a lock on its file, which the system releases when the process ends, however it ends.
`read_runlogs` tells by it whether a run without an end is still running.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from milpath.cohort.workitem import WorkItem
from milpath.errors import StoredFileError
from milpath.formats.layout import runlog_folder
from milpath.runs.outcome import Outcome, UnexpectedError
from milpath.store import fingerprint
from milpath.store.temporary import host_tag, take_lock
from milpath.version import __version__

log = logging.getLogger(__name__)

State = Literal["finished", "running", "killed", "unknown"]
"""`finished` runs wrote their end, also where they were interrupted or stopped by an error;
`killed` ones ended without it; `unknown`: no end, and no lock that could be tested from here (a
file system without locks, or another machine)."""

_TAG_DIGITS = 8


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True)
    time: str
    """ISO 8601, UTC."""


class StartLine(_Line):
    """First line of a run."""

    event: Literal["start"] = "start"
    command: str
    milpath: str
    """Version."""
    params: Mapping[str, Any] = Field(default_factory=dict)
    slides: int = 0
    """To be processed."""
    lock: str | None = None
    """Shows the machine of the run that its lock can be tested; None where there is no lock."""


class SlideLine(_Line):
    """Outcome of a slide."""

    event: Literal["slide"] = "slide"
    slide: str
    status: str
    message: str
    seconds: float = 0.0


class EndLine(_Line):
    """Last line of a run."""

    event: Literal["end"] = "end"
    how: str


Line: TypeAlias = StartLine | SlideLine | EndLine
_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="event")])


# -- writing -------------------------------------------------------------------------------------


class RunLog:
    """The open run log of this run."""

    def __init__(self, out: Path) -> None:
        self.how = "done"
        """How the run ends, unless an error ends it."""
        self.path: Path | None = None
        """Its file, absolute; None when it could not be created."""
        self._number: int | None = None
        self._locked = False
        self._failed = False
        try:
            self.path, self._number = _create(runlog_folder(out.absolute()))
        except OSError as error:
            self._give_up(error)
        else:
            self._locked = take_lock(self._number) is True

    def start(self, command: str, params: Mapping[str, Any], slides: int) -> None:
        """Write the first line."""
        time = _now()
        lock = _tag(self.path, time) if self._locked and self.path is not None else None
        self._write(
            StartLine(
                time=time,
                command=command,
                milpath=__version__,
                params=params,
                slides=slides,
                lock=lock,
            )
        )

    def note(self, outcome: Outcome, item: WorkItem) -> None:
        """Write the outcome of a slide, which is named by its id alone."""
        message = outcome.message
        if isinstance(outcome.facts, UnexpectedError):  # its text may contain anything
            message = f"{outcome.slide_id}: unexpected {outcome.facts.unexpected}"
        for name in (str(item.path), item.path.name):
            message = message.replace(name, outcome.slide_id)
        self._write(
            SlideLine(
                time=_now(),
                slide=outcome.slide_id,
                status=outcome.status,
                message=message,
                seconds=outcome.seconds,
            )
        )

    def close(self) -> None:
        """Write the last line, and release the lock."""
        self._write(EndLine(time=_now(), how=self.how))
        if self._number is not None:
            os.close(self._number)
            self._number = None

    def _write(self, line: Line) -> None:
        """Write a line, whole or not at all; without effect once that has failed."""
        if self._number is None or self._failed:
            return
        try:
            text = json.dumps(line.model_dump(mode="json"), ensure_ascii=False) + "\n"
            data = text.encode("utf-8", "replace")
            if os.write(self._number, data) < len(data):
                raise OSError("only part of a line was written")
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Write no more; the file stays open, since its lock shows that the run is alive."""
        self._failed = True
        log.warning(
            "the run log cannot be written (%s); the run continues without it",
            error.strerror or error,
        )


@contextmanager
def open_runlog(
    out: Path, command: str, params: Mapping[str, Any], slides: int
) -> Iterator[RunLog]:
    """Write the start of a run, and at the end of the block how it ended."""
    runlog = RunLog(out)
    runlog.start(command, params, slides)
    try:
        yield runlog
    except BaseException as error:
        runlog.how = f"ended by {type(error).__name__}"
        raise
    finally:
        runlog.close()


# -- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunRecord:
    """One run, read from its run log.

    Attributes
    ----------
    start : its first line
    slides : the outcomes so far
    state : whether it is finished, running, or was killed
    how : how it ended, such as "done" or "ended by OutputError"; None without an end
    """

    start: StartLine
    slides: tuple[SlideLine, ...] = ()
    state: State = "unknown"
    how: str | None = None

    @property
    def total(self) -> int:
        """Slides that the run was to process."""
        return self.start.slides

    @property
    def done(self) -> int:
        """Slides that have an outcome, whichever."""
        return len(self.slides)

    def count(self) -> dict[str, int]:
        """Count the slides by status."""
        return dict(Counter(slide.status for slide in self.slides))


def read_runlogs(out: Path) -> list[RunRecord]:
    """Read every run log of a folder of results, in the order of the runs' starts.

    Lines that are damaged, such as the last one of a killed run, are ignored.

    Raises
    ------
    StoredFileError : there is no run log
    """
    found = (_read_run(path) for path in sorted(runlog_folder(out).glob("*.jsonl")))
    runs = [run for run in found if run is not None]
    if not runs:
        folder = runlog_folder(out).name
        raise StoredFileError(f"{out}: contains no run log ({folder}/*.jsonl)")
    return sorted(runs, key=lambda run: run.start.time)


@dataclass(frozen=True)
class SlideRow:
    """What a command did with a slide, over all runs."""

    command: str
    slide: str
    status: str
    message: str
    time: str
    runs: int


def tabulate_slides(runs: Sequence[RunRecord]) -> list[SlideRow]:
    """Return the latest outcome of every slide over all runs, one row per command and slide.

    A slide that was skipped because it was already done keeps the outcome it had then.
    """
    rows: dict[tuple[str, str], SlideRow] = {}
    for run in runs:
        for line in run.slides:
            key = (run.start.command, line.slide)
            known = rows.get(key)
            if known and line.status == "skipped" and known.status != "failed":
                status, message, time = known.status, known.message, known.time
            else:
                status, message, time = line.status, line.message, line.time
            rows[key] = SlideRow(*key, status, message, time, (known.runs if known else 0) + 1)
    return list(rows.values())


def _read_run(path: Path) -> RunRecord | None:
    """Read one run log; None where it has no start."""
    run = _parse_run(path, "unknown")
    if run is None or run.state == "finished":
        return run
    held = _is_held(path)
    if held:
        return _parse_run(path, "running")
    trusted = run.start.lock is not None and run.start.lock == _tag(path, run.start.time)
    # read again: the run may have ended since
    return _parse_run(path, "killed" if held is False and trusted else "unknown")


def _parse_run(path: Path, without_end: State) -> RunRecord | None:
    lines = list(_read_lines(path))
    start = next((line for line in lines if isinstance(line, StartLine)), None)
    if start is None:
        return None
    slides = tuple(line for line in lines if isinstance(line, SlideLine))
    how = next((line.how for line in reversed(lines) if isinstance(line, EndLine)), None)
    return RunRecord(start, slides, without_end if how is None else "finished", how)


def _read_lines(path: Path) -> Iterator[Line]:
    try:
        data = path.read_bytes()
    except OSError:
        return
    for line in data.split(b"\n"):
        try:
            yield _LINE.validate_json(line)
        except ValidationError:
            continue


def _is_held(path: Path) -> bool | None:
    """Whether a process holds the lock on a run log; None where that cannot be known."""
    try:
        number = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    except OSError:
        return None
    try:
        taken = take_lock(number)
    finally:
        os.close(number)
    return None if taken is None else not taken


def _tag(path: Path, time: str) -> str | None:
    """Digest by which a machine recognizes a run of its own since its last start.

    It tells nothing to other machines, nor that two runs were on the same one.
    """
    try:
        host = host_tag(path.parent)
    except OSError:
        return None
    return fingerprint(host, time)[:_TAG_DIGITS] if host else None


def _create(folder: Path) -> tuple[Path, int]:
    """Create a file that no other run has, on any machine."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
    for number in count(1):
        path = folder / (f"{stem}.jsonl" if number == 1 else f"{stem}-{number}.jsonl")
        try:
            return path, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
    raise AssertionError("numbers do not end")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
