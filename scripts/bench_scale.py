"""Measure how tiling scales with workers (local and Dask), slide size and number of slides.

Prints one JSON line per figure; the last line has the ratios, the one before it an extrapolation
to 10,000 slides. Slides are synthetic; every run is a `milpath tile` command, start-up included,
and n workers are restricted to n CPUs (on Linux), as separate machines would be.

python scripts/bench_scale.py [--quick] [--rounds 3] [--patches 5000] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from distributed import Client

from milpath.cohort.cohort import SlideEntry
from milpath.runs import Outcome, Processes, run_job
from milpath.synthetic import draw_slide

MPP = 0.5
PATCH_PX = 256
COHORT = 10_000
WORKERS = (1, 2)


@dataclass(frozen=True)
class Plan:
    """Amount of work."""

    rounds: int
    slides: int
    """Slides per run with different workers; enough that start-up is a small part."""
    slide_px: int
    """Side of these slides."""
    sizes: tuple[int, ...]
    counts: tuple[int, ...]


FULL = Plan(rounds=3, slides=120, slide_px=3072, sizes=(1024, 2048, 4096), counts=(10, 100, 1000))
QUICK = Plan(rounds=1, slides=2, slide_px=1024, sizes=(512, 2048), counts=(2, 6))
SMALL_PX = 512
"""Side of a slide where the number of slides is varied."""
DRAWN = 6
"""Number of different slides; more are links to these under other names."""


@dataclass(frozen=True)
class Run:
    """Figures of one `milpath tile`."""

    seconds: float
    cpu_seconds: float
    """Of the command and its child processes, without Dask workers."""
    peak_mb: float
    """Of the largest of these processes."""
    patches: int
    bytes: int
    """Size of the bags and QC images."""


def main() -> None:
    """Measure, then extrapolate."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small run, to check that it works")
    parser.add_argument("--rounds", type=int, help="rounds per figure; the median is printed")
    parser.add_argument("--patches", type=int, default=5000, help="per slide, to extrapolate to")
    parser.add_argument("--out", type=Path, help="working folder; default: a temporary one")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    rounds = options.rounds or plan.rounds
    with tempfile.TemporaryDirectory(dir=options.out) as scratch:
        folder = Path(scratch)
        workers = measure_workers(folder, plan, rounds)
        sizes = measure_sizes(folder, plan, rounds)
        counts = measure_counts(folder, plan, rounds)
    extrapolate(sizes, counts, options.patches)
    first, last = plan.counts[0], plan.counts[-1]
    say(
        "ratios",
        local_two_workers_over_one=workers["local", 1].seconds / workers["local", 2].seconds,
        dask_two_workers_over_one=workers["dask", 1].seconds / workers["dask", 2].seconds,
        dask_over_local_two_workers=workers["dask", 2].seconds / workers["local", 2].seconds,
        seconds_a_slide_many_over_few=(counts[last].seconds / last)
        / (counts[first].seconds / first),
    )


# -- the figures ---------------------------------------------------------------------------------


def measure_workers(folder: Path, plan: Plan, rounds: int) -> dict[tuple[str, int], Run]:
    """Tile the same slides with one and two workers, local and on Dask, in turn."""
    drawn = draw_slides(folder / "alike", min(plan.slides, DRAWN), plan.slide_px)
    slides = repeat_slides(drawn, folder / "workers", plan.slides)
    runs: dict[tuple[str, int], list[Run]] = {}
    for _ in range(rounds):
        for count in WORKERS:
            here = tile(slides, folder / "bags", "--workers", str(count), processors=count)
            with open_cluster(folder, count) as scheduler:
                there = tile(slides, folder / "bags", "--scheduler", str(scheduler))
            runs.setdefault(("local", count), []).append(here)
            runs.setdefault(("dask", count), []).append(there)
    found = {key: middle(some) for key, some in runs.items()}
    for (where, count), run in found.items():
        say("workers", where=where, workers=count, slides=plan.slides, **asdict(run))
    return found


def measure_sizes(folder: Path, plan: Plan, rounds: int) -> dict[int, Run]:
    """Tile one slide of increasing size with one worker."""
    found = {}
    for size in plan.sizes:
        slides = draw_slides(folder / f"size-{size}", 1, size)
        runs = [tile(slides, folder / "bags", "--workers", "1") for _ in range(rounds)]
        found[size] = middle(runs)
        say("size", side_px=size, **asdict(found[size]))
    return found


def measure_counts(folder: Path, plan: Plan, rounds: int) -> dict[int, Run]:
    """Tile increasing numbers of small slides with one worker."""
    drawn = draw_slides(folder / "small", DRAWN, SMALL_PX)
    found = {}
    for count in plan.counts:
        slides = repeat_slides(drawn, folder / f"count-{count}", count)
        repeats = rounds if count <= 100 else 1
        runs = [tile(slides, folder / "bags", "--workers", "1") for _ in range(repeats)]
        found[count] = middle(runs)
        say("count", slides=count, **asdict(found[count]))
    return found


