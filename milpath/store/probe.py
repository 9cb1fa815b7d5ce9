"""Description of HDF5 files of other programs, made in a child process under limits.

The HDF5 library is not safe with damaged or untrusted files: it can crash, loop for ever, or
allocate whatever a file declares. So it opens such a file only here, in a process that may end, and
returns where the numbers lie. The numbers themselves are read without the library, see
`milpath.store.foreign`.

The process reads one JSON list per line, a path and a limit in seconds, and writes one JSON object
per line: the description of that file, or `{"problem": text}`.
"""

from __future__ import annotations

import array
import base64
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

MEMORY_BYTES = 300 << 20
"""Address space that a description may take, above that of the process after its imports."""
ANSWER_BYTES = 64 << 20
"""Maximum length of a description."""
FILTERS = {1: "gzip", 2: "shuffle", 32000: "lzf"}
"""Filters of chunks that milpath can undo, by their number."""

_H5_MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_OBJECTS = 20_000
_MAX_DEPTH = 32
_MAX_ATTRS = 1000  # of one object
_MAX_ATTR_NUMBERS = 64
_MAX_TEXT = 1 << 20  # characters of an attribute, or of all texts of a dataset
_MAX_ALL_TEXT = 4 << 20  # characters of all attributes
_MAX_AXES = 8
_MAX_CHUNKS = 1 << 20
_SMALL_BYTES = 64 << 20  # may be declared by any file, however well it compresses
_MAX_RATIO = 20  # bytes per compressed byte, beyond that


class _FileProblemError(Exception):
    """The file as a whole is refused; the text says why."""


class _DatasetProblemError(Exception):
    """A dataset cannot be read; the text says why. The others can."""


def cpu_seconds(size: int) -> float:
    """Return the processor time that the description of a file with `size` bytes may take."""
    return 0.5 + size / (1 << 30)


def describe_file(path: Path) -> dict[str, Any]:
    """Return the attributes and datasets of an HDF5 file, and where their bytes lie.

    Raises
    ------
    _FileProblemError : no HDF5 file, or one with too many objects
    Exception : of any type that h5py raises for a damaged file
    """
    before = os.stat(path)  # noqa: PTH116 (as os.fstat)
    with path.open("rb") as file:
        if file.read(8) != _H5_MAGIC:
            raise _FileProblemError("is no HDF5 file")
    with h5py.File(path, "r", locking=False) as h5:
        walk = _Walk(h5, before.st_size)
        datasets = dict(walk.describe_all())
        found = {"attrs": walk.read_attrs(h5), "datasets": datasets}
    return found | {"identity": identify(before)}


def identify(status: os.stat_result) -> list[int]:
    """Return numbers that differ when a file was changed or replaced."""
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


class _Walk:
    """All objects of an open file, each described once."""

    def __init__(self, h5: h5py.File, file_bytes: int) -> None:
        self._h5 = h5
        self._file_bytes = file_bytes
        self._text = 0
        self._objects = 0

    def describe_all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the path and the description of each dataset, and of what cannot be read."""
        groups: list[tuple[str, Any, int]] = [("", self._h5, 0)]
        seen = {_address(self._h5)}
        while groups:
            prefix, group, depth = groups.pop()
            self._count(len(group), depth)
            for name in group:
                path = prefix + name
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    yield path, _unreadable("is a link to another place")
                    continue
                item = group[name]
                if not isinstance(item, h5py.Group):
                    yield path, self._describe(item)
                elif _address(item) not in seen:
                    seen.add(_address(item))
                    groups.append((f"{path}/", item, depth + 1))

    def _count(self, more: int, depth: int) -> None:
        self._objects += more
        if self._objects > _MAX_OBJECTS:
            raise _FileProblemError(f"holds more than {_MAX_OBJECTS} datasets and groups")
        if depth > _MAX_DEPTH:
            raise _FileProblemError(f"holds groups in groups, more than {_MAX_DEPTH} deep")

    def _describe(self, item: Any) -> dict[str, Any]:
        if not isinstance(item, h5py.Dataset):
            return _unreadable("is no dataset")
        try:
            found = _describe_dataset(item, self._file_bytes)
        except _DatasetProblemError as error:
            return _unreadable(str(error))
        return found | {"attrs": self.read_attrs(item)}

    def read_attrs(self, holder: Any) -> dict[str, Any]:
        """Return the attributes that are numbers, texts, or short lists of them."""
        if h5py.h5a.get_num_attrs(holder.id) > _MAX_ATTRS:
            raise _FileProblemError(f"holds more than {_MAX_ATTRS} attributes")
        found = {}
        for name in holder.attrs:
            value = _read_attr(holder, name)
            if value is not None:
                self._text += len(value) if isinstance(value, str) else 0
                found[name] = value
        if self._text > _MAX_ALL_TEXT:
            raise _FileProblemError("holds too much text in its attributes")
        return found


def _address(item: Any) -> tuple[int, int]:
    info = h5py.h5o.get_info(item.id)
    return info.fileno, info.addr


def _unreadable(problem: str) -> dict[str, Any]:
    return {"dtype": "", "shape": [], "attrs": {}, "problem": problem}


# -- attributes ------------------------------------------------------------------------------------


def _read_attr(holder: Any, name: str) -> Any:
    """Return a number, a text, or a short list of them; None for anything else."""
    attr = holder.attrs.get_id(name)
    if attr.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        return None
    try:
        dtype = attr.dtype
    except TypeError:  # of a type that NumPy lacks
        return None
    count = math.prod(attr.shape)
    few = count <= _MAX_ATTR_NUMBERS and count * dtype.itemsize <= _MAX_TEXT
    if not few or not (_is_plain(dtype) or h5py.check_string_dtype(dtype)):
        return None
    return _to_python(holder.attrs[name])


def _to_python(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        items = [_to_python(each) for each in value.reshape(-1)]
        text = sum(len(each) for each in items if isinstance(each, str))
        return None if None in items or text > _MAX_TEXT else items
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else None
    return value if isinstance(value, int | float) else None


# -- datasets --------------------------------------------------------------------------------------


def _is_plain(dtype: np.dtype[Any]) -> bool:
    """Return whether values are integers, floats or truth values of NumPy's own types."""
    return dtype.kind in "biuf" and dtype.itemsize <= 8 and dtype.metadata is None


