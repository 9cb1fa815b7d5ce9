"""Temporary files of results that are being written, and their removal after killed runs.

A later run in the same folder removes them, but never while they are being written. The writer
holds an advisory lock, which the system releases when the process ends, however it ends. Some file
systems have no locks, and on many network disks one machine does not see the locks of another. So a
free lock counts only for files whose name says that they were created on this machine, since its
last start, through this mount. All others are kept until they have not been modified for a week.
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
_REMOVALS = 5


@contextmanager
def create_temp(folder: Path) -> Iterator[Path]:
    """Create an empty locked file in `folder`; it is removed at the end, unless it was renamed.

    Raises `OSError`.
    """
    part, lock = _create_part(folder)
    try:
        yield part
    finally:
        with suppress(OSError):  # a later run removes it
            part.unlink(missing_ok=True)
        if lock is not None:
            with suppress(OSError):
                os.close(lock)


@contextmanager
def create_temp_folder(folder: Path) -> Iterator[Path]:
    """Create a locked folder in `folder`; it is removed at the end.

    All users who may write in `folder` may write in it. Raises `OSError`.
    """
    path, lock = _create_run_folder(folder)
    try:
        yield path
    finally:
        for _ in range(_REMOVALS):  # a worker that is being stopped may still add a file
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
        if lock is not None:
            os.close(lock)


def remove_stale_temps(folder: Path) -> None:
    """Remove temporary files and folders of ended processes in a folder, files in its subfolders.

    Only direct subfolders are searched.
    """
    with suppress(OSError):  # the run can go on without it
        subfolders = [each for each in folder.iterdir() if each.is_dir()]
        for holder in (folder, *subfolders):
            for part in holder.glob(f"{_PREFIX}*{_SUFFIX}"):
                _remove_if_dead(part)
        for run in folder.glob(f"{_PREFIX}{_RUN}*"):
            _remove_if_dead(run)


def _create_run_folder(folder: Path) -> tuple[Path, int | None]:
    """Create a folder; return it and the descriptor that holds its lock, None without locks."""
    while True:
        prefix = f"{_PREFIX}{_RUN}{host_tag(folder)}-"
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        with suppress(FileNotFoundError):  # another run removed it before it was locked
            path.chmod(0o700 | _writers(folder))
            lock = _lock_folder(path)
            if lock is None:  # without locks its name must not have the host tag
                return path.rename(folder / path.name.replace(prefix, _PREFIX + _RUN)), None
            if path.exists():
                return path, lock
            os.close(lock)


def _writers(folder: Path) -> int:
    """Return full permissions for the group and for others where they may write in `folder`."""
    mode = folder.stat().st_mode
    return (0o070 if mode & 0o020 else 0) | (0o007 if mode & 0o002 else 0)


def _lock_folder(path: Path) -> int | None:
    """Lock a folder; return the descriptor that holds the lock, None where that is not possible."""
    if sys.platform == "win32":
        return None
    number = os.open(path, os.O_RDONLY)
    if take_lock(number):
        return number
    os.close(number)
    return None


def _create_part(folder: Path) -> tuple[Path, int | None]:
    """Create a part; return it and the descriptor that holds its lock, None without locks."""
    while True:
        number, name = tempfile.mkstemp(
            prefix=f"{_PREFIX}{host_tag(folder)}-", suffix=_SUFFIX, dir=folder
        )
        part = Path(name)
        locked = take_lock(number)
        if locked and part.exists():
            return part, number
        os.close(number)
        if locked is None:  # without locks its name must not have the host tag
            number, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=folder)
            os.close(number)
            part.unlink(missing_ok=True)
            return Path(name), None
        # else another run removed it before it was locked


def _remove_if_dead(temp: Path) -> None:
    with suppress(OSError):
        is_folder = temp.is_dir()
        number = os.open(temp, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            locked = take_lock(number)  # held while it is removed
            tag = host_tag(temp.parent)
            start = _PREFIX + (_RUN if is_folder else "") + tag
            ours = tag != "" and temp.name.startswith(f"{start}-")
            if (locked and ours) or (locked is not False and _age(temp) > _STALE_SECONDS):
                shutil.rmtree(temp) if is_folder else temp.unlink()
        finally:
            os.close(number)


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def take_lock(number: int) -> bool | None:
    """Lock an open file.

    Returns
    -------
    True if it is locked now, False if another process holds the lock, None if the file system has
    no locks.
    """
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
    """Return a short name of this machine's current boot and of a folder's mount.

    Two mounts of one disk on one machine may not see each other's locks. The name is "" on systems
    that have no boot id.
    """
    if not (boot := _boot_id()):
        return ""
    return hashlib.sha256(f"{boot} {folder.stat().st_dev}".encode()).hexdigest()[:8]


@cache
def _boot_id() -> str:
    """Return the system's id of its current boot; "" if it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
