"""Checked reading of bags, predictions and weights, without the HDF5 library."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.store.datasets import StoredH5, find_pieces
from milpath.store.integrity import (
    CheckedPages,
    ChecksumError,
    Footer,
    IndexedDataset,
    MissingFooterError,
    read_footer,
)
from milpath.store.writing import READABLE


@contextmanager
def open_h5(path: Path, kind: str) -> Iterator[SafeH5]:
    """Open an HDF5 file of milpath for reading; it need not be trusted.

    Raises
    ------
    StoredFileError : missing, damaged, modified by another program, of another kind or format
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
        except MissingFooterError as error:
            raise StoredFileError(
                f"{path.name}: was modified outside milpath: {error}, or it is of another program; "
                f"expected a {kind} file as milpath wrote it; milpath check --reseal gives a valid "
                "one its checksums back"
            ) from None
        except (ChecksumError, OSError) as error:
            raise StoredFileError(
                f"{path.name}: not a {kind} file, or damaged ({error}); create it again"
            ) from None
        _require_kind(safe, path.name, kind)
        yield safe


def _require_kind(safe: SafeH5, name: str, kind: str) -> None:
    found = safe.attr("milpath_kind")
    if found != kind:
        what = f"a {_shorten(found)} file" if found else "an HDF5 file that milpath did not write"
        raise StoredFileError(f"{name}: expected a {kind} file, this is {what}")
    version = safe.require_attr("milpath_format")
    if version in READABLE:
        return
    old = isinstance(version, int) and version < READABLE[0]
    remedy = f"make this {kind} again" if old else "update milpath"
    raise StoredFileError(
        f"{name}: has format {_shorten(version)}; this milpath reads format {READABLE[0]} to "
        f"{READABLE[-1]}; {remedy}"
    )


def _shorten(value: object) -> str:
    """Make a value of an untrusted file short and printable for a message."""
    return ascii(str(value)[:40])[1:-1]


class SafeH5(StoredH5[IndexedDataset]):
    """Read an HDF5 file of milpath by its index and checksums.

    Several threads may read at a time.

    Parameters
    ----------
    path : for messages
    file : the same file, open for reading
    footer : its footer

    Raises
    ------
    ChecksumError : damaged outside the datasets, or the index does not match the file
    """

    def __init__(self, path: Path, file: IO[bytes], footer: Footer) -> None:
        super().__init__(path.name, footer.index.attrs, footer.index.datasets)
        self._pages = CheckedPages(file, footer)
        self._lock = threading.Lock()
        for name, dataset in footer.index.datasets.items():
            if not dataset.fits(footer.h5_bytes):
                raise ChecksumError(f"{name[:80]!r} declares more bytes than the file holds")
        self._pages.check_metadata()

    def check_all(self) -> None:
        """Check every page; raises `ChecksumError` or `OSError`."""
        with self._lock:
            self._pages.check_all()

    def refuse(self, fact: str) -> StoredFileError:
        """Return the error to raise for contents that cannot be right, stated by `fact`."""
        return StoredFileError(
            f"{self.name}: {fact}; the file is damaged or was not written by milpath"
        )

    def _fill(self, dataset: IndexedDataset, low: int, values: NDArray[Any]) -> None:
        target = values.reshape(-1).view(np.uint8).data
        begin = low * dataset.row_bytes
        for place, done, part in find_pieces(dataset, begin, len(target)):
            with self._lock:
                self._pages.read_into(place, target[done : done + part])
