"""Runs: one job over many slides, in this process, in several, or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from milpath.runs.local import Inline, Processes
from milpath.runs.outcome import (
    Backend,
    Facts,
    Item,
    Job,
    Outcome,
    RequireFolder,
    Status,
    Stop,
    describe_redo,
    never_stop,
    planned_outcome,
    skipped_outcome,
)
from milpath.runs.shard import Shard

__all__ = [
    "Backend",
    "Facts",
    "Inline",
    "Job",
    "Outcome",
    "Processes",
    "RequireFolder",
    "Shard",
    "Status",
    "Stop",
    "choose_local",
    "describe_redo",
    "planned_outcome",
    "run_job",
    "skipped_outcome",
]


def run_job(
    job: Job[Item],
    items: Sequence[Item],
    workers: int | Backend = 1,
    stop: Stop = never_stop,
) -> Iterator[Outcome]:
    """Process every item and yield the outcomes as they come.

    Parameters
    ----------
    job : called once per item; for another process it must be picklable, and small
    items : slides or bags
    workers : processes on this machine, 1 for this process alone; or any other backend
    stop : called before each item

    Raises
    ------
    OutputError : results cannot be written, which would fail every item
    UsageError : the job itself is wrong, such as a model that cannot be loaded
    """
    backend = choose_local(workers, len(items)) if isinstance(workers, int) else workers
    return backend.run(job, items, stop)


def choose_local(
    workers: int, slides: int, processors: int = 1, timeout: float | None = None
) -> Backend:
    """Return this process or several, no more than there are slides.

    With a timeout it is never this process, which could not be killed.

    Parameters
    ----------
    workers : number of processes wanted
    slides : number of slides to process
    processors : CPUs of this machine, shared among the processes
    timeout : seconds that a slide may take; then it has failed
    """
    processes = max(1, min(workers, slides))
    threads = max(1, processors // processes)
    if processes == 1 and timeout is None:
        return Inline(threads)
    return Processes(processes, threads, timeout)
