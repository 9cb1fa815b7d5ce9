"""The slides on a Dask cluster: submitted to its scheduler, done by its workers, collected here.

Slides, bags and results lie on a file system that all machines share; nothing but the job, names
and outcomes travels. The only module that imports `distributed`.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from logging.handlers import QueueHandler
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from dask.system import cpu_count
from distributed import Client, Future, KilledWorker, Worker, get_worker

from milpath import __version__
from milpath.cohort.cohort import SlideEntry
from milpath.errors import MilpathError, OutputError, UsageError
from milpath.runs.outcome import Job, Outcome, Stop, attempt_slide, crashed_outcome, never_stop
from milpath.store import create_temp_folder, require_writable

log = logging.getLogger(__name__)

_TRIES = 2
"""Times a slide is begun among others before it is suspected of killing its workers."""
_AHEAD = 5000
"""Slides the scheduler holds at most: enough for it to see how many workers are of use."""
_MAX_SAMPLE_FILES = 100
"""Slides at most that every worker is asked whether it sees."""
_CONNECT_SECONDS = 10.0
_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class WorkerRequirements:
    """What is asked of a worker: the same milpath, the same files, one slide at a time."""

    version: str
    folder: Path
    """Lies in the folder of results; a slide that is begun leaves a mark there."""
    files: tuple[tuple[Path, int], ...]
    """And their sizes, bytes."""


Report = tuple[Outcome, list[logging.LogRecord]]
"""What became of a slide, and what was logged of it meanwhile."""

_Future: TypeAlias = "Future[Report | None]"


@dataclass(frozen=True)
class Cluster:
    """The workers of a scheduler, each a process that does one slide at a time."""

    client: Client
    requirements: WorkerRequirements
    threads: int = 1

    def run(
        self, job: Job, entries: Sequence[SlideEntry], stop: Stop = never_stop
    ) -> Iterator[Outcome]:
        """Every slide wherever there is room.

        A worker that dies costs its slide a second try, which the scheduler arranges (and a look at
        those whose outcome it had not yet told). A slide whose second worker died too is done last
        and alone: if that fails as well, it is to blame. When it is to stop, the workers finish
        the slides they have begun, but that is not waited for.
        """
        for retry in (yield from self._spread(job, entries, _TRIES, stop)):
            for failed in (yield from self._spread(job, [retry], _TRIES + 1, stop)):
                yield crashed_outcome(failed)

    def _spread(
        self, job: Job, entries: Sequence[SlideEntry], tries: int, stop: Stop
    ) -> Generator[Outcome, None, list[SlideEntry]]:
        """Do the slides; those that were begun `tries` times and never ended."""
        waiting = deque(entries)
        running: dict[_Future, SlideEntry] = {}
        done: SimpleQueue[_Future] = SimpleQueue()
        retries = []
        group = f"milpath-{uuid.uuid4().hex}"
        try:
            while (waiting or running) and not stop():
                while waiting and len(running) < _AHEAD and done.empty():
                    future = self._submit(job, waiting[0], tries, group)
                    running[future] = waiting.popleft()
                    future.add_done_callback(done.put)
                ended = self._next(done, stop)
                if ended is None:
                    break
                entry = running.pop(ended)
                outcome = self._outcome(ended)
                if outcome is None:
                    retries.append(entry)
                else:
                    yield outcome
        finally:  # Ctrl-C and errors: what no worker has begun is not begun any more
            if running and self.client.status == "running":
                self.client.cancel(list(running), force=True)
        return retries

    def _submit(self, job: Job, entry: SlideEntry, tries: int, group: str) -> _Future:
        annotation = entry.annotation and entry.annotation.absolute()
        entry = replace(entry, path=entry.path.absolute(), annotation=annotation)
        key = (group, entry.slide_id)  # a common group: the scheduler keeps them till there is room
        return self.client.submit(_work, job, entry, self.requirements, tries, key=key, pure=False)

    def _next(self, done: SimpleQueue[_Future], stop: Stop) -> _Future | None:
        """The next slide that has an end, however long it takes; None when it is to stop."""
        alone = False
        while not stop():
            try:
                return done.get(timeout=_LOOK_SECONDS)
            except Empty:
                if not alone and (alone := not self._workers()):
                    log.warning("no worker is connected to the scheduler; the slides wait for one")
        return None

    def _workers(self) -> dict[str, Any]:
        try:
            workers: dict[str, Any] = self.client.scheduler_info()["workers"]
        except (
            OSError,
            RuntimeError,
        ):  # the connection is lost: `_outcome` hears of it and says so
            return {"unknown": None}
        return workers

    def _outcome(self, future: _Future) -> Outcome | None:
        """What a worker reported; None when the slide ends its workers."""
        if future.cancelled() or future.status == "lost":
            raise MilpathError(
                "the cluster's scheduler is gone, or was restarted; what is finished is kept: give "
                "the same command again"
            )
        error = future.exception()
        if isinstance(error, KilledWorker):  # the scheduler itself has had enough of it
            return None
        if error is not None:
            raise error
        report: Report | None = future.result()
        if report is None:
            return None
        for record in report[1]:
            logging.getLogger(record.name).handle(record)
        return report[0]


@contextmanager
def join_cluster(scheduler: str, out: Path, files: Sequence[Path]) -> Iterator[Cluster]:
    """Connect to a scheduler whose workers are fit for the work.

    Parameters
    ----------
    scheduler : address such as tcp://host:8786, or the scheduler's file
    out : folder of the results
    files : that the work reads; a hundred at most are asked for

    Raises
    ------
    UsageError : no scheduler there, or a worker that is not fit
    OutputError : `out` cannot be written
    """
    with _connect(scheduler) as client, _marks(out) as folder:
        requirements = WorkerRequirements(__version__, folder.absolute(), _sample_files(files))
        yield Cluster(client, requirements, _check_workers(client, requirements))


def _connect(scheduler: str) -> Client:
    options: dict[str, Any] = {"timeout": _CONNECT_SECONDS, "set_as_default": False}
    if "://" in scheduler:
        options["address"] = scheduler
    elif Path(scheduler).is_file():
        options["scheduler_file"] = scheduler
    else:
        raise UsageError(
            f"--scheduler {scheduler}: neither an address (tcp://host:8786) nor a scheduler's file"
        )
    try:
        return Client(**options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--scheduler {scheduler}: no Dask scheduler answers ({reason})") from None


@contextmanager
def _marks(out: Path) -> Iterator[Path]:
    """A folder in `out` for as long as the run takes."""
    require_writable(out)
    with create_temp_folder(out) as folder:
        yield folder


def _sample_files(files: Sequence[Path]) -> tuple[tuple[Path, int], ...]:
    """Some of the files, one a folder, that are there as seen from here."""
    first = {file.parent: file for file in reversed(files)}
    there = [file.absolute() for file in sorted(first.values()) if file.is_file()]
    some = there[:: -(-len(there) // _MAX_SAMPLE_FILES) or 1]
    return tuple((file, file.stat().st_size) for file in some)


def _check_workers(client: Client, requirements: WorkerRequirements) -> int:
    """Ask every worker whether it is fit; the threads that each may use for a slide."""
    found: Any = client.get_versions(packages=["milpath"])
    here = _milpath_of(found["client"])
    for name, each in {"the scheduler": found["scheduler"], **found["workers"]}.items():
        if _milpath_of(each) != here:
            raise UsageError(
                f"{name} has milpath {_milpath_of(each) or 'not'} installed, expected {here} as "
                "here; install the same on every machine of the cluster"
            )
    if not found["workers"]:
        log.warning("no worker is connected to the scheduler yet; the slides wait for one")
        return 1
    answers: dict[str, Any] = client.run(check_worker, requirements, on_error="return")
    for answer in answers.values():
        if isinstance(answer, BaseException):
            raise answer
    per_host = Counter(urlsplit(address).hostname for address in answers)
    shares: Iterator[int] = (
        count // per_host[urlsplit(address).hostname] for address, count in answers.items()
    )
    return max(1, min(shares))


def _milpath_of(versions: Any) -> str | None:
    version: str | None = versions["packages"]["milpath"]
    return version


# -- on a worker ---------------------------------------------------------------------------------


def _work(
    job: Job, entry: SlideEntry, requirements: WorkerRequirements, tries: int
) -> Report | None:
    """One try at a slide, unless there have been `tries` that did not come back."""
    _check_once(requirements)
    if not _begin(requirements.folder, entry.slide_id, tries):
        return None
    handler = _RecordBuffer()
    logger = logging.getLogger("milpath")
    logger.addHandler(handler)
    try:
        return attempt_slide(job, entry), handler.records
    finally:
        logger.removeHandler(handler)


def check_worker(requirements: WorkerRequirements, dask_worker: Worker) -> int:
    """The processors this worker may use, if it is fit for the work.

    Raises
    ------
    UsageError : it is not
    """
    where = f"worker {dask_worker.address}"
    if requirements.version != __version__:
        raise UsageError(f"{where} has milpath {__version__}, expected {requirements.version}")
    if (threads := dask_worker.state.nthreads) != 1:
        raise UsageError(
            f"{where} does {threads} tasks at a time in one process, expected 1; start it with "
            f"--nthreads 1, and --nworkers {threads} for as many slides at a time"
        )
    if not requirements.folder.is_dir():
        raise UsageError(f"{where} does not see {requirements.folder.parent}; {_SHARE}")
    for file, size in requirements.files:
        if not file.is_file() or file.stat().st_size != size:
            raise UsageError(f"{where} does not see {file} as it is here; {_SHARE}")
    return int(cpu_count())


@cache
def _check_once(requirements: WorkerRequirements) -> int:
    """One that joined later is asked before its first slide."""
    return check_worker(requirements, get_worker())


_SHARE = "slides and results must lie under the same path on every machine"


def _begin(folder: Path, slide_id: str, tries: int) -> bool:
    """Leave a mark, the `tries`th at most, that outlives this process."""
    for number in range(tries):
        try:
            os.close(os.open(folder / f"{slide_id}.{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        except OSError as error:
            raise OutputError(
                f"{folder.parent}: results cannot be written there by {get_worker().address} "
                f"({error.strerror})"
            ) from None
        return True
    return False


class _RecordBuffer(QueueHandler):
    """Keeps what is logged, made fit to travel."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []
        super().__init__(self.records)  # type: ignore[arg-type]
        self.setLevel(logging.WARNING)

    def enqueue(self, record: logging.LogRecord) -> None:
        """Add to the list."""
        self.records.append(record)
