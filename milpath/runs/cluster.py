"""Backend of a Dask cluster: items go to its scheduler, and outcomes come back.

Slides, bags and results lie on a file system that all machines share; only the job, paths and
outcomes are sent. This is the only module that imports `distributed`.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import uuid
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from logging.handlers import QueueHandler
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from dask.system import cpu_count
from distributed import Client, Future, KilledWorker, Security, Worker, get_worker

from milpath.errors import MilpathError, OutputError, UsageError
from milpath.runs.outcome import (
    Item,
    Job,
    Outcome,
    Stop,
    attempt_slide,
    crashed_outcome,
    never_stop,
    timed_out_outcome,
)
from milpath.store import create_temp_folder, require_writable
from milpath.version import __version__

log = logging.getLogger(__name__)

_TRIES = 2
"""Times an item is started among others; if each time its worker died, it is retried alone."""
_MAX_SUBMITTED = 5000
"""Items the scheduler holds: enough for it to decide how many workers to start."""
_MAX_SAMPLE_FILES = 100
"""Files that every worker is asked for."""
_CONNECT_SECONDS = 10.0
_POLL_SECONDS = 5.0


@dataclass(frozen=True)
class WorkerRequirements:
    """What a worker needs: the same milpath, the same files, one item at a time."""

    version: str
    folder: Path
    """In the folder of results; every started item leaves a mark there."""
    files: tuple[tuple[Path, int], ...]
    """Some of the input files, and their sizes in bytes."""
    timeout: float | None = None
    """Seconds that an item may take; then its worker ends, and its nanny starts another."""


Report = tuple[Outcome, list[logging.LogRecord]]
"""Outcome of an item, and what was logged meanwhile."""

_Future: TypeAlias = "Future[Report | None]"


@dataclass(frozen=True)
class Cluster:
    """The workers of a scheduler, each a process that works on one item at a time."""

    client: Client
    requirements: WorkerRequirements
    threads: int = 1

    def run(
        self, job: Job[Item], items: Sequence[Item], stop: Stop = never_stop
    ) -> Iterator[Outcome]:
        """Process every item on any free worker.

        When a worker dies, the scheduler starts its item once more. An item whose second worker
        died too is retried last and alone; if that worker dies as well, the item has failed. On
        `stop`, the workers finish the items they have started, but the run does not wait for them.
        """
        for retry in (yield from self._spread(job, items, _TRIES, stop)):
            for failed in (yield from self._spread(job, [retry], _TRIES + 1, stop)):
                yield crashed_outcome(failed)

    def _spread(
        self, job: Job[Item], items: Sequence[Item], tries: int, stop: Stop
    ) -> Generator[Outcome, None, list[Item]]:
        """Process the items; return those that were started `tries` times without an outcome."""
        waiting = deque(items)
        running: dict[_Future, Item] = {}
        done: SimpleQueue[_Future] = SimpleQueue()
        retries = []
        group = f"milpath-{uuid.uuid4().hex}"
        try:
            while (waiting or running) and not stop():
                while waiting and len(running) < _MAX_SUBMITTED and done.empty():
                    future = self._submit(job, waiting[0], tries, group)
                    running[future] = waiting.popleft()
                    future.add_done_callback(done.put)
                ended = self._next(done, stop)
                if ended is None:
                    break
                item = running.pop(ended)
                outcome = self._outcome(ended)
                del ended  # a result that is still held is computed again if its worker dies
                if outcome is None:
                    retries.append(item)
                else:
                    yield outcome
        finally:  # on Ctrl-C and errors: nothing more is started
            if running and self.client.status == "running":
                self.client.cancel(list(running), force=True)
        return retries

    def _submit(self, job: Job[Item], item: Item, tries: int, group: str) -> _Future:
        key = (group, item.slide_id)  # items of one group wait at the scheduler for a free worker
        return self.client.submit(
            _work, job, item.absolute(), self.requirements, tries, key=key, pure=False
        )

    def _next(self, done: SimpleQueue[_Future], stop: Stop) -> _Future | None:
        """Wait for the next item that has ended; None on `stop`."""
        alone = False
        while not stop():
            try:
                return done.get(timeout=_POLL_SECONDS)
            except Empty:
                if not alone and (alone := not self._workers()):
                    log.warning("no worker is connected to the scheduler; waiting for one")
        return None

    def _workers(self) -> dict[str, Any]:
        try:
            workers: dict[str, Any] = self.client.scheduler_info()["workers"]
        except (OSError, RuntimeError):  # the connection is lost: `_outcome` raises
            return {"unknown": None}
        return workers

    def _outcome(self, future: _Future) -> Outcome | None:
        """Return what a worker reported; None where its workers died."""
        if future.cancelled() or future.status == "lost":
            raise MilpathError(
                "the cluster's scheduler has ended, or was restarted; finished results are "
                "kept, run the same command again"
            )
        error = future.exception()
        if isinstance(error, KilledWorker):  # the scheduler gave up on it
            return None
        if isinstance(error, MilpathError):
            raise error
        if error is not None:  # jobs raise no others
            reason = " ".join(str(error).split())[:200]
            raise MilpathError(
                f"the cluster could not run the job ({type(error).__name__}: {reason}); install "
                "the same packages on every machine"
            )
        report: Report | None = future.result()
        if report is None:
            return None
        for record in report[1]:
            logging.getLogger(record.name).handle(record)
        return report[0]


@contextmanager
def join_cluster(
    scheduler: str, out: Path, files: Sequence[Path], timeout: float | None = None
) -> Iterator[Cluster]:
    """Connect to a scheduler, and check its workers.

    Parameters
    ----------
    scheduler : address such as tcp://host:8786, or the scheduler's file
    out : folder of the results
    files : input of the job; workers are asked for a sample of them
    timeout : seconds that an item may take; then it has failed

    Raises
    ------
    UsageError : no scheduler there, or a worker that does not meet the requirements
    OutputError : `out` cannot be written
    """
    with _connect(scheduler) as client, _marks(out) as folder:
        requirements = WorkerRequirements(
            __version__, folder.absolute(), _sample_files(files), timeout
        )
        yield Cluster(client, requirements, _check_workers(client, requirements))


def _connect(scheduler: str) -> Client:
    options: dict[str, Any] = {"timeout": _CONNECT_SECONDS, "set_as_default": False}
    if "://" in scheduler:
        options["address"] = scheduler
    elif Path(scheduler).is_file():
        options["scheduler_file"] = scheduler
    else:
        raise UsageError(
            f"--scheduler {scheduler}: neither an address (tls://host:8786) nor a scheduler's file"
        )
    if _speaks_tls(scheduler):
        options["security"] = _require_certificates(scheduler)
    try:
        return Client(**options)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--scheduler {scheduler}: no Dask scheduler answers ({reason})") from None


def _speaks_tls(scheduler: str) -> bool:
    """Whether an address, or that in a scheduler's file, begins with tls."""
    if "://" in scheduler:
        return scheduler.startswith("tls:")
    try:
        address = json.loads(Path(scheduler).read_bytes())["address"]
    except (OSError, ValueError, LookupError, TypeError):  # connecting says what is wrong
        return False
    return str(address).startswith("tls:")


