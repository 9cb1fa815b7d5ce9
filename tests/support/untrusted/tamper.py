"""Functions that change a milpath file together with its integrity footer."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from milpath.store.integrity import PAGE, ChecksumError, add_checksums, read_footer, write_footer

Index = dict[str, Any]


@contextmanager
def edited(path: Path) -> Iterator[h5py.File]:
    """Open a milpath file for changes; it gets a new footer at the end, as milpath writes it."""
    with h5py.File(path, "r+") as h5:  # HDF5 removes the footer
        yield h5
    with path.open("r+b") as file:
        add_checksums(file)


def tamper(path: Path, change: Callable[[Index], object]) -> None:
    """Change the index in a file's footer, with checksums that match, as an attacker could."""
    with path.open("rb") as file:
        index = json.loads(read_footer(file).index.model_dump_json())
    change(index)
    write_footer_with(path, json.dumps(index).encode())


def write_footer_with(path: Path, index: bytes) -> None:
    """Append a footer with any index to a file, replacing the one it may have."""
    data = path.read_bytes()
    with path.open("rb") as file, suppress(ChecksumError):  # it has none
        data = data[: read_footer(file).h5_bytes]
    path.write_bytes(data)
    with path.open("r+b") as file:
        write_footer(
            file, index, [zlib.crc32(data[i : i + PAGE]) for i in range(0, len(data), PAGE)]
        )
