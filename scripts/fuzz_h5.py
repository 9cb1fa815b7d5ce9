"""Fuzz what reads bags, predictions and weights: whole files, their data, and forged seals.

The first byte of an input chooses what the rest is: a file; the HDF5 before a fresh seal; or a
seal's index, with checksums that hold.

python scripts/fuzz_h5.py [--seconds 60] [--seed 1] [--plain]

prints one JSON line with the executions and the seconds; an input that ends in anything but success
or one clear line is a crash of the harness. `pip install atheris` for fuzzing by coverage.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import support_path  # noqa: F401 (finds support)
from support.untrusted.fuzz import Target, fuzz


def load() -> tuple[Target, Sequence[bytes]]:
    """Imported here, where atheris sees it."""
    from support.untrusted import hdf5
    from support.untrusted.tamper import write_footer_with

    from milpath.store.integrity import read_footer

    kinds = list(hdf5.KINDS)
    wholes = [hdf5.whole(kind) for kind in kinds]

    def target(data: bytes, folder: Path) -> None:
        if not data:
            return
        kind, way = kinds[data[0] % 3], data[0] // 3 % 3
        path = folder / "x.h5"
        path.write_bytes(data[1:] if way < 2 else wholes[data[0] % 3])
        if way:
            write_footer_with(path, data[1:] if way == 2 else indices[data[0] % 3])
        hdf5.KINDS[kind][1](path)

    indices, bodies = [], []
    for kind in kinds:
        with io.BytesIO(hdf5.whole(kind)) as file:
            seal = read_footer(file)
            file.seek(0)
            bodies.append(file.read(seal.h5_bytes))
            file.seek(seal.h5_bytes)
            indices.append(file.read()[: -4 * len(seal.checksums) - 28])
    corpus = [
        bytes([3 * way + number]) + parts[number]
        for way, parts in enumerate((wholes, bodies, indices))
        for number in range(3)
    ]
    return target, corpus


if __name__ == "__main__":
    fuzz("h5", load)
