"""Files that exist complete or not at all, and HDF5 from strangers opened with care."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from milpath import __version__
from milpath.errors import OutputError, StoredFileError

FORMAT_VERSION = 1
"""Of the files below; a newer one is refused."""

_MAX_DATASET_BYTES = 1 << 38
_MAX_ATTR_BYTES = 1 << 20


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


@contextmanager
def publish_h5(path: Path, kind: str) -> Iterator[h5py.File]:
    """`publish` for an HDF5 file, stamped with its kind, format version and milpath's version.

    Parameters
    ----------
    path : where the file goes
    kind : what it is: "bag", "prediction", "weights"
    """
    with publish(path) as file:
        steady = _SteadyFile(file)
        with _create_h5(steady) as h5:
            h5.attrs["milpath_kind"] = kind
            h5.attrs["milpath_format"] = FORMAT_VERSION
            h5.attrs["milpath_version"] = __version__
            yield h5
            steady.check()
        steady.check()


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
        self._error: OSError | None = None

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def _try(self, action: Callable[[], object]) -> None:
        if self._error is None:
            try:
                action()
            except OSError as error:
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


@contextmanager
def open_h5(path: Path, kind: str) -> Iterator[SafeH5]:
    """A milpath HDF5 file, opened for reading, whoever wrote it.

    Raises
    ------
    StoredFileError : missing, damaged, not of this kind, or from a newer milpath
    """
    if not path.is_file():
        raise StoredFileError(f"{path.name}: there is no such {kind} file; check the path")
    try:
        h5 = h5py.File(path, "r", locking=False)
    except OSError:
        raise StoredFileError(
            f"{path.name}: not a {kind} file, or damaged (no HDF5 file); make it again"
        ) from None
    with h5:
        safe = SafeH5(path, h5)
        found = safe.attr("milpath_kind")
        if found != kind:
            what = f"a {found} file" if found else "an HDF5 file that milpath did not write"
            raise StoredFileError(f"{path.name}: expected a {kind} file, this is {what}")
        version = safe.need("milpath_format")
        if version != FORMAT_VERSION:
            raise StoredFileError(
                f"{path.name}: format {version} is not the one this milpath reads "
                f"({FORMAT_VERSION}); update milpath"
            )
        yield safe


class SafeH5:
    """Named reads from an HDF5 file that check before they allocate.

    Only plain hard-linked datasets of the expected dtype kind and shape are read: links to other
    files, external and virtual storage, and sizes that the file cannot hold are refused.
    """

    def __init__(self, path: Path, h5: h5py.File) -> None:
        self._path = path
        self._h5 = h5

    def __contains__(self, name: str) -> bool:
        with self._damage_refused(name):
            return self._h5.get(name, getlink=True) is not None

    def attr(self, name: str) -> Any:
        """An attribute of the file as a Python number or string, None when it is absent."""
        return self._plain(self._h5, name)

    def need(self, name: str) -> Any:
        """As `attr`, but absent is an error."""
        value = self.attr(name)
        if value is None:
            raise self.refuse(f"attribute {name!r} is missing")
        return value

    def json(self, name: str) -> Any:
        """An attribute that holds JSON."""
        try:
            return json.loads(self.need(name))
        except (TypeError, ValueError):
            raise self.refuse(f"attribute {name!r} is not JSON") from None

    def dataset_attr(self, dataset: str, name: str) -> Any:
        """As `attr`, of a dataset."""
        return self._plain(self._dataset(dataset), name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a dataset."""
        return tuple(self._dataset(name).shape)

    def read(
        self, name: str, dtype: str, shape: tuple[int | None, ...], rows: Any = slice(None)
    ) -> NDArray[Any]:
        """A dataset, or some of its first axis.

        Parameters
        ----------
        name : its name in the root of the file
        dtype : what it must be, such as "int64"
        shape : what it must be, None for any length
        rows : index into the first axis

        Raises
        ------
        StoredFileError : absent, of another dtype or shape, or not plainly in this file
        """
        dataset = self._dataset(name)
        if dataset.dtype != np.dtype(dtype):
            raise self.refuse(f"{name!r} is {dataset.dtype}, expected {dtype}")
        fits = len(shape) == dataset.ndim and all(
            want is None or want == got for want, got in zip(shape, dataset.shape, strict=True)
        )
        if not fits:
            raise self.refuse(f"{name!r} has shape {dataset.shape}, expected {shape}")
        with self._damage_refused(name):
            offset = dataset.id.get_offset()
            if isinstance(rows, np.ndarray) and offset is not None:
                # HDF5 takes a hundred microseconds a row, the file itself one
                plain = np.memmap(self._path, dataset.dtype, "r", offset, dataset.shape)
                return np.array(plain[rows])
            return np.asarray(dataset[rows])

    def _dataset(self, name: str) -> h5py.Dataset:
        with self._damage_refused(name):
            link = self._h5.get(name, getlink=True)
            if link is None:
                raise self.refuse(f"{name!r} is missing")
            if not isinstance(link, h5py.HardLink):
                raise self.refuse(f"{name!r} is a link, not data")
            dataset = self._h5[name]
            if not isinstance(dataset, h5py.Dataset):
                raise self.refuse(f"{name!r} is a group, not data")
            plain = dataset.external is None and not dataset.is_virtual
            if not plain or dataset.dtype.kind not in "biuf" or _has_filter(dataset):
                raise self.refuse(f"{name!r} is not plain numbers stored in this file")
            if dataset.nbytes > min(_MAX_DATASET_BYTES, self._path.stat().st_size):
                raise self.refuse(f"{name!r} declares more bytes than the file holds")
            return dataset

    def _plain(self, holder: h5py.HLObject, name: str) -> Any:
        with self._damage_refused(name):
            attrs = holder.attrs
            if name not in attrs:
                return None
            kind = attrs.get_id(name)
            if kind.shape != () or kind.get_storage_size() > _MAX_ATTR_BYTES:
                raise self.refuse(f"attribute {name!r} is too large or not a single value")
            value = attrs[name]
            if isinstance(value, bytes):
                return value.decode("utf-8", "replace")
            return value.item() if isinstance(value, np.generic) else value

    @contextmanager
    def _damage_refused(self, name: str) -> Iterator[None]:
        """Turn what h5py raises on damage, which can be anything, into our own error."""
        try:
            yield
        except (OSError, RuntimeError, LookupError, TypeError, ValueError, MemoryError) as error:
            said = " ".join(str(error).split())
            raise self.refuse(f"{name!r} cannot be read ({said})") from None

    def refuse(self, fact: str) -> StoredFileError:
        """The error to raise when a fact about this file is not as it should be."""
        return StoredFileError(f"{self._path.name}: {fact}; the file is damaged or not milpath's")


def fingerprint(*parts: object) -> str:
    """A short digest of JSON-able values: equal exactly when the values are."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _has_filter(dataset: h5py.Dataset) -> bool:
    return bool(dataset.id.get_create_plist().get_nfilters())


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
