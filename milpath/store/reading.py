"""Bags, predictions and weights read back, whoever wrote them, without HDF5's own library."""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.store.integrity import (
    CheckedPages,
    ChecksumError,
    Footer,
    IndexedDataset,
    read_footer,
)
from milpath.store.writing import FORMAT_VERSION

_COPY_BYTES = 1 << 20
_NEAR_BYTES = 1 << 16  # between scattered rows: to check these is as quick as to read anew
_RUN_BYTES = 1 << 22  # that scattered rows are read in, at most


@contextmanager
def open_h5(path: Path, kind: str) -> Iterator[SafeH5]:
    """A milpath HDF5 file, opened for reading, whoever wrote it.

    Raises
    ------
    StoredFileError : missing, damaged, changed, not of this kind, or of another format
    """
    if not path.is_file():
        raise StoredFileError(f"{path.name}: there is no such {kind} file; check the path")
    try:
        file = path.open("rb")
    except OSError as error:
        raise StoredFileError(f"{path.name}: cannot be read ({error.strerror})") from None
    with file:
        try:
            safe = SafeH5(path, file, read_footer(file))
        except (ChecksumError, OSError) as error:
            fact = str(error) if file.seek(0) or file.read(4) == b"\x89HDF" else "no HDF5 file"
            raise StoredFileError(
                f"{path.name}: not a {kind} file, or damaged ({fact}); make it again"
            ) from None
        _require_kind(safe, path.name, kind)
        yield safe


def _require_kind(safe: SafeH5, name: str, kind: str) -> None:
    found = safe.attr("milpath_kind")
    if found != kind:
        what = f"a {_told(found)} file" if found else "an HDF5 file that milpath did not write"
        raise StoredFileError(f"{name}: expected a {kind} file, this is {what}")
    version = safe.need("milpath_format")
    if version != FORMAT_VERSION:
        raise StoredFileError(
            f"{name}: format {_told(version)} is not the one this milpath reads "
            f"({FORMAT_VERSION}); update milpath"
        )


def _told(value: object) -> str:
    """A stranger's value in a message."""
    return ascii(str(value)[:40])[1:-1]


