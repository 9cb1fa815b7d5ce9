"""A Dask cluster on this machine, and jobs that its workers can import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from milpath.cohort.cohort import SlideEntry
from milpath.errors import OutputError, SlideReadError
from milpath.runs import Outcome


class Farm:
    """A scheduler and its workers: processes of the `dask` command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self._started: list[subprocess.Popen[bytes]] = []
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        self.scheduler = self._start("scheduler", *options, "--scheduler-file", str(self.file))
        wait_for(self.file.exists)

    def add_worker(self) -> None:
        """Another worker, under a nanny that replaces it when it dies."""
        place = ["--scheduler-file", str(self.file), "--local-directory", str(self.folder)]
        common = ["--nthreads", "1", "--no-dashboard", "--memory-limit", "0"]
        self._start("worker", *place, *common)

    def stop(self) -> None:
        """End every process, and what they have started."""
        for process in reversed(self._started):
            process.terminate()
        for process in reversed(self._started):
            with suppress(subprocess.TimeoutExpired):  # a nanny whose scheduler went first waits on
                process.wait(5)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{words[0]}-{len(self._started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *words],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process


@contextmanager
def open_farm(folder: Path, workers: int) -> Iterator[Farm]:
    """A cluster whose workers have all arrived."""
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


def wait_for(event: Callable[[], object]) -> None:
    """Wait until an event has happened; a wait without end is ended by pytest's timeout."""
    while not event():
        time.sleep(0.02)


def entries(*names: str) -> list[SlideEntry]:
    return [SlideEntry(Path(name), name) for name in names]


def work(entry: SlideEntry, mark: str = "") -> Outcome:
    """A job whose slides do as they are called; at the top level, so that it can be pickled."""
    name = entry.slide_id
    if name.startswith("bad"):
        raise SlideReadError(f"{name}: cannot be read")
    if name.startswith("bug"):
        raise KeyError("two\nlines")
    if name.startswith("full"):
        raise OutputError(f"{name}: cannot be written")
    if name.startswith("die"):
        os._exit(9)
    return Outcome(name, "ok", f"done{mark}", {"letters": len(name)})


def note_and_work(entry: SlideEntry, notes: Path) -> Outcome:
    """`work`, after a note of who began what; a slide called victim waits, once, to be killed."""
    number = len(list(notes.glob(f"{entry.slide_id}.*")))
    note = notes / f"{entry.slide_id}.{number}"
    (notes / f".{note.name}").write_text(str(os.getpid()))
    (notes / f".{note.name}").rename(note)
    if entry.slide_id == "victim" and number == 0:
        time.sleep(3600)
    time.sleep(0.05)
    return work(entry)


def kill_victim(notes: Path) -> None:
    """Wait until the victim is begun, and kill its process."""
    begun = notes / "victim.0"
    wait_for(begun.exists)
    os.kill(int(begun.read_text()), signal.SIGKILL)


def told(found: Sequence[Outcome]) -> dict[str, tuple[str, str]]:
    return {one.slide_id: (one.status, one.message) for one in found}
