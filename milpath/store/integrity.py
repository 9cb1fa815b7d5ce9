"""Integrity footer: index and checksums behind the HDF5 of every milpath file.

The HDF5 library is not safe with damaged or untrusted files: one wrong byte in a header can make it
loop for ever or crash the process. So milpath does not use it to read. Behind the HDF5 part, where
other programs do not look, each file holds an index of its contents, a checksum of every page, and
a footer::

    HDF5 (h5_bytes) | index, JSON (index_bytes) | CRC-32 of each page, uint32 | footer

milpath locates all data by the index alone, and returns a page only if its checksum matches. This
detects damage. It is no signature: anybody can write a valid footer. But all it can describe is
JSON and bytes of the same file: no links, filters, types, or sizes beyond the file.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import IO, Annotated, Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from milpath.params import describe_violation

PAGE = 1 << 16
"""Bytes per checksum: reading and checking this many takes about as long as a call does."""

_READ_BYTES = 16 * PAGE  # read at a time: small enough to be in the cache when it is checked
_FOOTER = struct.Struct("<QQI8s")  # h5_bytes, index_bytes, CRC-32 of all behind the HDF5, magic
_MAGIC = b"\x89mpseal\n"
_MAX_INDEX_BYTES = 2 << 20  # a bag needs about 1 KiB, and a few bytes per MiB of pixels
_MAX_TEXT = 1 << 20
_MAX_SMALL_EXTENTS = 64
_MIN_MEAN_EXTENT = 1024  # bytes, where there are more extents than that
_H5_MAGIC = b"\x89HDF\r\n\x1a\n"
_H5_END = {0: 40, 1: 44, 2: 28, 3: 28}  # superblock version: offset of the length it declares

_Scalar = bool | int | float | Annotated[str, Field(max_length=_MAX_TEXT)]
_Dtype = Literal["|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]


class ChecksumError(Exception):
    """A file does not match its integrity footer; the text says why."""


class MissingFooterError(ChecksumError):
    """A complete HDF5 file has no integrity footer: another program has written it."""


class _Indexed(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class IndexedDataset(_Indexed):
    """A dataset of numbers, and where its bytes are in the file.

    Attributes
    ----------
    dtype : NumPy's name of the type, little-endian
    shape : lengths of the axes
    attrs : attributes of the dataset
    extents : (offset in the file, length) of the pieces, bytes; put together they begin with the
        dataset's bytes in C order
    """

    dtype: _Dtype
    shape: tuple[NonNegativeInt, ...] = Field(max_length=8)
    attrs: dict[str, _Scalar]
    extents: tuple[tuple[NonNegativeInt, PositiveInt], ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (an item of the first axis); of the value if there are no axes."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @cached_property
    def starts(self) -> list[int]:
        """Offset of each extent in the dataset's bytes, and the end of the last one."""
        return [*accumulate((length for _, length in self.extents), initial=0)]

    def fits(self, h5_bytes: int) -> bool:
        """Return whether the file holds all it declares, without many tiny extents."""
        held = self.starts[-1]
        inside = all(start + length <= h5_bytes for start, length in self.extents)
        whole = self.row_bytes * math.prod(self.shape[:1]) <= held <= h5_bytes
        few = len(self.extents) <= _MAX_SMALL_EXTENTS + held // _MIN_MEAN_EXTENT
        return inside and whole and few


class FooterIndex(_Indexed):
    """Contents of a file: attributes and datasets of its root group."""

    attrs: dict[str, _Scalar]
    datasets: dict[str, IndexedDataset]


@dataclass(frozen=True)
class Footer:
    """An integrity footer that is consistent in itself and with the size of its file."""

    index: FooterIndex
    h5_bytes: int
    checksums: NDArray[np.uint32]
    """CRC-32 of each page of the HDF5 part."""


# -- writing -------------------------------------------------------------------------------------