class SafeH5:
    """Named reads from a sealed HDF5 file; nothing is allocated that the file does not hold.

    May be read by several threads at a time.

    Raises
    ------
    ChecksumError : damaged outside its datasets, or the seal does not fit the file
    """

    def __init__(self, path: Path, file: IO[bytes], seal: Footer) -> None:
        self._path = path
        self._index = seal.index
        self._pages = CheckedPages(file, seal)
        self._turn = threading.Lock()
        for name, dataset in seal.index.datasets.items():
            if not dataset.fits(seal.h5_bytes):
                raise ChecksumError(f"{name[:80]!r} declares more bytes than the file holds")
        self._pages.check_rest()

    def __contains__(self, name: str) -> bool:
        return name in self._index.datasets

    def attr(self, name: str) -> Any:
        """An attribute of the file as a Python number or string, None when it is absent."""
        return self._index.attrs.get(name)

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
        except (TypeError, ValueError, RecursionError):
            raise self.refuse(f"attribute {name!r} is not JSON") from None

    def dataset_attr(self, dataset: str, name: str) -> Any:
        """As `attr`, of a dataset."""
        return self._dataset(dataset).attrs.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a dataset."""
        return self._dataset(name).shape

    def require(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> IndexedDataset:
        """As `read`, but the dataset is only looked at."""
        dataset = self._dataset(name)
        if np.dtype(dataset.dtype) != np.dtype(dtype):
            raise self.refuse(f"{name!r} is {np.dtype(dataset.dtype)}, expected {dtype}")
        fits = len(shape) == len(dataset.shape) and all(
            want is None or want == got for want, got in zip(shape, dataset.shape, strict=True)
        )
        if not fits:
            raise self.refuse(f"{name!r} has shape {dataset.shape}, expected {shape}")
        return dataset

    def read(
        self, name: str, dtype: str, shape: tuple[int | None, ...], rows: Any = slice(None)
    ) -> NDArray[Any]:
        """A dataset, or some of its first axis.

        Parameters
        ----------
        name : its name in the root of the file
        dtype : what it must be, such as "int64"
        shape : what it must be, None for any length
        rows : a slice without a step, or an array of indices, of the first axis

        Raises
        ------
        StoredFileError : absent, of another dtype or shape, or damaged there
        """
        dataset = self.require(name, dtype, shape)
        with self._damage_refused(name):
            if isinstance(rows, np.ndarray):
                return self._scattered(dataset, rows)
            if not dataset.shape:
                return self._span(dataset, 0, 1).reshape(())
            low, high, _ = rows.indices(dataset.shape[0])
            return self._span(dataset, low, max(low, high))

    def copy(self, h5: h5py.File, without: str) -> None:
        """Put its attributes and its datasets, but one, into a file that is being made."""
        for name, value in self._index.attrs.items():
            if not name.startswith("milpath_"):
                h5.attrs[name] = value
        for name, dataset in self._index.datasets.items():
            if name == without:
                continue
            made = h5.create_dataset(name, dataset.shape, dataset.dtype)
            step = max(1, _COPY_BYTES // max(1, dataset.row_bytes))
            for low in range(0, dataset.shape[0], step):
                made[low : low + step] = self.read(
                    name, dataset.dtype, dataset.shape, slice(low, low + step)
                )
            for attr, value in dataset.attrs.items():
                made.attrs[attr] = value

    def refuse(self, fact: str) -> StoredFileError:
        """The error to raise when a fact about this file is not as it should be."""
        return StoredFileError(f"{self._path.name}: {fact}; the file is damaged or not milpath's")

    def _dataset(self, name: str) -> IndexedDataset:
        dataset = self._index.datasets.get(name)
        if dataset is None:
            raise self.refuse(f"{name!r} is missing")
        return dataset

    def _span(self, dataset: IndexedDataset, low: int, high: int) -> NDArray[Any]:
        """The rows from `low` to `high`."""
        values = np.empty((high - low, *dataset.shape[1:]), dataset.dtype)
        if values.nbytes:
            target = values.reshape(-1).view(np.uint8).data
            self._fill(dataset, low * dataset.row_bytes, target)
        return values

    def _scattered(self, dataset: IndexedDataset, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows here and there; those that lie near each other are read at once."""
        if rows.size and not 0 <= rows.min() <= rows.max() < dataset.shape[0]:
            raise IndexError("no such row")
        unique, inverse = np.unique(rows, return_inverse=True)
        values = np.empty((len(unique), *dataset.shape[1:]), dataset.dtype)
        near = 1 + _NEAR_BYTES // max(1, dataset.row_bytes)
        most = max(1, _RUN_BYTES // max(1, dataset.row_bytes))
        apart = (np.diff(unique) > near) | (np.diff(unique // most) > 0)
        ends = [*(np.flatnonzero(apart) + 1).tolist(), len(unique)]
        start = 0
        for end in ends if len(unique) else ():
            low, high = int(unique[start]), int(unique[end - 1]) + 1
            values[start:end] = self._span(dataset, low, high)[unique[start:end] - low]
            start = end
        return values[inverse]

    def _fill(self, dataset: IndexedDataset, begin: int, target: memoryview) -> None:
        """Fill `target` with the bytes of a dataset from its byte `begin` on."""
        done = 0
        while done < len(target):
            number = bisect_right(dataset.starts, begin + done) - 1
            offset, length = dataset.extents[number]
            inside = begin + done - dataset.starts[number]
            part = min(length - inside, len(target) - done)
            with self._turn:
                self._pages.read_into(offset + inside, target[done : done + part])
            done += part

    @contextmanager
    def _damage_refused(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ChecksumError, OSError, IndexError, MemoryError) as error:
            raise self.refuse(f"{name!r} cannot be read ({error})") from None
