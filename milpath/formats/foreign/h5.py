"""Features in HDF5 files: opened by name, read by rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.formats.foreign.arrays import as_coords, as_rows
from milpath.formats.foreign.folders import find_files
from milpath.slides.names import is_printable
from milpath.store.foreign import ForeignH5, open_foreign_h5

_TRIED = 3  # files from either end of a folder, until one can be read


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
        shape = self._stored
        if len(shape) == 3 and shape[0] == 1:
            shape = shape[1:]
        if shape == (0,):  # as TRIDENT leaves a slide without tissue
            shape = (0, 0)
        if len(shape) == 1:
            raise h5.refuse("holds one vector a slide, expected one a patch")
        if len(shape) != 2 or self._kind.kind != "f" or (shape[0] and not shape[1]):
            raise h5.refuse(
                f"{name!r} is {self._kind} of shape {self._stored}, expected floating-point "
                "numbers of shape (patches, dimension)"
            )
        self.shape = shape
        self.dtype = np.dtype(np.float16 if self._kind == np.float16 else np.float32)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Read rows, a slice without a step or int64 indices; raise `StoredFileError`."""
        kind = str(self._kind)
        if not self.shape[0]:
            empty: NDArray[Any] = np.zeros(self.shape, self.dtype)[rows]
            return empty
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


def get_number(value: object) -> float | None:
    """Return the number of an attribute, also one in a list of one or one that is written as text.

    None if it is no finite number.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def get_size(value: object) -> float | None:
    """Return the number of an attribute that is above 0; None if it is none."""
    number = get_number(value)
    return number if number is not None and number > 0 else None


def get_text(value: object) -> str | None:
    """Return the text of an attribute; None if it is no text, empty, or has control characters."""
    return value if isinstance(value, str) and value and is_printable(value) else None


def get_whole(value: object) -> int | None:
    """Return the whole number of an attribute, also of one stored as float; None if it is none."""
    number = get_number(value)
    return int(number) if number is not None and number == int(number) and number > 0 else None


# -- which layout ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class H5Sample:
    """What an HDF5 file of a folder holds, by which layouts are distinguished.

    Parameters
    ----------
    path : of the file
    attrs : of the file
    shapes : of the datasets that can be read, by name
    dataset_attrs : of the same datasets
    problem : why it cannot be read; None if it can
    """

    path: Path
    attrs: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dataset_attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problem: str | None = None


def find_h5(
    folder: Path, fits: Callable[[H5Sample], bool], *, of_milpath: bool = False
) -> dict[str, Path]:
    """Return the `.h5` file of each slide by its id; empty unless samples of them fit.

    Parameters
    ----------
    folder : where they are
    fits : whether a file is of the layout
    of_milpath : ask it also of files of milpath, which are of no other layout
    """
    samples = [each for each in describe_samples(folder) if each.problem is None]
    own = bool(samples) and all(of_milpath or "milpath_kind" not in each.attrs for each in samples)
    return find_files(folder, ".h5") if own and all(map(fits, samples)) else {}


def describe_samples(folder: Path) -> list[H5Sample]:
    """Describe a file from either end of the `.h5` files of a folder, sorted by name.

    One that cannot be read is described only if the next ones cannot be read either. Empty without
    `.h5` files.
    """
    paths = list(find_files(folder, ".h5").values())
    ends = (paths[:_TRIED], paths[::-1][:_TRIED])
    samples = [_describe_first(end) for end in ends if end]
    return samples[:1] if len({each.path for each in samples}) == 1 else samples


def _describe_first(paths: list[Path]) -> H5Sample:
    samples = []
    for path in paths:
        stat = path.stat()
        samples.append(_describe(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns)))
        if samples[-1].problem is None:
            return samples[-1]
    return samples[0]


@lru_cache(maxsize=8)
def _describe(path: Path, _identity: tuple[int, ...]) -> H5Sample:
    """Describe a file once for all layouts."""
    try:
        with ExitStack() as files:
            h5 = enter_h5(files, path)
            shapes, attrs = {}, {}
            for name in h5.names:
                with suppress(StoredFileError):
                    shapes[name], attrs[name] = h5.shape(name), h5.dataset_attrs(name)
            return H5Sample(path, h5.attrs, shapes, attrs)
    except StoredFileError as error:
        return H5Sample(path, problem=str(error))
