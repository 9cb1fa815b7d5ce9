"""A Dask cluster on this machine, and jobs that its workers can import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milpath.cohort.workitem import WorkItem
from milpath.errors import OutputError, SlideReadError
from milpath.runs import Facts, Outcome


class Farm:
    """A scheduler and its workers: processes of the `dask` command."""

    def __init__(self, folder: Path, security: Sequence[str] = ()) -> None:
        self.folder = folder
        self.security = security
        self.file = folder / "scheduler.json"
        self._started: list[subprocess.Popen[bytes]] = []
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        options += ["--scheduler-file", str(self.file), *security]
        self.scheduler = self._start("scheduler", *options)
        wait_for(self.file.exists)

    def add_worker(self) -> None:
        """Start a worker, under a nanny that replaces it when it dies."""
        place = ["--scheduler-file", str(self.file), "--local-directory", str(self.folder)]
        common = ["--nthreads", "1", "--no-dashboard", "--memory-limit", "0"]
        self._start("worker", *place, *common, *self.security)

    def stop(self) -> None:
        """End every process, and the processes they have started."""
        for process in reversed(self._started):
            process.terminate()
        for process in reversed(self._started):
            with suppress(subprocess.TimeoutExpired):  # a nanny waits for its scheduler
                process.wait(5)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{words[0]}-{len(self._started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *words],
                env={**os.environ, "PYTHONPATH": python_path()},
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process


@contextmanager
def open_farm(folder: Path, workers: int) -> Iterator[Farm]:
    """Start a cluster, and wait for its workers."""
    from distributed import Client

    farm = Farm(folder)
    try:
        for _ in range(workers):
            farm.add_worker()
        with Client(scheduler_file=str(farm.file), set_as_default=False) as client:
            client.wait_for_workers(workers)
        yield farm
    finally:
        farm.stop()


def python_path() -> str:
    """Return the module search path with which processes find this module, and milpath."""
    tests = str(Path(__file__).parents[1])
    return os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))


def wait_for(event: Callable[[], object]) -> None:
    """Wait until an event has happened; a wait without end is ended by pytest's timeout."""
    while not event():
        time.sleep(0.02)


def entries(*names: str) -> list[WorkItem]:
    return [WorkItem(Path(name), name) for name in names]


@dataclass(frozen=True)
class Letters(Facts):
    letters: int


def work(item: WorkItem, mark: str = "") -> Outcome:
    """A job that does what the slide's name says; at the top level, so that it can be pickled."""
    name = item.slide_id
    if name.startswith("bad"):
        raise SlideReadError(f"{name}: cannot be read")
    if name.startswith("bug"):
        raise KeyError("two\nlines")
    if name.startswith("full"):
        raise OutputError(f"{name}: cannot be written")
    if name.startswith("hang"):
        os.read(os.pipe()[0], 1)
    if name.startswith("die"):
        os._exit(9)
    return Outcome(name, "ok", f"done{mark}", Letters(len(name)))


def note_and_work(item: WorkItem, notes: Path) -> Outcome:
    """`work`, after a note with the process id; the slide victim waits, once, to be killed."""
    number = len(list(notes.glob(f"{item.slide_id}.*")))
    note = notes / f"{item.slide_id}.{number}"
    (notes / f".{note.name}").write_text(str(os.getpid()))
    (notes / f".{note.name}").rename(note)
    if item.slide_id == "victim" and number == 0:
        time.sleep(3600)
    time.sleep(0.05)
    return work(item)


def kill_victim(notes: Path) -> None:
    """Wait until the victim is started, and kill its process."""
    started = notes / "victim.0"
    wait_for(started.exists)
    os.kill(int(started.read_text()), signal.SIGKILL)


def count_tasks(dask_scheduler: Any) -> int:
    """Count the tasks that a scheduler holds; runs there."""
    return len(dask_scheduler.tasks)


def summary(found: Sequence[Outcome]) -> dict[str, tuple[str, str]]:
    return {one.slide_id: (one.status, one.message) for one in found}
