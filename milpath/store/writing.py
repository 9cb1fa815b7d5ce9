"""Atomic writing of HDF5 files; the same contents give the same bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import h5py

from milpath.store.integrity import CheckedPages, ChecksumError, add_checksums, read_footer
from milpath.store.publishing import publish
from milpath.store.signals import defer_signals
from milpath.version import __version__

FORMAT_VERSION = 3
"""Format of all HDF5 files: 2 added the integrity footer, 3 features in files of their own."""

READABLE = (2, 3)
"""Formats that this version reads."""


@contextmanager
def publish_h5(path: Path, kind: str) -> Iterator[h5py.File]:
    """Write an HDF5 file with an integrity footer, complete or not at all.

    The attributes `milpath_kind`, `milpath_format` and `milpath_version` are set.

    Parameters
    ----------
    path : final path of the file
    kind : "bag", "features", "prediction", "space" or "weights"

    Yields
    ------
    The open file. It may hold datasets of plain numbers in its root group, and attributes with a
    single value.

    Raises
    ------
    ValueError : it holds anything else
    OutputError : it cannot be written; nothing is left behind
    """
    with publish(path, partial(_verify, kind)) as file:
        buffer = _ErrorKeepingFile(file)
        with defer_signals(_CALLED_BY_HDF5), _create_h5(buffer) as h5:
            h5.attrs["milpath_kind"] = kind
            h5.attrs["milpath_format"] = FORMAT_VERSION
            h5.attrs["milpath_version"] = __version__
            yield h5
            buffer.check()
        buffer.check()
        add_checksums(file)


@contextmanager
def publish_plain_h5(path: Path) -> Iterator[h5py.File]:
    """Write an HDF5 file for other programs, without a footer, complete or not at all.

    Raises
    ------
    OutputError : it cannot be written; nothing is left behind
    """
    with publish(path) as file:
        buffer = _ErrorKeepingFile(file)
        with defer_signals(_CALLED_BY_HDF5), _create_h5(buffer) as h5:
            yield h5
            buffer.check()
        buffer.check()


def _verify(kind: str, part: Path) -> None:
    """Raise `OSError` unless all checksums match and the file is of this kind."""
    try:
        with part.open("rb") as file:
            footer = read_footer(file)
            CheckedPages(file, footer).check_all()
        valid = footer.index.attrs.get("milpath_kind") == kind
    except ChecksumError as error:
        raise OSError(f"what was written cannot be read back: {error}") from None
    if not valid:
        raise OSError("what was written cannot be read back")


def _create_h5(file: io.RawIOBase) -> h5py.File:
    """Create an HDF5 file without timestamps, so that the same contents give the same bytes."""
    ordered = h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED
    create = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    create.set_obj_track_times(False)
    create.set_link_creation_order(ordered)
    create.set_attr_creation_order(ordered)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, file)
    return h5py.File(h5py.h5f.create(b"new", h5py.h5f.ACC_TRUNC, fapl=access, fcpl=create))


class _ErrorKeepingFile(io.RawIOBase):
    """File that keeps its first error until `check`, instead of raising it into the HDF5 library.

    HDF5 cannot recover from a failed write: on a full disk it leaves readable files with zeroed
    rows, and may crash the process at exit. A buffered file can fail in any call, also in a seek or
    a read, so all of them are guarded.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._at = 0
        self._size = 0
        self._error: OSError | ValueError | None = None

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self._error is not None:
            raise self._error

    def _try(self, action: Callable[[], object]) -> None:
        if self._error is None:
            try:
                action()
            except (OSError, ValueError) as error:  # ValueError: already closed
                self._error = error

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        self._try(lambda: self._file.seek(self._at))
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))

        def read() -> None:
            data = self._file.read(len(view))
            view[: len(data)] = data

        self._try(read)
        self._at += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._try(lambda: self._file.write(view))
        self._at += len(view)
        self._size = max(self._size, self._at)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._size = self._at if size is None else size
        self._try(lambda: self._file.truncate(self._size))
        return self._size

    def flush(self) -> None:
        self._try(self._file.flush)


_CALLED_BY_HDF5 = frozenset(
    method.__code__
    for method in (
        *(_ErrorKeepingFile.seek, _ErrorKeepingFile.tell, _ErrorKeepingFile.readinto),
        *(_ErrorKeepingFile.write, _ErrorKeepingFile.truncate, _ErrorKeepingFile.flush),
    )
)
