"""Arrays of numbers and attributes in folders of zarr, read with the package `zarr`.

The metadata is checked before that package opens an array: zarr allows filters that unpickle what
they read, allocates what an array declares, and takes a missing chunk for zeros.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError

_MAX_JSON_BYTES = 8 << 20
_MAX_UNPACKED_BYTES = 64 << 20
_MAX_UNPACKED_RATIO = 20
_PLAIN_TYPE = re.compile(r"[<>|]?[biuf][1248]|(u?int|float)(8|16|32|64)|bool")
_FILTERS = {"blosc", "bz2", "crc32c", "gzip", "lz4", "lzma", "zlib", "zstd"}
_CODECS = _FILTERS | {"bytes", "endian", "sharding_indexed", "transpose"}


def require_package(name: str, path: Path) -> Any:
    """Import a package that only some files need; raises `StoredFileError` if it is absent."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise StoredFileError(
            f"{path.name}: cannot be read without the package {name}; pip install {name}"
        ) from None


def read_zarr_attrs(folder: Path) -> dict[str, Any]:
    """Return the attributes of a group or array of zarr format 2 or 3; raises `StoredFileError`."""
    if (folder / "zarr.json").is_file():
        attrs = _read_json(folder / "zarr.json").get("attributes", {})
    elif (folder / ".zattrs").is_file():
        attrs = _read_json(folder / ".zattrs")
    else:
        attrs = {}
    return attrs if isinstance(attrs, dict) else {}


def read_zarr_array(folder: Path, sparse: bool = False) -> NDArray[Any]:
    """Read an array of numbers whole.

    Parameters
    ----------
    sparse : take a missing chunk for zeros, as zarr means it; else it is an error

    Raises
    ------
    StoredFileError : no array, chunks are missing or unreadable, its type or its filters are not
        those of plain numbers, or `zarr` is not installed
    """
    declared = _read_array_metadata(folder)
    files = list(_find_chunks(folder))
    size = sum(path.stat().st_size for path in files)
    if declared.nbytes > max(_MAX_UNPACKED_BYTES, _MAX_UNPACKED_RATIO * size):
        raise StoredFileError(
            f"{folder.name}: declares {declared.nbytes} bytes, its chunks hold {size}; "
            "write it again"
        )
    if len(files) != declared.chunks and not sparse:
        raise StoredFileError(
            f"{folder.name}: {len(files)} of {declared.chunks} chunks are there; "
            "copy or write it again"
        )
    zarr = require_package("zarr", folder)
    try:
        return np.asarray(zarr.open_array(str(folder), mode="r")[...])
    except Exception as error:  # zarr and its filters raise errors of many types
        fact = ascii(str(error)[:80])[1:-1]
        raise StoredFileError(
            f"{folder.name}: cannot be read ({fact}); copy or write it again"
        ) from None


@dataclass(frozen=True)
class _Declared:
    """What the metadata of an array says: bytes of its numbers, and how many chunks hold them."""

    nbytes: int
    chunks: int


def _read_array_metadata(folder: Path) -> _Declared:
    try:
        if (folder / ".zarray").is_file():
            found = _read_json(folder / ".zarray")
            kind, chunk = found["dtype"], found["chunks"]
            steps = [
                *(found["filters"] or ()),
                *([found["compressor"]] * bool(found["compressor"])),
            ]
            names = {step["id"] for step in steps}
        else:
            found = _read_json(folder / "zarr.json")
            kind = found["data_type"]
            chunk = found["chunk_grid"]["configuration"]["chunk_shape"]
            names = {step["name"].removeprefix("numcodecs.") for step in _walk_codecs(found)}
        shape = found["shape"]
        plain = isinstance(kind, str) and _PLAIN_TYPE.fullmatch(kind) and names <= _CODECS
        if not plain or not _are_counts(shape, 0) or not _are_counts(chunk, 1):
            raise ValueError
        count = math.prod(-(-edge // step) for edge, step in zip(shape, chunk, strict=True))
        return _Declared(math.prod(shape) * np.dtype(kind).itemsize, count)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise StoredFileError(
            f"{folder.name}: no zarr array of plain numbers, or packed in a way that is not read; "
            "write it again with the settings that zarr has by default"
        ) from None


def _walk_codecs(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the steps of an array of format 3, and those inside its shards."""
    for step in found["codecs"]:
        yield step
        if step["name"] == "sharding_indexed":
            inner = step["configuration"]
            for name in ("codecs", "index_codecs"):
                if any(each["name"] == "sharding_indexed" for each in inner[name]):
                    raise ValueError
                yield from inner[name]


def _are_counts(values: Any, least: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= 8
        and all(isinstance(value, int) and least <= value < 1 << 40 for value in values)
    )


def _find_chunks(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        for name in names:
            if not name.startswith(".") and name != "zarr.json":
                yield Path(place) / name


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError
    except (OSError, ValueError, RecursionError):
        raise StoredFileError(
            f"{path.parent.name}/{path.name}: cannot be read as JSON; copy or write it again"
        ) from None
    return found
