"""Ways to change a file of milpath, the seal with it or not."""

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
    """A file of milpath to be changed, and sealed again as milpath would."""
    with h5py.File(path, "r+") as h5:  # HDF5 cuts off whatever follows its own
        yield h5
    with path.open("r+b") as file:
        add_checksums(file)


def tamper(path: Path, change: Callable[[Index], object]) -> None:
    """Change what a file's seal says of it, as a stranger may who knows how; checksums and all."""
    with path.open("rb") as file:
        index = json.loads(read_footer(file).index.model_dump_json())
    change(index)
    write_footer_with(path, json.dumps(index).encode())


def write_footer_with(path: Path, index: bytes) -> None:
    """Put a seal with any index behind a file, in place of the one it may have."""
    data = path.read_bytes()
    with path.open("rb") as file, suppress(ChecksumError):  # none to take off
        data = data[: read_footer(file).h5_bytes]
    path.write_bytes(data)
    with path.open("r+b") as file:
        write_footer(
            file, index, [zlib.crc32(data[i : i + PAGE]) for i in range(0, len(data), PAGE)]
        )
