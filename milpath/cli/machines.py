"""What the commands over many slides share: where the work is done, and which share of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milpath.errors import UsageError

if TYPE_CHECKING:
    from milpath.cohort.cohort import SlideEntry
    from milpath.runs import Backend, Shard

SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Let the workers of a Dask cluster do it: tcp://host:8786, or the scheduler's file.",
        show_default="this machine",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do the I-th of N shares of the slides, from 1/N to N/N (for array jobs).",
        show_default="all",
    ),
]
TissueOption = Annotated[
    Path | None,
    typer.Option(
        "--tissue-annotations",
        metavar="GEOJSON",
        help="Tissue drawn by hand in napari or QuPath: a GeoJSON file for one slide, or a folder "
        "with <slide_id>.geojson for each.",
        show_default="auto-detected",
    ),
]
NetworkWorkersOption = Annotated[
    int,
    typer.Option(
        "--workers",
        "-w",
        min=1,
        help="Processes at work. One uses all processors already; each loads the network, "
        "0.7 GB or more.",
    ),
]


def processors() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gather_entries(
    slides: Sequence[Path], slide_mpp: float | None, tissue: Path | None
) -> list[SlideEntry]:
    """The slides that the options name; raises as `gather_slides` and `attach_annotations` do."""
    from milpath.cohort.cohort import attach_annotations, gather_slides

    entries = gather_slides(slides, slide_mpp)
    if tissue is None:
        return entries
    try:
        return attach_annotations(entries, tissue)
    except UsageError as error:
        raise UsageError(f"--tissue-annotations: {error}") from None


def files_of(entries: Sequence[SlideEntry]) -> list[Path]:
    """What the work on slides reads."""
    annotations = [entry.annotation for entry in entries if entry.annotation is not None]
    return [entry.path for entry in entries] + annotations


def take_shard(
    entries: Sequence[SlideEntry], shard: str | None
) -> tuple[list[SlideEntry], Shard | None]:
    """The slides that are this run's; raises `UsageError` as `Shard.parse` does."""
    from milpath.runs import Shard

    if shard is None:
        return list(entries), None
    share = Shard.parse(shard)
    return share.take(entries), share


@contextmanager
def open_backend(
    workers: int, scheduler: str | None, slides: int, out: Path, files: Sequence[Path]
) -> Iterator[Backend]:
    """Where the work is to be done.

    Parameters
    ----------
    workers, scheduler : as the user gave them, 0 workers being one a processor
    slides : to be done
    out : folder of the results
    files : that the work reads, which other machines must see

    Raises
    ------
    UsageError : no such cluster, or one that is not fit
    """
    if scheduler is None:
        from milpath.runs import choose_local

        processes = min(workers or processors(), slides)
        if processes > 1:
            _share_machine(processes)
        yield choose_local(processes, slides, processors())
        return
    if workers > 1:
        raise UsageError(
            f"--workers {workers} are of this machine, --scheduler has its own; give one of the two"
        )
    try:
        from milpath.runs.cluster import join_cluster
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--scheduler needs the package {error.name}: pip install 'milpath[cluster]'"
        ) from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # we say it in our words
    with join_cluster(scheduler, out, files) as cluster:
        yield cluster


def _share_machine(workers: int) -> None:
    """Let the processes' networks leave room for each other; what the user has set stays."""
    threads = str(max(1, processors() // workers))
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", threads)
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
