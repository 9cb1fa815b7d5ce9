"""Options that the commands over many slides share: workers, cluster, shard, annotations."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from milpath.errors import UsageError
from milpath.slides.frame import Frame

if TYPE_CHECKING:
    from milpath.cohort.cohort import SlideEntry
    from milpath.cohort.workitem import WorkItem
    from milpath.runs import Backend, Shard

_Item = TypeVar("_Item", bound="WorkItem")

SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Run on a Dask cluster: address (tls://host:8786) or file of its scheduler.",
        show_default="this machine",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Process shard I of N of the slides, from 1/N to N/N (for array jobs).",
        show_default="all",
    ),
]
_MAX_TIMEOUT = 1e6


def _check_timeout(seconds: float | None) -> float | None:
    if seconds is not None and not 1 <= seconds <= _MAX_TIMEOUT:  # nan neither
        raise typer.BadParameter(f"{seconds:g}: expected 1 to {_MAX_TIMEOUT:.0f} seconds")
    return seconds


SlideTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--slide-timeout",
        metavar="SECONDS",
        callback=_check_timeout,
        help="Time that a slide may take, in seconds; one that takes longer has failed, and the "
        "others continue. Include the time to load the network.",
        show_default="no limit",
    ),
]
TissueOption = Annotated[
    Path | None,
    typer.Option(
        "--tissue-annotations",
        metavar="GEOJSON",
        help="Use tissue annotations drawn in napari or QuPath instead of detecting tissue: "
        "a GeoJSON file for one slide, or a folder with one <slide_id>.geojson per "
        "slide.",
        show_default="auto-detected",
    ),
]
FrameOption = Annotated[
    Frame,
    typer.Option(
        "--frame",
        help="Corner that the coordinates of --tissue-annotations count from, on slides with "
        "scanned bounds: qupath (that of the bounds, as QuPath does) or canvas (that of the whole "
        "slide, as OpenSlide does). A file written by milpath records its own.",
    ),
]
IdsFromPathOption = Annotated[
    bool,
    typer.Option(
        "--ids-from-path",
        help="Make slide ids from the path below the given folder or CSV (a/x.svs: a__x), "
        "not from the file name alone, for folders that repeat file names. Give it to "
        "tile, train and classify.",
    ),
]
NetworkWorkersOption = Annotated[
    int,
    typer.Option(
        "--workers",
        "-w",
        min=1,
        help="Number of processes. One already uses all CPUs; each loads the network (0.7 GB or "
        "more).",
    ),
]


def processors() -> int:
    """Count the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gather_entries(
    slides: Sequence[Path],
    slide_mpp: float | None,
    tissue: Path | None,
    frame: Frame = Frame.qupath,
    *,
    ids_from_path: bool = False,
) -> list[SlideEntry]:
    """List the slides given by the options; raise `UsageError` as `gather_slides` does."""
    from milpath.cohort.cohort import attach_annotations, gather_slides

    entries = gather_slides(slides, slide_mpp, ids_from_path=ids_from_path)
    if tissue is None:
        if frame is not Frame.qupath:
            raise UsageError("--frame: only available with --tissue-annotations")
        return entries
    try:
        return attach_annotations(entries, tissue, frame)
    except UsageError as error:
        raise UsageError(f"--tissue-annotations: {error}") from None


def files_of(entries: Sequence[SlideEntry]) -> list[Path]:
    """List the input files of a run over slides."""
    annotations = [entry.annotation for entry in entries if entry.annotation is not None]
    return [entry.path for entry in entries] + annotations


def take_shard(items: Sequence[_Item], shard: str | None) -> tuple[list[_Item], Shard | None]:
    """Select the items of this run; raise `UsageError` as `Shard.parse` does."""
    from milpath.runs import Shard

    if shard is None:
        return list(items), None
    part = Shard.parse(shard)
    return part.take(items), part


def check_backend_options(workers: int, scheduler: str | None) -> None:
    """Raise `UsageError` where the options do not fit together, or a package is missing."""
    if scheduler is None:
        return
    if workers > 1:
        raise UsageError(
            f"--workers {workers} is for this machine, a --scheduler has its own; give one of them"
        )
    try:
        import milpath.runs.cluster  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--scheduler needs the package {error.name}: pip install 'milpath[cluster]'"
        ) from None


@contextmanager
def open_backend(
    workers: int,
    scheduler: str | None,
    slides: int,
    out: Path,
    files: Sequence[Path],
    *,
    timeout: float | None = None,
    dry_run: bool = False,
) -> Iterator[Backend]:
    """Open the backend that the options name.

    Parameters
    ----------
    workers, scheduler : the options; 0 workers are one per CPU
    slides : number of slides to process
    out : folder of the results
    files : input files, which other machines must be able to read
    timeout : seconds that a slide may take
    dry_run : use this machine, one slide after the other

    Raises
    ------
    UsageError : no such cluster, or one that does not meet the requirements
    """
    if dry_run or scheduler is None:
        from milpath.runs import choose_local

        processes = 1 if dry_run else min(workers or processors(), slides)
        if processes > 1:
            _share_machine(processes)
        yield choose_local(processes, slides, processors(), timeout)
        return
    check_backend_options(workers, scheduler)
    from milpath.runs.cluster import join_cluster

    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # our own messages say it
    with join_cluster(scheduler, out, files, timeout) as cluster:
        yield cluster


def _share_machine(workers: int) -> None:
    """Limit the network's threads and GPU memory per process, unless the user has set them."""
    threads = str(max(1, processors() // workers))
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", threads)
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
