"""One job over many slides: in this process, in several, or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from milpath.cohort.cohort import SlideEntry
from milpath.runs.local import Inline, Processes
from milpath.runs.outcome import Backend, Job, Outcome, Status, Stop, never_stop, plan_outcome
from milpath.runs.shard import Shard

__all__ = [
    "Backend",
    "Inline",
    "Job",
    "Outcome",
    "Processes",
    "Shard",
    "Status",
    "Stop",
    "choose_local",
    "plan_outcome",
    "run_job",
]


def run_job(
    job: Job,
    entries: Sequence[SlideEntry],
    workers: int | Backend = 1,
    stop: Stop = never_stop,
) -> Iterator[Outcome]:
    """Do `job` for every slide and give the outcomes as they come.

    Parameters
    ----------
    job : called once a slide; where that is in another process it must be picklable, and light
    entries : the slides
    workers : processes on this machine, 1 being this one; or any other backend
    stop : asked before each slide

    Raises
    ------
    OutputError : results cannot be written, which no further slide would change
    UsageError : the job itself is wrong, as a model that cannot be loaded is
    """
    backend = choose_local(workers, len(entries)) if isinstance(workers, int) else workers
    return backend.run(job, entries, stop)


def choose_local(workers: int, slides: int, processors: int = 1) -> Backend:
    """This process or several, as many as are of use.

    Parameters
    ----------
    workers : processes that are wanted
    slides : to be done
    processors : of this machine, to be shared among them
    """
    processes = max(1, min(workers, slides))
    threads = max(1, processors // processes)
    return Inline(threads) if processes == 1 else Processes(processes, threads)