def _describe_dataset(dataset: h5py.Dataset, file_bytes: int) -> dict[str, Any]:
    if dataset.is_virtual or dataset.external:
        raise _DatasetProblemError("lies in another file")
    if dataset.id.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        raise _DatasetProblemError("is empty, without a shape")
    if len(dataset.shape) > _MAX_AXES:
        raise _DatasetProblemError(f"has more than {_MAX_AXES} axes")
    try:
        dtype = dataset.dtype
    except TypeError:
        raise _DatasetProblemError("is of a type that h5py lacks") from None
    filters = _read_filters(dataset)
    if h5py.check_string_dtype(dtype):
        return _describe_texts(dataset, dtype)
    if not _is_plain(dtype):
        raise _DatasetProblemError("holds other values than plain numbers or texts")
    if not dataset.id.get_type().equal(h5py.h5t.py_create(dtype)):
        raise _DatasetProblemError("is of a number type that NumPy lacks, such as bfloat16")
    found = {"dtype": dtype.str, "shape": list(dataset.shape), "problem": None}
    return found | _locate(dataset, filters, file_bytes)


def _read_filters(dataset: h5py.Dataset) -> list[str]:
    """Return the names of the filters, in the order in which they were applied."""
    created = dataset.id.get_create_plist()
    names = []
    for number in range(created.get_nfilters()):
        code, _, values, _ = created.get_filter(number)
        if code not in FILTERS:
            raise _DatasetProblemError(f"is compressed by another filter ({code}) than gzip or lzf")
        if code == 2 and values[:1] != (dataset.id.get_type().get_size(),):
            raise _DatasetProblemError("has a damaged shuffle filter")
        names.append(FILTERS[code])
    return names


