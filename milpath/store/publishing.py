"""Atomic writing of files: each exists complete or not at all."""

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
"""Errors of file systems on which a folder cannot be synchronised; ignored."""


@contextmanager
def publish(path: Path, verify: Callable[[Path], None] = lambda part: None) -> Iterator[IO[bytes]]:
    """Write a temporary file, and rename it to `path` when the block ends without an error.

    Parameters
    ----------
    path : final path of the file; its folder is created
    verify : checks the temporary file before it is renamed; raises `OSError` if it is not valid

    Yields
    ------
    The temporary file, open for reading and writing.

    Raises
    ------
    OutputError : the folder cannot be written or the disk is full; nothing is left behind
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with create_temp(path.parent) as part:
            with part.open("w+b") as file:  # tifffile needs a file with a name
                yield file
                file.flush()
                os.fsync(file.fileno())
            verify(part)
            part.chmod(0o666 & ~_umask())
            part.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path.name}: cannot be written ({_reason(error)}); nothing was left behind"
        ) from error
    try:
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            f"{path.name}: was written, but may not survive a power failure ({_reason(error)})"
        ) from error


def require_writable(folder: Path) -> None:
    """Create `folder` and check that files can be written in it; raises `OutputError`.

    Temporary files that killed runs have left in it, or in its folders, are removed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        raise OutputError(f"{folder}: results cannot be written there ({_reason(error)})") from None
    remove_stale_temps(folder)


def require_permission(folder: Path) -> None:
    """Check permissions as `require_writable`, without creating, writing or removing anything."""
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: results cannot be written there")


def require_folder(folder: Path, mark: Path | None = None) -> None:
    """Raise `OutputError` if a folder no longer exists.

    Parameters
    ----------
    folder : folder of results
    mark : file that was written to it; without this file it is another folder of the same name
    """
    if not (mark or folder).exists():
        raise OutputError(f"{folder}: the folder of results is gone, with all results in it")


def discard(path: Path) -> None:
    """Remove a file if it exists; raises `OutputError` if it cannot be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path.name}: cannot be removed ({_reason(error)})") from error


def publish_bytes(path: Path, data: bytes) -> None:
    """Write bytes, complete or not at all; raises as `publish`."""
    with publish(path) as file:
        file.write(data)


def publish_text(path: Path, text: str) -> None:
    """Write text as UTF-8, complete or not at all; raises as `publish`."""
    publish_bytes(path, text.encode())


def publish_json(path: Path, value: object) -> None:
    """Write a JSON document, complete or not at all; raises as `publish`."""
    publish_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system can open a folder."""
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
    """Write a CSV table, complete or not at all; raises as `publish`.

    Text that a spreadsheet would evaluate as a formula gets a leading apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_escape_formula(value) for value in header])
    writer.writerows([_escape_formula(value) for value in row] for row in rows)
    publish_text(path, text.getvalue())


def _escape_formula(value: object) -> object:
    if not isinstance(value, str):
        return value
    value = value.replace("\r", "\n")  # the csv module quotes \n, but not \r
    if value[:1] in {"=", "+", "-", "@", "\t", "\n"}:
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value
