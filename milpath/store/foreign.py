"""Reading of HDF5 files of other programs, which have no checksums of milpath.

A child process describes each file under limits of memory and time, see `milpath.store.probe`:
names, shapes, types, attributes, and where the bytes lie. Here those bytes are read and
decompressed without the HDF5 library, so no file can crash this process or make it loop for ever.
"""

from __future__ import annotations

import atexit
import base64
import json
import math
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.store.datasets import StoredH5, find_pieces
from milpath.store.integrity import (
    CheckedPages,
    ChecksumError,
    Footer,
    announce_read,
    has_footer,
    read_footer,
)
from milpath.store.probe import ANSWER_BYTES, cpu_seconds, identify

_WAITING = 20  # times the processor time that a description may take: disks can be slow
_FILES_PER_PROCESS = 2000  # memory that the HDF5 library keeps is freed after so many


# -- what a file holds -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunks:
    """Chunks of a dataset, each compressed.

    Attributes
    ----------
    shape : of a chunk; those at the ends are as large
    filters : names, in the order in which they were applied
    table : (offset in the file, length, mask of filters left out) of each chunk (n, 3) int64, in C
        order of the grid of chunks
    """

    shape: tuple[int, ...]
    filters: tuple[str, ...]
    table: NDArray[np.int64]


@dataclass(frozen=True)
class ForeignDataset:
    """A dataset of another program's file, and where its bytes are.

    Attributes
    ----------
    stored : NumPy's name of the type in the file
    shape : lengths of the axes
    attrs : attributes that are numbers, texts or short lists of them
    extents : (offset in the file, length) of the pieces, if it lies in pieces
    chunks : if it lies in chunks
    data : its bytes, if they are few and lie elsewhere
    texts : its values if they are texts, in C order
    problem : why it cannot be read; None if it can
    """

    stored: str
    shape: tuple[int, ...]
    attrs: Mapping[str, Any]
    extents: tuple[tuple[int, int], ...] = ()
    chunks: Chunks | None = None
    data: bytes | None = None
    texts: tuple[str, ...] | None = None
    problem: str | None = None

    @property
    def dtype(self) -> str:
        """NumPy's name of the type in memory, little-endian."""
        return np.dtype(self.stored).newbyteorder("<").str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (an item of the first axis); of the value if there are no axes."""
        return math.prod(self.shape[1:]) * np.dtype(self.stored).itemsize

    @cached_property
    def starts(self) -> list[int]:
        """Offset of each extent in the dataset's bytes, and the end of the last one."""
        return [*accumulate((length for _, length in self.extents), initial=0)]


@dataclass(frozen=True)
class FileDescription:
    """What the child process has found in a file; `identity` as `milpath.store.probe.identify`."""

    identity: tuple[int, ...]
    attrs: Mapping[str, Any]
    datasets: Mapping[str, ForeignDataset]


def _parse_dataset(found: dict[str, Any]) -> ForeignDataset:
    chunks = None
    if "table" in found:
        table = np.frombuffer(base64.b64decode(found["table"]), np.int64).reshape(-1, 3)
        chunks = Chunks(tuple(found["chunk"]), tuple(found["filters"]), table)
    return ForeignDataset(
        stored=found["dtype"],
        shape=tuple(found["shape"]),
        attrs=found["attrs"],
        extents=tuple((at, length) for at, length in found.get("extents", ())),
        chunks=chunks,
        data=base64.b64decode(found["bytes"]) if "bytes" in found else None,
        texts=tuple(found["texts"]) if "texts" in found else None,
        problem=found["problem"],
    )


# -- the child process -----------------------------------------------------------------------------


