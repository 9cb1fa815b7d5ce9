"""Fuzz what reads texts of people: cohort files, outlines, and the records of models.

The first byte of an input chooses which of them the rest is.

python scripts/fuzz_manifest.py [--seconds 60] [--seed 1] [--plain]

prints one JSON line with the executions and the seconds; an input that ends in anything but success
or one clear line is a crash of the harness. `pip install atheris` for fuzzing by coverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import support_path  # noqa: F401 (finds support)
from support.untrusted.fuzz import Target, fuzz


def load() -> tuple[Target, Sequence[bytes]]:
    """Imported here, where atheris sees it."""
    from support.untrusted import texts

    ways = (
        ("c.csv", texts.read_cohort, texts.COHORTS),
        ("o.geojson", texts.fill, texts.OUTLINES),
        ("model.json", texts.read_record, texts.RECORDS),
    )

    def target(data: bytes, folder: Path) -> None:
        if data:
            name, read, _ = ways[data[0] % 3]
            (folder / name).write_bytes(data[1:])
            read(folder / name)

    corpus = [
        bytes([number]) + contents
        for number, (_, _, table) in enumerate(ways)
        for contents, _ in table.values()
        if isinstance(contents, bytes) and len(contents) < 10_000
    ]
    return target, corpus


if __name__ == "__main__":
    fuzz("manifest", load)
