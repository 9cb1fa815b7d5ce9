"""Ways to change a file of milpath, the seal with it or not."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from milpath.store.seal import PAGE, BrokenSealError, read_seal, seal_h5, write_seal

Index = dict[str, Any]


@contextmanager
def edited(path: Path) -> Iterator[h5py.File]:
    """A file of milpath to be changed, and sealed again as milpath would."""
    with h5py.File(path, "r+") as h5:  # HDF5 cuts off whatever follows its own
        yield h5
    with path.open("r+b") as file:
        seal_h5(file)


def forge(path: Path, change: Callable[[Index], object]) -> None:
    """Change what a file's seal says of it, as a stranger may who knows how; checksums and all."""
    with path.open("rb") as file:
        index = json.loads(read_seal(file).index.model_dump_json())
    change(index)
    seal_with(path, json.dumps(index).encode())


def seal_with(path: Path, index: bytes) -> None:
    """Put a seal with any index behind a file, in place of the one it may have."""
    data = path.read_bytes()
    with path.open("rb") as file, suppress(BrokenSealError):  # none to take off
        data = data[: read_seal(file).h5_bytes]
    path.write_bytes(data)
    with path.open("r+b") as file:
        write_seal(file, index, [zlib.crc32(data[i : i + PAGE]) for i in range(0, len(data), PAGE)])
