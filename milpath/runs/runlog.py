"""RunLog: what a run did, a JSON object a line, and the table of all runs that is made from it.

A run adds lines to a file of its own, `runlog/<start>-<pid>.jsonl` in its folder of results: a
start (command, parameters, milpath's version), every slide's outcome, an end. There is no end where
a run was killed, and no path, user or machine anywhere. A runlog that cannot be written costs a
warning, never the run: results matter more than their record.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from milpath import __version__
from milpath.cohort.cohort import SlideEntry
from milpath.errors import StoredFileError
from milpath.runs import Outcome

log = logging.getLogger(__name__)

FOLDER = "runlog"


class RunLog:
    """The open runlog of this run; `write` adds a line."""

    def __init__(self, out: Path) -> None:
        self.how = "done"
        """How the run ends, unless an error ends it."""
        self.path: Path | None = None
        """Its file, absolute; None when it could not be made."""
        self._number: int | None = None
        try:
            self.path, self._number = _create(out.absolute() / FOLDER)
        except OSError as error:
            self._give_up(error)

    def write(self, event: str, **values: Any) -> None:
        """Add a line, whole or not at all; without effect once that has failed."""
        if self._number is None:
            return
        line = json.dumps({"event": event, "time": _now(), **values}, ensure_ascii=False) + "\n"
        try:
            data = line.encode()
            if os.write(self._number, data) < len(data):
                raise OSError("only part of a line was taken")
        except OSError as error:
            self._give_up(error)

    def note(self, outcome: Outcome, entry: SlideEntry) -> None:
        """Add what became of a slide, which is called by its id alone."""
        message = outcome.message
        if (kind := outcome.facts.get("unexpected")) is not None:
            message = f"{outcome.slide_id}: unexpected {kind}"  # its text may hold anything
        for name in (str(entry.path), entry.path.name):
            message = message.replace(name, outcome.slide_id)
        self.write(
            "slide",
            slide=outcome.slide_id,
            status=outcome.status,
            message=message,
            seconds=outcome.seconds,
        )

    def close(self) -> None:
        """Add the end."""
        self.write("end", how=self.how)
        if self._number is not None:
            os.close(self._number)
            self._number = None

    def _give_up(self, error: OSError) -> None:
        log.warning(
            "the runlog cannot be written (%s); the run goes on without",
            error.strerror or error,
        )
        if self._number is not None:
            os.close(self._number)
            self._number = None


@contextmanager
def open_runlog(
    out: Path, command: str, params: Mapping[str, Any], slides: int
) -> Iterator[RunLog]:
    """A runlog that holds its start, and at the end of the block how that ended."""
    runlog = RunLog(out)
    runlog.write("start", command=command, milpath=__version__, params=params, slides=slides)
    try:
        yield runlog
    except BaseException as error:
        runlog.how = f"ended by {type(error).__name__}"
        raise
    finally:
        runlog.close()


@dataclass(frozen=True)
class RunRecord:
    """One run, read back from its runlog."""

    start: Mapping[str, Any]
    slides: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    how: str = "no end: killed, or still at work"

    def count(self) -> dict[str, int]:
        """How many slides came to each status."""
        found: dict[str, int] = {}
        for slide in self.slides:
            found[slide["status"]] = found.get(slide["status"], 0) + 1
        return found


def read_runlogs(out: Path) -> list[RunRecord]:
    """Every run that left a runlog in a folder of results, in the order of their starts.

    Lines that are no such record, as the last one of a run that was killed may be, are passed over.

    Raises
    ------
    StoredFileError : there is no runlog
    """
    runs = []
    for path in sorted((out / FOLDER).glob("*.jsonl")):
        lines = list(_read_lines(path))
        starts = [line for line in lines if line["event"] == "start"]
        if starts:
            slides = tuple(line for line in lines if line["event"] == "slide")
            ends = [str(line["how"]) for line in lines if line["event"] == "end"]
            runs.append(RunRecord(starts[0], slides, *ends[-1:]))
    if not runs:
        raise StoredFileError(f"{out}: holds no runlog of a run ({FOLDER}/*.jsonl)")
    return sorted(runs, key=lambda run: str(run.start["time"]))


def tabulate_slides(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """What became of every slide over all runs: a row for each command and slide.

    A slide that was skipped, since it was done before, keeps what was said when it was done.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs:
        for line in run.slides:
            key = (str(run.start["command"]), str(line["slide"]))
            known = rows.get(key)
            tries = (known["runs"] if known else 0) + 1
            if known is None or line["status"] != "skipped" or known["status"] == "failed":
                known = {
                    "command": key[0],
                    "slide": key[1],
                    "status": line["status"],
                    "message": line["message"],
                    "time": line["time"],
                }
            rows[key] = known | {"runs": tries}
    return list(rows.values())


_FIELDS = {
    "start": {"command": str, "time": str, "milpath": str},
    "slide": {"slide": str, "status": str, "message": str, "time": str},
    "end": {"how": str},
}


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            found = json.loads(line)
            fields = _FIELDS[found["event"]]
            sound = all(isinstance(found[name], kind) for name, kind in fields.items())
        except (ValueError, TypeError, LookupError, RecursionError):
            continue
        if sound:
            yield found


def _create(folder: Path) -> tuple[Path, int]:
    """A new file that no other run has, on whichever machine."""
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
