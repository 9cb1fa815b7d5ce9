"""Footer: what stands behind every HDF5 file of milpath, so that it is read back as written or not.

HDF5's own library cannot be trusted with a file that is damaged or a stranger's: one wrong byte of
a header can send it round for ever or bring the process down. milpath does not ask it. Behind the
HDF5, where other programs do not look, follow an index of all that the file holds, a checksum of
every page, and a footer::

    HDF5 (h5_bytes) | index, JSON (index_bytes) | CRC-32 of each page, uint32 | footer

By the index alone milpath reads the numbers from where they lie; a page is given out only if its
checksum holds. That finds damage. A stranger can seal what he likes, but then it is JSON and bytes
of this very file that he has: no links, filters, types or sizes beyond it.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import IO, Annotated, Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

PAGE = 1 << 16
"""Bytes that share a checksum: to read and check as many takes as long as a call does."""

_PIECE = 16 * PAGE  # what is read before it is checked: small enough to be still in the cache then
_FOOTER = struct.Struct("<QQI8s")  # h5_bytes, index_bytes, CRC-32 of all behind the HDF5, magic
_MAGIC = b"\x89mpseal\n"
_MAX_INDEX_BYTES = 2 << 20  # a bag's is a kilobyte, and some bytes a megabyte of its pixels
_MAX_TEXT = 1 << 20
_FREE_EXTENTS = 64
_MIN_EXTENT = 1024  # bytes on average, where there are more

_Scalar = bool | int | float | Annotated[str, Field(max_length=_MAX_TEXT)]
_Dtype = Literal["|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]


class ChecksumError(Exception):
    """A file has no whole seal; the text says why."""


class _Indexed(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class IndexedDataset(_Indexed):
    """A dataset of numbers, and where its bytes lie.

    Attributes
    ----------
    dtype, shape : as NumPy says them
    attrs : its attributes
    extents : (offset in the file, length), which begin with its bytes, end to end
    """

    dtype: _Dtype
    shape: tuple[NonNegativeInt, ...] = Field(max_length=8)
    attrs: dict[str, _Scalar]
    extents: tuple[tuple[NonNegativeInt, PositiveInt], ...]

    @property
    def row_bytes(self) -> int:
        """Of one of its first axis; of all when it has none."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @cached_property
    def starts(self) -> list[int]:
        """Where each extent begins among the dataset's bytes, and where the last one ends."""
        return [*accumulate((length for _, length in self.extents), initial=0)]

    def fits(self, h5_bytes: int) -> bool:
        """Whether the file holds what it declares, and not in crumbs."""
        held = self.starts[-1]
        inside = all(start + length <= h5_bytes for start, length in self.extents)
        whole = self.row_bytes * math.prod(self.shape[:1]) <= held <= h5_bytes
        return inside and whole and len(self.extents) <= _FREE_EXTENTS + held // _MIN_EXTENT


class FooterIndex(_Indexed):
    """What a file holds: attributes, and datasets in its root."""

    attrs: dict[str, _Scalar]
    datasets: dict[str, IndexedDataset]


@dataclass(frozen=True)
class Footer:
    """A seal as read: whole in itself, and fit to its file's size."""

    index: FooterIndex
    h5_bytes: int
    checksums: NDArray[np.uint32]
    """Of each page of the HDF5."""


# -- writing -------------------------------------------------------------------------------------


