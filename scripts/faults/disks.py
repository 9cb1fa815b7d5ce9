"""Disks that fill up at a random byte, and folders that are removed; see bench_faults.py."""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from faults.stage import (
    Stage,
    begin,
    faults_of,
    files_in,
    measure,
    parts_of,
    report_figure,
    results_of,
)

_SEMAPHORE = 32  # bytes of a semaphore in shared memory, to which the limit applies too


def fill(
    stage: Stage, command: str, out: Path, points: int, rng: random.Random, *, by_limit: bool
) -> int:
    """Fill the disk at random bytes; check exit code 5, one message, unchanged earlier files."""
    if not points:
        return 0
    found: list[str] = []
    began = time.monotonic()
    sizes = sizes_in(stage.right(command))
    for _ in range(points):
        if by_limit:
            stage.start(command, out)
            old = prefill(stage, command, out)
            most = max(_SEMAPHORE, int(max(sizes) ** rng.random()))
            child = begin(stage.words(command, out), partial(limit_files, most))
            code, said = child.end()
            found += check_full(out, old, code, said)
        else:
            with mounted(out, 2 * sum(sizes) + 2 * sum(sizes_in(stage.right("tile"))) + (1 << 20)):
                target = out / "results"
                stage.start(command, target)
                old = prefill(stage, command, target)
                leave_free(out, rng.randrange(sum(sizes) - sum(sizes_in(target))))
                code, said = begin(stage.words(command, target)).end()
                found += check_full(target, old, code, said)
    how = "limit" if by_limit else "tmpfs"
    return report_figure("full disk", began, found, command=command, how=how, points=points)


def sizes_in(folder: Path) -> list[int]:
    """Return the size of every result, bytes."""
    return [path.stat().st_size for path in files_in(folder)]


def limit_files(most: int) -> None:
    """Limit the size of files that this process writes; beyond it, writing raises `OSError`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def prefill(stage: Stage, command: str, out: Path) -> dict[str, str]:
    """Copy the results of the first slide to `out`; return their names and digests."""
    if command in ("tile", "classify", "embed"):
        for path in stage.right(command).rglob("s0.*"):
            target = out / path.relative_to(stage.right(command))
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(path, target)
    return {name: digest for name, digest in results_of(out).items() if "s0." in name}


def check_full(out: Path, old: dict[str, str], code: int, said: str) -> list[str]:
    """Return what is wrong about a run whose disk was full."""
    found = faults_of(out) + [f"{part.name} is left" for part in parts_of(out)]
    lines = [line for line in said.splitlines() if line.startswith("milpath: ")]
    if code != 5 or len(lines) != 1 or "Traceback" in said:
        found.append(f"exit {code}: {said[-400:]}")
    now = results_of(out)
    return found + [f"{name} was changed" for name in old if now.get(name) != old[name]]


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """Mount a disk of this size in memory, bytes."""
    folder.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "milpath-faults", str(folder)]
    subprocess.run(["mount", *options], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def tmpfs_mounts() -> bool:
    """Return whether this user can mount a disk in memory."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(Path(folder), 1 << 16):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def leave_free(disk: Path, free: int) -> None:
    """Fill a disk until about `free` bytes are free."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        ballast = max(0, shutil.disk_usage(disk).free - free)
        file.write(bytes(ballast))


# -- folders that are removed ----------------------------------------------------------------------


def vanish(stage: Stage, out: Path, points: int, rng: random.Random) -> int:
    """Remove the folder of results at random moments of tiling; check exit code 5, one message."""
    found: list[str] = []
    began = time.monotonic()
    count: Counter[str] = Counter(taken=0, ended_before=0)
    span = measure(stage, "tile", out, fresh=False) if points else 0.0
    while count["taken"] < points:
        stage.start("tile", out)
        child = begin(stage.words("tile", out))
        while not list((out / "runlog").glob("*")) and not child.ended():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.9 * span))
        gone = out.with_name("gone")
        out.rename(gone)
        code, said = child.end()
        whole = len(list(gone.glob("*.h5"))) == len(list(stage.slides.iterdir()))
        if code == 0 and whole:
            count["ended_before"] += 1
        else:
            count["taken"] += 1
            if code != 5 or "Traceback" in said or said.count("milpath: ") != 1:
                found.append(f"exit {code}: {said[-300:]}")
        found += faults_of(gone)
        shutil.rmtree(gone)
        shutil.rmtree(out, ignore_errors=True)
    return report_figure("vanishing folder", began, found, **count)
