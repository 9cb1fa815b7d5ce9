"""HDF5 files written whole or not at all, and the same contents as the same bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import h5py

from milpath import __version__
from milpath.store.integrity import CheckedPages, ChecksumError, add_checksums, read_footer
from milpath.store.publishing import publish
from milpath.store.signals import defer_signals

FORMAT_VERSION = 2
"""Of the files below: 2 since they are sealed; another one is refused."""


@contextmanager
def publish_h5(path: Path, kind: str) -> Iterator[h5py.File]:
    """`publish` for an HDF5 file, stamped with kind, format and milpath's version, and sealed.

    It holds plain numbers in its root, and attributes of one value; anything else is a ValueError.

    Parameters
    ----------
    path : where the file goes
    kind : what it is: "bag", "prediction", "weights"
    """
    with publish(path, partial(_require_whole, kind)) as file:
        steady = _SteadyFile(file)
        with defer_signals(_CALLED_BY_HDF5), _create_h5(steady) as h5:
            h5.attrs["milpath_kind"] = kind
            h5.attrs["milpath_format"] = FORMAT_VERSION
            h5.attrs["milpath_version"] = __version__
            yield h5
            steady.check()
        steady.check()
        add_checksums(file)


def _require_whole(kind: str, part: Path) -> None:
    """Raise `OSError` unless every byte is as it was sealed, and says what it is."""
    try:
        with part.open("rb") as file:
            seal = read_footer(file)
            CheckedPages(file, seal).check_all()
        sound = seal.index.attrs.get("milpath_kind") == kind
    except ChecksumError as error:
        raise OSError(f"what was written cannot be read back: {error}") from None
    if not sound:
        raise OSError("what was written cannot be read back")


def _create_h5(file: io.RawIOBase) -> h5py.File:
    """A new HDF5 file that holds no times: the same contents are the same bytes."""
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


class _SteadyFile(io.RawIOBase):
    """A file that keeps its first error for later instead of raising it into the HDF5 library.

    HDF5 cannot unwind from a failed write: on a full disk it leaves readable files with zeroed rows
    and may take the process down at exit. Here it never sees the failure; `check` raises it. A
    buffered file may fail in any call, also when it seeks or reads: so all of them are guarded.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._at = 0
        self._size = 0
        self._error: OSError | ValueError | None = None

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def _try(self, action: Callable[[], object]) -> None:
        if self._error is None:
            try:
                action()
            except (OSError, ValueError) as error:  # the second when it is closed already
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
        *(_SteadyFile.seek, _SteadyFile.tell, _SteadyFile.readinto),
        *(_SteadyFile.write, _SteadyFile.truncate, _SteadyFile.flush),
    )
)
