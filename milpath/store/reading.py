"""HDF5 from strangers, opened with care."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.store.writing import FORMAT_VERSION

_MAX_DATASET_BYTES = 1 << 38
_MAX_ATTR_BYTES = 1 << 20


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


def _has_filter(dataset: h5py.Dataset) -> bool:
    return bool(dataset.id.get_create_plist().get_nfilters())