class ForeignProbe:
    """A child process that describes HDF5 files; a context manager. Several threads may use it.

    It is started when it is first needed, and again after a file has ended it.

    Parameters
    ----------
    max_seconds : processor time for a file; None for a time by its size, about 0.5 s
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self._max_seconds = max_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._described = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    def describe(self, path: Path) -> FileDescription:
        """Describe a file.

        Raises
        ------
        StoredFileError : no HDF5 file, damaged, or one that takes too much time or memory
        """
        try:
            size = path.stat().st_size
        except OSError as error:
            raise StoredFileError(f"{path.name}: cannot be read ({error.strerror})") from None
        with self._lock:
            try:
                answer = self._ask(path, size)
            except BaseException:  # the answer of this file would be taken for that of the next one
                self._end()
                raise
        if "problem" in answer:
            raise StoredFileError(
                f"{path.name}: {answer['problem']}; expected an HDF5 file that h5py opens"
            )
        return FileDescription(
            tuple(answer["identity"]),
            answer["attrs"],
            {name: _parse_dataset(found) for name, found in answer["datasets"].items()},
        )

    def _ask(self, path: Path, size: int) -> dict[str, Any]:
        if self._described >= _FILES_PER_PROCESS:
            self._end()
        process = self._process = self._process or _start()
        assert process.stdin is not None  # a pipe
        assert process.stdout is not None
        self._described += 1
        seconds = self._max_seconds or cpu_seconds(size)
        timer = threading.Timer(_WAITING * seconds, process.kill)
        timer.daemon = True
        timer.start()
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps([str(path.absolute()), seconds]).encode() + b"\n")
                process.stdin.flush()
            line = process.stdout.readline(ANSWER_BYTES + 2)
        finally:
            timer.cancel()
        if line.endswith(b"\n"):
            return json.loads(line)
        self._end()
        return {"problem": "the HDF5 library does not finish reading it, or ends on it"}

    def _end(self) -> None:
        process, self._process, self._described = self._process, None, 0
        if process is not None:
            process.kill()
            with suppress(BrokenPipeError):
                process.communicate()


def _start() -> subprocess.Popen[bytes]:
    """Start the child process; -P: modules in the current folder are not imported."""
    more = {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "milpath.store.probe"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | more,
    )


class _SharedProbe:
    """The probe of this process; a process that was forked gets its own."""

    def __init__(self) -> None:
        self._pid = 0
        self._probe = ForeignProbe()
        self._lock = threading.Lock()

    def get(self) -> ForeignProbe:
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._inherited = self._probe  # kept: its process is not this one's to end
                self._probe = ForeignProbe()
                atexit.register(self._probe.close)
            return self._probe


_SHARED = _SharedProbe()


# -- reading ---------------------------------------------------------------------------------------


@contextmanager
def open_foreign_h5(path: Path, probe: ForeignProbe | None = None) -> Iterator[ForeignH5]:
    """Open an HDF5 file of any program for reading; it need not be trusted.

    One with checksums of milpath is read by them.

    Parameters
    ----------
    path : the file
    probe : describes it; None for the one that this process shares

    Raises
    ------
    StoredFileError : missing, no HDF5 file, cannot be read, or changed meanwhile
    """
    if not path.is_file():
        raise StoredFileError(f"{path.name}: there is no such file; check the path")
    try:
        file = path.open("rb")
    except OSError as error:
        raise StoredFileError(f"{path.name}: cannot be read ({error.strerror})") from None
    with file:
        if has_footer(file):
            footer = _read_valid_footer(path, file)
            found = _describe_indexed(file, footer)
            foreign = ForeignH5(path, file, found, CheckedPages(file, footer))
        else:
            foreign = ForeignH5(path, file, (probe or _SHARED.get()).describe(path))
            foreign.require_unchanged()
        yield foreign


def _read_valid_footer(path: Path, file: IO[bytes]) -> Footer:
    try:
        footer = read_footer(file)
        if not all(each.fits(footer.h5_bytes) for each in footer.index.datasets.values()):
            raise ChecksumError("it declares more bytes than the file holds")
        return footer
    except (ChecksumError, OSError) as error:
        raise StoredFileError(
            f"{path.name}: damaged after milpath wrote it ({error}); create it again"
        ) from None


def _describe_indexed(file: IO[bytes], footer: Footer) -> FileDescription:
    """Describe a file that milpath wrote, by its index."""
    datasets = {
        name: ForeignDataset(each.dtype, each.shape, each.attrs, each.extents)
        for name, each in footer.index.datasets.items()
    }
    identity = tuple(identify(os.fstat(file.fileno())))
    return FileDescription(identity, footer.index.attrs, datasets)


class ForeignH5(StoredH5[ForeignDataset]):
    """Read an HDF5 file of another program by name; as `milpath.store.SafeH5`.

    Datasets in groups have names such as "group/name". Several threads may read at a time.

    Parameters
    ----------
    path : for messages
    file : the same file, open for reading
    found : its description
    pages : the same file, if it has checksums of milpath
    """

    def __init__(
        self,
        path: Path,
        file: IO[bytes],
        found: FileDescription,
        pages: CheckedPages | None = None,
    ) -> None:
        super().__init__(path.name, found.attrs, found.datasets)
        self._file = file
        self._pages = pages
        self._identity = found.identity
        self._lock = threading.Lock()
        self._band: tuple[ForeignDataset, int, NDArray[Any]] | None = None

    @property
    def verified(self) -> bool:
        """Whether all that is read is compared with checksums of milpath."""
        return self._pages is not None

    @property
    def names(self) -> list[str]:
        """Names of all datasets, and of what cannot be read."""
        return list(self._datasets)

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the file: numbers, texts, and short lists of them."""
        return dict(self._attrs)

    def dataset_attrs(self, name: str) -> dict[str, Any]:
        """Return the attributes of a dataset: numbers, texts, and short lists of them."""
        return dict(self._dataset(name).attrs)

    def dtype(self, name: str) -> str:
        """Return the type of a dataset, such as "float16"; "str" for texts."""
        return "str" if self._dataset(name).texts is not None else super().dtype(name)

    def require(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> ForeignDataset:
        """Check a dataset's type and shape as `read` does, without reading its numbers."""
        if self._dataset(name).texts is not None:
            raise self.refuse(f"{name!r} holds texts, expected {dtype}")
        return super().require(name, dtype, shape)

    def read_texts(self, name: str) -> list[str]:
        """Return the texts of a dataset, in C order; raises `StoredFileError`."""
        texts = self._dataset(name).texts
        if texts is None:
            raise self.refuse(f"{name!r} is {self.dtype(name)}, expected texts")
        return list(texts)

    def refuse(self, fact: str) -> StoredFileError:
        """Return the error to raise for contents that cannot be right, stated by `fact`."""
        text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in fact[:400])
        return StoredFileError(f"{self.name}: {text}; check the program that wrote the file")

    def require_unchanged(self) -> None:
        """Raise `StoredFileError` if the file was changed since it was described."""
        if tuple(identify(os.fstat(self._file.fileno()))) != self._identity:
            raise StoredFileError(
                f"{self.name}: was changed while it was read; wait until no program writes "
                "it, and try again"
            )

    def _dataset(self, name: str) -> ForeignDataset:
        dataset = super()._dataset(name)
        if dataset.problem is not None:
            raise self.refuse(f"{name!r} {dataset.problem}")
        return dataset

    def _fill(self, dataset: ForeignDataset, low: int, values: NDArray[Any]) -> None:
        target = values.reshape(-1).view(np.uint8)
        begin = low * dataset.row_bytes
        self.require_unchanged()
        if dataset.data is not None:
            target[:] = np.frombuffer(dataset.data, np.uint8)[begin : begin + len(target)]
        elif dataset.chunks is not None:
            self._fill_from_chunks(dataset, dataset.chunks, low, values)
        else:
            for place, done, part in find_pieces(dataset, begin, len(target)):
                self._read_into(place, target[done : done + part].data)
        if not np.dtype(dataset.stored).isnative:
            values.byteswap(inplace=True)
        if values.dtype.kind == "b":
            np.not_equal(target, 0, out=target.view(np.bool_))

    def _announce(self, dataset: ForeignDataset, low: int, high: int) -> None:
        length = (high - low) * dataset.row_bytes if dataset.extents else 0
        for place, _, part in find_pieces(dataset, low * dataset.row_bytes, length):
            announce_read(self._file, place, part)

    def _read_into(self, place: int, target: memoryview) -> None:
        with self._lock:
            if self._pages is not None:
                self._pages.read_into(place, target)
                return
            self._file.seek(place)
            if self._file.readinto(target) < len(target):  # type: ignore[attr-defined]
                raise OSError("the file became shorter")

    def _fill_from_chunks(
        self, dataset: ForeignDataset, chunks: Chunks, low: int, values: NDArray[Any]
    ) -> None:
        length = chunks.shape[0]
        high = low + len(values)
        for number in range(low // length, -(-high // length)):
            band = self._read_band(dataset, chunks, number)
            first = number * length
            begin, end = max(low, first), min(high, first + len(band))
            values[begin - low : end - low] = band[begin - first : end - first]

    def _read_band(self, dataset: ForeignDataset, chunks: Chunks, number: int) -> NDArray[Any]:
        """Return the rows of one row of chunks; the last ones are kept, since blocks are small."""
        kept = self._band
        if kept is not None and kept[0] is dataset and kept[1] == number:
            return kept[2]
        rows = min(chunks.shape[0], dataset.shape[0] - number * chunks.shape[0])
        band = np.empty((rows, *dataset.shape[1:]), dataset.dtype)
        grid = [-(-n // m) for n, m in zip(dataset.shape[1:], chunks.shape[1:], strict=True)]
        per_band = math.prod(grid)
        for index, corner in enumerate(np.ndindex(*grid)):
            place = tuple(
                slice(at * step, (at + 1) * step)
                for at, step in zip(corner, chunks.shape[1:], strict=True)
            )
            target = band[(slice(None), *place)]
            chunk = self._read_chunk(dataset, chunks, number * per_band + index)
            target[...] = chunk[tuple(slice(0, size) for size in target.shape)]
        self._band = (dataset, number, band)
        return band

    def _read_chunk(self, dataset: ForeignDataset, chunks: Chunks, index: int) -> NDArray[Any]:
        """Return a chunk as numbers; those of another byte order are not swapped."""
        place, length, left_out = chunks.table[index].tolist()
        data = bytearray(length)
        self._read_into(place, memoryview(data))
        dtype = np.dtype(dataset.dtype)
        size = math.prod(chunks.shape) * dtype.itemsize
        applied = [name for n, name in enumerate(chunks.filters) if not left_out >> n & 1]
        numbers = undo_filters(data, applied, size, dtype.itemsize)
        return np.frombuffer(numbers, dtype).reshape(chunks.shape)


# -- filters ---------------------------------------------------------------------------------------


def undo_filters(
    data: bytes | bytearray, applied: Sequence[str], size: int, itemsize: int
) -> bytes | bytearray:
    """Return the `size` bytes of a chunk, whose items have `itemsize` bytes.

    Raises
    ------
    OSError, zlib.error : they are damaged
    """
    for name in reversed(applied):
        data = _UNDO[name](data, size, itemsize)
    if len(data) != size:
        raise OSError(f"a chunk has {len(data)} bytes instead of {size}")
    return data


def _inflate(data: bytes | bytearray, size: int, itemsize: int) -> bytes:
    stream = zlib.decompressobj()
    found = stream.decompress(data, size)
    if not stream.eof and stream.decompress(stream.unconsumed_tail, 1):
        raise OSError("a chunk is larger than it should be")
    if not stream.eof:
        raise OSError("a chunk ends too early")
    return found


def _unshuffle(data: bytes | bytearray, size: int, itemsize: int) -> bytes:
    if len(data) % itemsize:
        raise OSError("a chunk ends within a number")
    return np.frombuffer(data, np.uint8).reshape(itemsize, -1).T.tobytes()


def _expand_lzf(data: bytes | bytearray, size: int, itemsize: int) -> bytearray:
    """Undo LZF: runs of bytes as they are, and references to earlier ones."""
    found, at = bytearray(), 0
    while at < len(data) and len(found) <= size:
        first = data[at]
        at += 1
        if first < 32:
            found += data[at : at + first + 1]
            at += first + 1
            continue
        length, more = first >> 5, 2 if first >> 5 == 7 else 1
        rest = data[at : at + more]
        at += more
        if len(rest) < more:
            raise OSError("a chunk ends too early")
        length += rest[0] + 2 if more == 2 else 2
        start = len(found) - ((first & 31) << 8) - rest[-1] - 1
        if start < 0:
            raise OSError("a chunk refers to bytes before its begin")
        piece = found[start : start + length]
        found += (piece * (length // len(piece) + 1))[:length]
    return found


_UNDO: dict[str, Callable[[bytes | bytearray, int, int], bytes | bytearray]] = {
    "gzip": _inflate,
    "shuffle": _unshuffle,
    "lzf": _expand_lzf,
}
