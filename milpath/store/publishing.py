"""Files that exist complete or not at all."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from milpath.errors import OutputError
from milpath.store.temporary import create_temp, remove_stale_temps

_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}
"""What file systems answer that cannot make a rename durable; others do it unasked."""


@contextmanager
def publish(path: Path, verify: Callable[[Path], None] = lambda part: None) -> Iterator[IO[bytes]]:
    """Write a file beside its place and move it in whole when the block ends without an error.

    Parameters
    ----------
    path : where the file goes
    verify : looks at the file before it gets its name; raises `OSError` if it is not sound

    Raises
    ------
    OutputError : the folder cannot be written or the disk is full; nothing is left behind
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with create_temp(path.parent) as part:
            with part.open("w+b") as file:  # by its name: tifffile asks a file for it
                yield file
                file.flush()
                os.fsync(file.fileno())
            verify(part)
            part.chmod(0o666 & ~_umask())
            part.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path.name}: cannot be written ({_reason(error)}); nothing was left"
        ) from error
    try:
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            f"{path.name}: is written, but may not outlive a power cut ({_reason(error)})"
        ) from error


def require_writable(folder: Path) -> None:
    """Find out before hours of work whether `folder` can be written; raises `OutputError`.

    What killed runs have left in it, and in its folders, is removed on the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        raise OutputError(f"{folder}: results cannot be written there ({_reason(error)})") from None
    remove_stale_temps(folder)


def require_permission(folder: Path) -> None:
    """As `require_writable`, but by looking alone: nothing is made, written or removed."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: results cannot be written there")


def require_folder(folder: Path, mark: Path | None = None) -> None:
    """Raise `OutputError` when a folder is gone, or its disk is.

    Where `mark`, a file that was put into it, is given, another folder in its place will not do.
    """
    if not (mark or folder).exists():
        raise OutputError(f"{folder}: the folder of results is gone, with all that it held")


def discard(path: Path) -> None:
    """Remove a file that may be there; raises `OutputError` where that cannot be done."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path.name}: cannot be removed ({_reason(error)})") from error


def publish_bytes(path: Path, data: bytes) -> None:
    """`publish` for what is ready."""
    with publish(path) as file:
        file.write(data)


def publish_text(path: Path, text: str) -> None:
    """`publish` for a text, encoded as UTF-8."""
    publish_bytes(path, text.encode())


def publish_json(path: Path, value: object) -> None:
    """`publish` for a JSON document."""
    publish_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened."""
    if os.name != "posix":
        return
    try:
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def publish_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, whole or not at all.

    A text that a spreadsheet would run as a formula is written with a leading apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_harmless(value) for value in header])
    writer.writerows([_harmless(value) for value in row] for row in rows)
    publish_text(path, text.getvalue())


def _harmless(value: object) -> object:
    if not isinstance(value, str):
        return value
    value = value.replace("\r", "\n")  # the csv module does not quote the one, but the other
    if value[:1] in {"=", "+", "-", "@", "\t", "\n"}:
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value
