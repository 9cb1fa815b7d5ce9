"""What is not yet a result: parts that are being written, and what killed runs left of them.

A part is removed by whoever starts a run in its folder later, but never under a living writer. Its
writer holds an advisory lock on it, which the system lets go when the process ends, however it
ends. Locks may be missing, or be known to one machine alone (many network disks): so a free lock
counts only for parts of this very machine since it was started, and of this very mount, which their
names tell; all others are left alone until nothing has been written to them for a week.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_PREFIX = ".milpath-"
_SUFFIX = ".part"
_RUN = "run-"
_STALE_SECONDS = 7 * 24 * 3600.0


@contextmanager
def create_temp(folder: Path) -> Iterator[Path]:
    """An empty file in `folder` that is this block's alone; gone at its end, unless moved away.

    Raises `OSError`.
    """
    part, lock = _make_part(folder)
    try:
        yield part
    finally:
        with suppress(OSError):  # a later run sweeps what cannot be removed now
            part.unlink(missing_ok=True)
        if lock is not None:
            with suppress(OSError):
                os.close(lock)


@contextmanager
def create_temp_folder(folder: Path) -> Iterator[Path]:
    """A folder in `folder` that is this run's, and that all may write in; gone at its end."""
    made = Path(tempfile.mkdtemp(prefix=_PREFIX + _RUN, dir=folder))
    try:
        made.chmod(0o777)  # workers may run under another name
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def remove_stale_temps(folder: Path) -> None:
    """Remove what dead processes have left in a folder, and in the folders in it."""
    with suppress(OSError):  # no more than tidying up
        for place in (folder, *(each for each in folder.iterdir() if each.is_dir())):
            for part in place.glob(f"{_PREFIX}*{_SUFFIX}"):
                _remove_if_dead(part)
        for run in folder.glob(f"{_PREFIX}{_RUN}*"):
            if _age(run) > _STALE_SECONDS:
                shutil.rmtree(run, ignore_errors=True)


def _make_part(folder: Path) -> tuple[Path, int | None]:
    """A new part, and the descriptor that holds its lock if there are locks here."""
    while True:
        number, name = tempfile.mkstemp(
            prefix=f"{_PREFIX}{host_tag(folder)}-", suffix=_SUFFIX, dir=folder
        )
        part = Path(name)
        locked = take_lock(number)
        if locked and part.exists():
            return part, number
        os.close(number)
        if locked is None:  # it must not look like one whose lock is free
            number, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=folder)
            os.close(number)
            part.unlink(missing_ok=True)
            return Path(name), None
        # else a sweeper came between its making and its lock


def _remove_if_dead(part: Path) -> None:
    with suppress(OSError):
        number = os.open(part, os.O_RDWR)
        try:
            locked = take_lock(number)  # held until it is removed: its writer sees that
            place = host_tag(part.parent)
            ours = place != "" and part.name.startswith(f"{_PREFIX}{place}-")
            if (locked and ours) or (locked is not False and _age(part) > _STALE_SECONDS):
                part.unlink()
        finally:
            os.close(number)


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def take_lock(number: int) -> bool | None:
    """Lock an open file: True when that is done, False when another has it, None without locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def host_tag(folder: Path) -> str:
    """A word for this machine since its start, and the mount that a folder lies on; "" for none.

    Two mounts of one disk on one machine may not see each other's locks.
    """
    if not (boot := _boot_id()):
        return ""
    return hashlib.sha256(f"{boot} {folder.stat().st_dev}".encode()).hexdigest()[:8]


@cache
def _boot_id() -> str:
    """What another machine, or this one started anew, calls differently; "" where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
