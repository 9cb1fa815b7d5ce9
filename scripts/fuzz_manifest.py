"""Fuzz the readers of text files: cohort files, annotations, and model descriptions.

The first byte of an input selects which of them the rest is.

python scripts/fuzz_manifest.py [--seconds 60] [--seed 1] [--plain]

Prints one JSON line with the number of executions and the seconds. The harness crashes on an input
that is neither accepted nor refused in one line. Coverage-guided with `pip install atheris`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import support_path  # noqa: F401 (finds support)
from support.untrusted.fuzz import Target, fuzz


def load() -> tuple[Target, Sequence[bytes]]:
    """Import here, so that atheris instruments the modules."""
    from support.untrusted import texts

    ways = (
        ("c.csv", texts.read_cohort, texts.COHORTS),
        ("o.geojson", texts.rasterize, texts.ANNOTATIONS),
        ("model.json", texts.read_description, texts.DESCRIPTIONS),
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
