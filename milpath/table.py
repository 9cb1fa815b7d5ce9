"""CSV tables that people open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from milpath.store import publish_text


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, whole or not at all.

    A text that a spreadsheet would run as a formula is written with a leading apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_harmless(value) for value in header])
    writer.writerows([_harmless(value) for value in row] for row in rows)
    publish_text(path, text.getvalue())


def _harmless(value: object) -> object:
    if not isinstance(value, str):
        return value
    value = value.replace("\r", "\n")  # the csv module does not quote the one, but the other
    if value[:1] in {"=", "+", "-", "@", "\t", "\n"}:
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value