def add_checksums(file: IO[bytes]) -> None:
    """Append the integrity footer to a complete HDF5 file, open for reading and writing.

    Raises
    ------
    ValueError : it holds anything but plain numbers and attributes with a single value
    OSError : the disk is full
    """
    file.flush()
    with h5py.File(file, "r") as h5:
        index = FooterIndex(attrs=_attrs(h5), datasets={name: _describe(h5, name) for name in h5})
    for name, dataset in index.datasets.items():
        if not dataset.fits(file.seek(0, os.SEEK_END)):
            raise ValueError(f"{name!r} is stored in too many pieces")
    text = json.dumps(index.model_dump(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    file.seek(0)
    checksums = [zlib.crc32(page) for page in iter(lambda: file.read(PAGE), b"")]
    write_footer(file, text.encode(), checksums)


def write_footer(file: IO[bytes], index: bytes, checksums: list[int]) -> None:
    """Append a footer with this index and these checksums to an HDF5 file."""
    h5_bytes = file.seek(0, os.SEEK_END)
    body = index + np.asarray(checksums, "<u4").tobytes()
    sizes = struct.pack("<QQ", h5_bytes, len(index))
    file.write(body + _FOOTER.pack(h5_bytes, len(index), zlib.crc32(body + sizes), _MAGIC))


def _attrs(holder: Any) -> dict[str, Any]:
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in holder.attrs.items()
    }


def _describe(h5: h5py.File, name: str) -> IndexedDataset:
    own = isinstance(h5.get(name, getlink=True), h5py.HardLink)
    dataset = h5[name] if own else None
    if (
        not isinstance(dataset, h5py.Dataset)
        or dataset.external
        or dataset.is_virtual
        or dataset.id.get_create_plist().get_nfilters()
    ):
        raise ValueError(f"{name!r} is not plain numbers stored in this file")
    return IndexedDataset(
        dtype=dataset.dtype.str,
        shape=dataset.shape,
        attrs=_attrs(dataset),
        extents=tuple(_extents(dataset)),
    )


def _extents(dataset: h5py.Dataset) -> list[tuple[int, int]]:
    """Offsets and lengths of a dataset's pieces in the file; adjacent chunks are joined."""
    if dataset.nbytes == 0:
        return []
    if dataset.chunks is None:
        return [(dataset.id.get_offset(), dataset.nbytes)]
    if dataset.chunks[1:] != dataset.shape[1:]:
        raise ValueError(f"{dataset.name!r} has chunks along an axis other than the first")
    count = dataset.id.get_num_chunks()
    chunks = sorted(
        (info.chunk_offset[0], info.byte_offset, info.size)
        for info in (dataset.id.get_chunk_info(index) for index in range(count))
    )
    if count != -(-dataset.shape[0] // dataset.chunks[0]):
        raise ValueError(f"{dataset.name!r} is incomplete: some chunks are missing")
    merged: list[tuple[int, int]] = []
    for _, start, length in chunks:
        if merged and sum(merged[-1]) == start:
            start, length = merged[-1][0], merged.pop()[1] + length
        merged.append((start, length))
    return merged


# -- reading -------------------------------------------------------------------------------------


def has_footer(file: IO[bytes]) -> bool:
    """Return whether an open file ends as an integrity footer does, valid or not."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(_MAGIC)))
    return file.read(len(_MAGIC)) == _MAGIC


def read_footer(file: IO[bytes]) -> Footer:
    """Read and check the footer of an open file; the pages are not checked yet.

    Raises
    ------
    MissingFooterError : a complete HDF5 file without a footer
    ChecksumError : not an HDF5 file, incomplete, or the footer is damaged
    OSError : the file cannot be read
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _FOOTER.size))
    footer = file.read(_FOOTER.size)
    if len(footer) < _FOOTER.size or not footer.endswith(_MAGIC):
        raise _missing_footer(file, size)
    h5_bytes, index_bytes, checksum, _ = _FOOTER.unpack(footer)
    pages = -(-h5_bytes // PAGE)
    if h5_bytes + index_bytes + 4 * pages + _FOOTER.size != size or index_bytes > _MAX_INDEX_BYTES:
        raise ChecksumError("its integrity footer does not match its size")
    file.seek(h5_bytes)
    body = file.read(index_bytes + 4 * pages)
    if zlib.crc32(footer[:16], zlib.crc32(body)) != checksum:
        raise ChecksumError("its integrity footer is damaged")
    try:
        index = FooterIndex.model_validate_json(body[:index_bytes])
    except ValidationError as error:
        name, fact = describe_violation(error)
        raise ChecksumError(f"its integrity footer is not valid: {name!r} {fact}") from None
    return Footer(index, h5_bytes, np.frombuffer(body, "<u4", offset=index_bytes))


def _missing_footer(file: IO[bytes], size: int) -> ChecksumError:
    """Say why there is no footer, by the length that the HDF5 header declares."""
    file.seek(0)
    head = file.read(64)
    if not head.startswith(_H5_MAGIC):
        return ChecksumError("no HDF5 file")
    at = _H5_END.get(head[8], 0) if len(head) == 64 else 0
    if not at:
        return ChecksumError("its HDF5 header is damaged")
    (declared,) = struct.unpack_from("<Q", head, at)
    if size < declared:
        return ChecksumError(f"cut short: {size} of at least {declared} bytes")
    if size > declared:
        return ChecksumError("its integrity footer is incomplete")
    return MissingFooterError("no integrity footer")


def announce_read(file: IO[bytes], start: int, length: int) -> None:
    """Let the system begin to read bytes that are read soon, while others are still checked."""
    if length > _READ_BYTES and hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_WILLNEED)