def extrapolate(sizes: dict[int, Run], counts: dict[int, Run], patches: int) -> None:
    """Extrapolate to `COHORT` slides from the measured costs per slide and per patch.

    The cost per patch is the slope over slide size; the cost per slide is the slope over the number
    of slides minus its patches. This assumes linear cost, and slides as measured: JPEG tiles on a
    local disk. A figure whose slope is not positive is null.
    """
    large, many = list(sizes.values()), list(counts.values())
    each_patches = slope(list(counts), [run.patches for run in many])
    shares = {}
    for name in ("seconds", "cpu_seconds", "bytes"):
        a_patch = slope([run.patches for run in large], [getattr(run, name) for run in large])
        each = slope(list(counts), [getattr(run, name) for run in many])
        shares[name] = (max(0.0, each - each_patches * a_patch), a_patch)
    whole = {name: COHORT * (own + patches * a_patch) for name, (own, a_patch) in shares.items()}
    clear = {name: a_patch > 0 for name, (_, a_patch) in shares.items()}
    say(
        "extrapolation",
        slides=COHORT,
        patches_a_slide=patches,
        ms_a_slide=shares["seconds"][0] * 1e3,
        ms_a_patch=shares["seconds"][1] * 1e3,
        hours_by_one_worker=whole["seconds"] / 3600 if clear["seconds"] else None,
        cpu_hours=whole["cpu_seconds"] / 3600 if clear["cpu_seconds"] else None,
        disk_gb=whole["bytes"] / 1e9 if clear["bytes"] else None,
    )


# -- how they are made ---------------------------------------------------------------------------


def draw_slides(folder: Path, count: int, side: int) -> Path:
    """Draw a folder of synthetic slides, half of them with a tumour."""
    folder.mkdir()
    entries = [SlideEntry(folder / f"s{number}.tif", str(number)) for number in range(count)]
    # not in this process: its memory would count towards its children's peak
    outcomes = list(run_job(partial(draw, side=side), entries, Processes(2)))
    assert all(outcome.status == "ok" for outcome in outcomes), outcomes
    return folder


def repeat_slides(drawn: Path, folder: Path, count: int) -> Path:
    """Link the slides of `drawn` into a folder under `count` names."""
    folder.mkdir()
    files = sorted(drawn.iterdir())
    for number in range(count):
        os.link(files[number % len(files)], folder / f"s{number}.tif")
    return folder


def draw(entry: SlideEntry, side: int) -> Outcome:
    seed = int(entry.slide_id)
    draw_slide(entry.path, seed=seed, tumour=bool(seed % 2), size_px=(side, side), mpp=MPP)
    return Outcome(entry.slide_id, "ok", "drawn")


def tile(slides: Path, out: Path, *options: str, processors: int | None = None) -> Run:
    """Tile a folder of slides into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    words = ["tile", str(slides), "--out", str(out), "--json", "--mpp", str(MPP)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "milpath", *words, "--patch-size", str(PATCH_PX), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=partial(stay_on, range(processors)) if processors else None,
    )
    assert process.stdout is not None
    with process.stdout as lines:
        outcomes = [json.loads(line) for line in lines]
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, outcomes
    return Run(
        seconds,
        used.ru_utime + used.ru_stime,
        used.ru_maxrss / 1024,
        sum(outcome["facts"]["patches"] for outcome in outcomes),
        sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
    )


@contextmanager
def open_cluster(folder: Path, workers: int) -> Iterator[Path]:
    """Start a Dask scheduler and workers of one thread each; yield the scheduler file."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    place = ["--scheduler-file", str(file), "--no-dashboard"]
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0", *place]
    worker = ["worker", *place, "--nthreads", "1", "--no-nanny", "--local-directory", str(folder)]
    started = []
    try:
        for number, words in enumerate((*[worker] * workers, scheduler)):
            own = range(number, number + 1) if words is worker else range(workers)
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *words],
                    stderr=subprocess.DEVNULL,
                    preexec_fn=partial(stay_on, own),
                )
            )
        while not file.exists():
            time.sleep(0.05)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
        yield file
    finally:
        for process in started:
            process.terminate()
            process.wait()


def stay_on(processors: Iterable[int]) -> None:
    """Restrict this process to some of its CPUs, where the system supports it."""
    if hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {usable[number % len(usable)] for number in processors})


def middle(runs: Sequence[Run]) -> Run:
    """Return the run with the median time."""
    return sorted(runs, key=lambda run: run.seconds)[(len(runs) - 1) // 2]


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of the least-squares line."""
    return float(np.polyfit(x, y, 1)[0])


def say(figure: str, **values: object) -> None:
    """Print a JSON line."""
    short = {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in values.items()
    }
    print(json.dumps({"figure": figure, **short}), flush=True)


if __name__ == "__main__":
    main()