def _describe_texts(dataset: h5py.Dataset, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Describe a dataset of texts, which are returned themselves."""
    if math.prod(dataset.shape) * dtype.itemsize > _MAX_TEXT:
        raise _DatasetProblemError("holds too much text")
    texts = [_to_python(each) for each in np.asarray(dataset[()]).reshape(-1)]
    if None in texts or sum(map(len, texts)) > _MAX_TEXT:
        raise _DatasetProblemError("holds too much text")
    return {"dtype": "str", "shape": list(dataset.shape), "problem": None, "texts": texts}


def _locate(dataset: h5py.Dataset, filters: list[str], file_bytes: int) -> dict[str, Any]:
    """Return where the numbers lie: their bytes, extents in the file, or chunks."""
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    if declared == 0:
        return {"extents": []}
    layout = dataset.id.get_create_plist().get_layout()
    if layout == h5py.h5d.COMPACT:
        return {"bytes": base64.b64encode(dataset[()].tobytes()).decode()}
    if layout == h5py.h5d.CONTIGUOUS:
        offset = dataset.id.get_offset()
        if offset is None or offset + declared > file_bytes:
            raise _DatasetProblemError("declares more numbers than the file holds")
        return {"extents": [[offset, declared]]}
    return _locate_chunks(dataset, filters, file_bytes)


def _locate_chunks(dataset: h5py.Dataset, filters: list[str], file_bytes: int) -> dict[str, Any]:
    shape, chunk = dataset.shape, dataset.chunks
    grid = [-(-length // part) for length, part in zip(shape, chunk, strict=True)]
    count = math.prod(grid)
    if count > _MAX_CHUNKS:
        raise _DatasetProblemError("has too many chunks")
    table = _tabulate_chunks(dataset, grid)
    if table.min() < 0 or (table[:, 0] > file_bytes - table[:, 1]).any():
        raise _DatasetProblemError("declares more numbers than the file holds")
    stored = int(table[:, 1].sum())
    chunk_bytes = math.prod(chunk) * dataset.dtype.itemsize
    declared = math.prod(shape) * dataset.dtype.itemsize
    most = _SMALL_BYTES + _MAX_RATIO * stored
    if stored > file_bytes or max(declared, chunk_bytes) > most:
        raise _DatasetProblemError("declares more numbers than the file holds")
    if not filters and (table[:, 1] != chunk_bytes).any():
        raise _DatasetProblemError("has chunks of a wrong length")
    if not filters and chunk[1:] == shape[1:]:
        return {"extents": _join(table[:, :2])}
    return {
        "chunk": list(chunk),
        "filters": filters,
        "table": base64.b64encode(table.tobytes()).decode(),
    }


def _tabulate_chunks(dataset: h5py.Dataset, grid: list[int]) -> np.ndarray[Any, Any]:
    """Return (offset, length, filter mask) of each chunk (n, 3) int64, in C order of the grid."""
    found = array.array("q")

    def add(chunk: Any) -> None:
        # every chunk is added: h5py stops where this returns anything but None
        found.extend((*chunk.chunk_offset, chunk.byte_offset, chunk.size, chunk.filter_mask))

    dataset.id.chunk_iter(add)
    axes = len(grid)
    rows = np.frombuffer(found, np.int64).reshape(-1, axes + 3)
    places = rows[:, :axes] // np.asarray(dataset.chunks)
    if ((places < 0) | (places >= grid)).any():
        raise _DatasetProblemError("has chunks outside its shape")
    order = np.ravel_multi_index(tuple(places.T), grid)
    if len(np.unique(order)) != math.prod(grid):
        raise _DatasetProblemError("declares more numbers than the file holds")
    return np.ascontiguousarray(rows[np.argsort(order), axes:])


def _join(pieces: np.ndarray[Any, Any]) -> list[list[int]]:
    """Return (offset, length) of pieces; those that follow each other are one."""
    starts = np.flatnonzero(np.r_[True, pieces[1:, 0] != pieces[:-1].sum(axis=1)])
    lengths = np.add.reduceat(pieces[:, 1], starts)
    return np.stack([pieces[starts, 0], lengths], axis=1).tolist()


# -- the process -----------------------------------------------------------------------------------


def main() -> None:
    """Describe the files whose paths come on stdin, until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a command
        signal.signal(number, signal.SIG_IGN)  # this one ends with stdin
    limit_memory(MEMORY_BYTES)
    for line in sys.stdin:
        path, seconds = json.loads(line)
        print(_describe_under_limits(Path(path), seconds), flush=True)


def _describe_under_limits(path: Path, seconds: float) -> str:
    """Return the answer for a file; the process ends if it takes too much processor time."""
    try:
        limit_time(seconds)
        answer = json.dumps(describe_file(path))
        if len(answer) <= ANSWER_BYTES:
            return answer
        problem = "has too many chunks"
    except _FileProblemError as error:
        problem = str(error)
    except MemoryError:
        problem = "needs too much memory to be read"
    except Exception as error:  # on damage h5py raises errors of many types
        problem = _describe_damage(error)
    finally:
        limit_time(0)
    return json.dumps({"problem": problem})


def _describe_damage(error: Exception) -> str:
    if "truncated file" in str(error):
        return "is cut short"
    if isinstance(error, FileNotFoundError | PermissionError):
        return "was removed, or may not be read"
    if "already open for write" in str(error):
        return "is still open for writing in another program, or that program was killed"
    return "is damaged, or not all of it is HDF5 (the HDF5 library cannot read it)"


def limit_memory(nbytes: int) -> None:
    """Limit the address space of this process to what it takes now and `nbytes` more."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):  # no /proc, or the system has no such limit
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + nbytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def limit_time(seconds: float) -> None:
    """End this process after that much processor time; 0 for no limit."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