class CheckedPages:
    """The HDF5 part of a file, returned only where the checksums of its pages match.

    Parameters
    ----------
    file : open for reading; only one thread may read at a time
    footer : footer of the same file
    """

    def __init__(self, file: IO[bytes], footer: Footer) -> None:
        self._file = file
        self._footer = footer

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` with the bytes of the file from `start` on.

        Raises
        ------
        ChecksumError : a page is damaged
        OSError : the file cannot be read
        """
        end = start + len(target)
        at = start
        announce_read(self._file, start, len(target))
        while at < end:
            low = at // PAGE * PAGE
            whole = low if low < at else end // PAGE * PAGE  # end of the whole pages from here on
            whole = min(whole, at + _READ_BYTES)
            if whole > at:
                self._read_pages(at, target[at - start : whole - start])
                at = whole
                continue
            page = memoryview(bytearray(min(PAGE, self._footer.h5_bytes - low)))
            self._read_pages(low, page)
            part = page[at - low : end - low]
            target[at - start : at - start + len(part)] = part
            at += len(part)

    def check_metadata(self) -> None:
        """Check all pages but those inside a dataset; raises as `read_into`."""
        outside = np.ones(len(self._footer.checksums), np.bool_)
        for dataset in self._footer.index.datasets.values():
            for start, length in dataset.extents:
                outside[-(-start // PAGE) : (start + length) // PAGE] = False
        self._check_pages(np.flatnonzero(outside).tolist())

    def check_all(self) -> None:
        """Check every page; raises as `read_into`."""
        self._check_pages(range(len(self._footer.checksums)))

    def _check_pages(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            size = min(PAGE, self._footer.h5_bytes - number * PAGE)
            self._read_pages(number * PAGE, memoryview(bytearray(size)))

    def _read_pages(self, low: int, target: memoryview) -> None:
        """Fill `target` with whole pages from the byte `low` on, and check them."""
        self._file.seek(low)
        if self._file.readinto(target) < len(target):  # type: ignore[attr-defined]
            raise ChecksumError("it became shorter while it was read")
        for at in range(0, len(target), PAGE):
            if zlib.crc32(target[at : at + PAGE]) != self._footer.checksums[(low + at) // PAGE]:
                raise ChecksumError(f"damaged between bytes {low + at} and {low + at + PAGE}")
