"""Files that exist complete or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from milpath.errors import OutputError


@contextmanager
def publish(path: Path) -> Iterator[IO[bytes]]:
    """Write a file beside its place and move it in whole when the block ends without an error.

    Raises
    ------
    OutputError : the folder cannot be written or the disk is full; nothing is left behind
    """
    part: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(number)
        with Path(part).open("w+b") as file:  # by its name: tifffile asks a file for it
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(part).chmod(0o666 & ~_umask())
        Path(part).replace(path)
        part = None
        _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path.name}: cannot be written ({reason}); nothing was left") from error
    finally:
        if part is not None:
            Path(part).unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Find out before hours of work whether `folder` can be written; raises `OutputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{folder}: results cannot be written there ({reason})") from None


def discard(path: Path) -> None:
    """Remove a file that may be there; raises `OutputError` where that cannot be done."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path.name}: cannot be removed ({error.strerror})") from error


def publish_text(path: Path, text: str) -> None:
    """`publish` for a text, encoded as UTF-8."""
    with publish(path) as file:
        file.write(text.encode())


def publish_json(path: Path, value: object) -> None:
    """`publish` for a JSON document."""
    publish_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