def add_checksums(file: IO[bytes]) -> None:
    """Append the seal to a complete HDF5 file, open for reading and writing.

    Raises
    ------
    ValueError : it holds something else than plain numbers and attributes of one value
    OSError : the disk is full
    """
    file.flush()
    with h5py.File(file, "r") as h5:
        index = FooterIndex(attrs=_attrs(h5), datasets={name: _describe(h5, name) for name in h5})
    for name, dataset in index.datasets.items():
        if not dataset.fits(file.seek(0, os.SEEK_END)):
            raise ValueError(f"{name!r} lies in the file in an odd way")
    text = json.dumps(index.model_dump(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    file.seek(0)
    checksums = [zlib.crc32(page) for page in iter(lambda: file.read(PAGE), b"")]
    write_footer(file, text.encode(), checksums)


def write_footer(file: IO[bytes], index: bytes, checksums: list[int]) -> None:
    """Append a seal of these parts at the end of an HDF5 file."""
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
    """Where a dataset's bytes lie in the file; chunks that touch are one extent."""
    if dataset.nbytes == 0:
        return []
    if dataset.chunks is None:
        return [(dataset.id.get_offset(), dataset.nbytes)]
    if dataset.chunks[1:] != dataset.shape[1:]:
        raise ValueError(f"{dataset.name!r} is cut in chunks across another axis than the first")
    count = dataset.id.get_num_chunks()
    chunks = sorted(
        (info.chunk_offset[0], info.byte_offset, info.size)
        for info in (dataset.id.get_chunk_info(index) for index in range(count))
    )
    if count != -(-dataset.shape[0] // dataset.chunks[0]):
        raise ValueError(f"{dataset.name!r} was not written to its end")
    merged: list[tuple[int, int]] = []
    for _, start, length in chunks:
        if merged and sum(merged[-1]) == start:
            start, length = merged[-1][0], merged.pop()[1] + length
        merged.append((start, length))
    return merged


# -- reading -------------------------------------------------------------------------------------


def read_footer(file: IO[bytes]) -> Footer:
    """The seal of an open file, checked against itself and the file's size, but no page yet.

    Raises
    ------
    ChecksumError : none, or not whole
    OSError : the file cannot be read
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _FOOTER.size))
    footer = file.read(_FOOTER.size)
    if len(footer) < _FOOTER.size or not footer.endswith(_MAGIC):
        raise ChecksumError("milpath's seal is missing: cut short, or changed by another program")
    h5_bytes, index_bytes, checksum, _ = _FOOTER.unpack(footer)
    pages = -(-h5_bytes // PAGE)
    if h5_bytes + index_bytes + 4 * pages + _FOOTER.size != size or index_bytes > _MAX_INDEX_BYTES:
        raise ChecksumError("its seal is of another size")
    file.seek(h5_bytes)
    body = file.read(index_bytes + 4 * pages)
    if zlib.crc32(footer[:16], zlib.crc32(body)) != checksum:
        raise ChecksumError("its seal is damaged")
    try:
        index = FooterIndex.model_validate_json(body[:index_bytes])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:80]
        raise ChecksumError(f"its seal is none of milpath's: {where!r}: {first['msg']}") from None
    return Footer(index, h5_bytes, np.frombuffer(body, "<u4", offset=index_bytes))


class CheckedPages:
    """The bytes before a seal, given out only where the checksums of their pages hold.

    Parameters
    ----------
    file : open; whoever reads from several threads takes turns
    seal : its seal
    """

    def __init__(self, file: IO[bytes], seal: Footer) -> None:
        self._file = file
        self._seal = seal

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` with the bytes from `start` on.

        Raises
        ------
        ChecksumError : damaged there
        OSError : they cannot be read
        """
        end = start + len(target)
        at = start
        while at < end:
            low = at // PAGE * PAGE
            whole = low if low < at else end // PAGE * PAGE  # where whole pages from here on end
            whole = min(whole, at + _PIECE)
            if whole > at:
                self._check(at, target[at - start : whole - start])
                at = whole
                continue
            page = memoryview(bytearray(min(PAGE, self._seal.h5_bytes - low)))
            self._check(low, page)
            part = page[at - low : end - low]
            target[at - start : at - start + len(part)] = part
            at += len(part)

    def check_rest(self) -> None:
        """Check all pages but those that hold nothing but a dataset's bytes.

        Raises as `read_into`.
        """
        rest = np.ones(len(self._seal.checksums), np.bool_)
        for dataset in self._seal.index.datasets.values():
            for start, length in dataset.extents:
                rest[-(-start // PAGE) : (start + length) // PAGE] = False
        self._check_pages(np.flatnonzero(rest).tolist())

    def check_all(self) -> None:
        """Check every page; raises as `read_into`."""
        self._check_pages(range(len(self._seal.checksums)))

    def _check_pages(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            size = min(PAGE, self._seal.h5_bytes - number * PAGE)
            self._check(number * PAGE, memoryview(bytearray(size)))

    def _check(self, low: int, target: memoryview) -> None:
        """Fill `target` with whole pages."""
        self._file.seek(low)
        if self._file.readinto(target) < len(target):  # type: ignore[attr-defined]
            raise ChecksumError("it became shorter while it was read")
        for at in range(0, len(target), PAGE):
            if zlib.crc32(target[at : at + PAGE]) != self._seal.checksums[(low + at) // PAGE]:
                raise ChecksumError(f"damaged between bytes {low + at} and {low + at + PAGE}")
