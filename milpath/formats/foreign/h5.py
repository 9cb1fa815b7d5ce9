"""Features in HDF5 files: opened by name, read by rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.formats.foreign.arrays import as_coords, as_rows
from milpath.formats.foreign.folders import find_files
from milpath.store.foreign import ForeignH5, open_foreign_h5

_TRIED = 3  # files that are opened to know a layout


class StoredRows:
    """A dataset of features (N, D), or (1, N, D), whose rows are read when they are asked for.

    Parameters
    ----------
    path : of the file, for messages
    h5 : the open file
    name : of the dataset

    Raises
    ------
    StoredFileError : it is missing, or its type or shape is not that of features
    """

    def __init__(self, path: Path, h5: ForeignH5, name: str) -> None:
        self._path, self._h5, self._name = path, h5, name
        self._stored = h5.shape(name)
        self._kind = np.dtype(h5.dtype(name))
        shape = (
            self._stored[1:] if len(self._stored) == 3 and self._stored[0] == 1 else self._stored
        )
        if len(shape) != 2 or self._kind.kind != "f" or not shape[1]:
            raise h5.refuse(
                f"{name!r} is {self._kind} of shape {self._stored}, expected floating-point "
                "numbers of shape (patches, dimension)"
            )
        self.shape = shape
        self.dtype = np.dtype(np.float16 if self._kind == np.float16 else np.float32)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Read rows, a slice without a step or int64 indices; raise `StoredFileError`."""
        kind = str(self._kind)
        if len(self._stored) == 3:
            values = self._h5.read(self._name, kind, self._stored)[0][rows]
        else:
            values = self._h5.read(self._name, kind, self._stored, rows)
        return as_rows(self._path, values)


def enter_h5(files: ExitStack, path: Path) -> ForeignH5:
    """Open an HDF5 file of any program until `files` closes; raises `StoredFileError`."""
    return files.enter_context(open_foreign_h5(path))


def read_coords(path: Path, h5: ForeignH5, name: str, count: int) -> NDArray[np.int64]:
    """Read x and y of `count` patches, the first two columns, as (N, 2) int64.

    Raises
    ------
    StoredFileError : see `as_coords`
    """
    return as_coords(path, h5.read(name, h5.dtype(name), h5.shape(name)), count)


def find_h5(folder: Path, is_own: Callable[[ForeignH5], bool]) -> dict[str, Path]:
    """Return the HDF5 files of a folder by their names without ".h5", if they are of one layout.

    Parameters
    ----------
    folder : where they are
    is_own : whether an open file is of the layout; some files are tried, of which one may be
        damaged
    """
    found = find_files(folder, ".h5")
    return found if any(_is_own(path, is_own) for path in [*found.values()][:_TRIED]) else {}


def _is_own(path: Path, test: Callable[[ForeignH5], bool]) -> bool:
    try:
        with open_foreign_h5(path) as h5:
            return test(h5)
    except StoredFileError:
        return False


def get_number(value: object) -> float | None:
    """Return the number of an attribute, also one in a list of one; None if it is no number."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def get_text(value: object) -> str | None:
    """Return the text of an attribute; None if it is no text, or empty."""
    return value if isinstance(value, str) and value else None


def get_whole(value: object) -> int | None:
    """Return the whole number of an attribute, also of one stored as float; None if it is none."""
    number = get_number(value)
    return int(number) if number is not None and number == int(number) and number > 0 else None