def _require_certificates(scheduler: str) -> Any:
    """Return the certificates of Dask's configuration; raise `UsageError` if one is missing."""
    security: Any = Security()
    files = {
        "CA_FILE": security.tls_ca_file,
        "CLIENT__CERT": security.tls_client_cert,
        "CLIENT__KEY": security.tls_client_key,
    }
    for name, value in files.items():
        # the certificate itself may stand in the configuration, too
        if not value or ("-----BEGIN" not in value and not os.access(value, os.R_OK)):
            raise UsageError(
                f"--scheduler {scheduler}: TLS needs a certificate and its key; set "
                f"DASK_DISTRIBUTED__COMM__TLS__{name} to a readable PEM file "
                f"(it is {value[:100] if value else 'not set'})"
            )
    return security


@contextmanager
def _marks(out: Path) -> Iterator[Path]:
    """Create a folder in `out` for the duration of the run."""
    require_writable(out)
    with create_temp_folder(out) as folder:
        yield folder


def _sample_files(files: Sequence[Path]) -> tuple[tuple[Path, int], ...]:
    """Choose some of the files that exist on this machine, one per folder."""
    first = {file.parent: file for file in reversed(files)}
    there = [file.absolute() for file in sorted(first.values()) if file.is_file()]
    some = there[:: -(-len(there) // _MAX_SAMPLE_FILES) or 1]
    return tuple((file, file.stat().st_size) for file in some)


def _check_workers(client: Client, requirements: WorkerRequirements) -> int:
    """Check every worker; return the threads that each may use for an item."""
    found: Any = client.get_versions(packages=["milpath"])
    here = _milpath_of(found["client"])
    for name, each in {"the scheduler": found["scheduler"], **found["workers"]}.items():
        if _milpath_of(each) != here:
            raise UsageError(
                f"{name} has milpath {_milpath_of(each) or 'not'} installed, expected {here} as "
                "here; install the same on every machine of the cluster"
            )
    if not found["workers"]:
        log.warning("no worker is connected to the scheduler yet; waiting for one")
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
    job: Job[Item], item: Item, requirements: WorkerRequirements, tries: int
) -> Report | None:
    """Process an item, unless `tries` workers have died of it already, or it took too long."""
    _check_once(requirements)
    marks = [requirements.folder / f"{item.slide_id}.{number}" for number in range(tries)]
    if requirements.timeout is not None and any(map(_has_timed_out, marks)):
        return timed_out_outcome(item, requirements.timeout), []
    mark = _mark_start(marks)
    if mark is None:
        return None
    handler = _RecordBuffer()
    logger = logging.getLogger("milpath")
    logger.addHandler(handler)
    try:
        with _limited(requirements.timeout, mark):
            return attempt_slide(job, item), handler.records
    finally:
        logger.removeHandler(handler)


def check_worker(requirements: WorkerRequirements, dask_worker: Worker) -> int:
    """Return the CPUs that this worker may use.

    Raises
    ------
    UsageError : it does not meet the requirements
    """
    where = f"worker {dask_worker.address}"
    if requirements.version != __version__:
        raise UsageError(f"{where} has milpath {__version__}, expected {requirements.version}")
    if (threads := dask_worker.state.nthreads) != 1:
        raise UsageError(
            f"{where} runs {threads} tasks at a time in one process, expected 1; start it with "
            f"--nthreads 1, and --nworkers {threads} for as many slides at a time"
        )
    if requirements.timeout is not None and dask_worker.nanny is None:
        raise UsageError(
            f"{where} has no nanny, which replaces it after --slide-timeout; start it without "
            "--no-nanny"
        )
    if not requirements.folder.is_dir():
        raise UsageError(f"{where} cannot access {requirements.folder.parent}; {_SHARE}")
    for file, size in requirements.files:
        if not file.is_file() or file.stat().st_size != size:
            raise UsageError(f"{where} cannot access {file}, or has a different one; {_SHARE}")
    return int(cpu_count())


@cache
def _check_once(requirements: WorkerRequirements) -> int:
    """Check a worker that joined later, before its first item."""
    return check_worker(requirements, get_worker())


_SHARE = "slides and results must have the same path on every machine"


def _mark_start(marks: Sequence[Path]) -> Path | None:
    """Create the first file that is missing, which outlives this process; None if all exist."""
    for mark in marks:
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            continue
        except OSError as error:
            raise OutputError(
                f"{mark.parent.parent}: results cannot be written there by "
                f"{get_worker().address} ({error.strerror})"
            ) from None
        return mark
    return None


@contextmanager
def _limited(timeout: float | None, mark: Path) -> Iterator[None]:
    """End this process if the block takes too long; that its mark is no longer empty says so."""
    if timeout is None:
        yield
        return
    with mark.open("wb", buffering=0) as file:
        # a thread without Python code, which runs also where a library blocks all of Python's
        faulthandler.dump_traceback_later(timeout, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _has_timed_out(mark: Path) -> bool:
    try:
        return mark.stat().st_size > 0
    except OSError:
        return False


class _RecordBuffer(QueueHandler):
    """Keeps log records, ready to be pickled."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []
        super().__init__(self.records)  # type: ignore[arg-type]
        self.setLevel(logging.WARNING)

    def enqueue(self, record: logging.LogRecord) -> None:
        """Add to the list."""
        self.records.append(record)
