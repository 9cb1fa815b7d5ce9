"""Fuzz the readers of bags, predictions and weights: files, HDF5 data, and forged footers.

The first byte of an input selects what the rest is: a file; the HDF5 part of a file with a new
footer; or the index of a footer, with checksums that match.

python scripts/fuzz_h5.py [--seconds 60] [--seed 1] [--plain]

Prints one JSON line with the number of executions and the seconds. The harness crashes on an input
that is neither accepted nor refused in one line. Coverage-guided with `pip install atheris`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import support_path  # noqa: F401 (finds support)
from support.untrusted.fuzz import Target, fuzz


def load() -> tuple[Target, Sequence[bytes]]:
    """Import here, so that atheris instruments the modules."""
    from support.untrusted import hdf5
    from support.untrusted.tamper import write_footer_with

    from milpath.store.integrity import read_footer

    kinds = list(hdf5.KINDS)
    valid_files = [hdf5.valid_bytes(kind) for kind in kinds]

    def target(data: bytes, folder: Path) -> None:
        if not data:
            return
        kind, way = kinds[data[0] % 3], data[0] // 3 % 3
        path = folder / "x.h5"
        path.write_bytes(data[1:] if way < 2 else valid_files[data[0] % 3])
        if way:
            write_footer_with(path, data[1:] if way == 2 else indices[data[0] % 3])
        hdf5.KINDS[kind][1](path)

    indices, bodies = [], []
    for kind in kinds:
        with io.BytesIO(hdf5.valid_bytes(kind)) as file:
            footer = read_footer(file)
            file.seek(0)
            bodies.append(file.read(footer.h5_bytes))
            file.seek(footer.h5_bytes)
            indices.append(file.read()[: -4 * len(footer.checksums) - 28])
    corpus = [
        bytes([3 * way + number]) + parts[number]
        for way, parts in enumerate((valid_files, bodies, indices))
        for number in range(3)
    ]
    return target, corpus


if __name__ == "__main__":
    fuzz("h5", load)
