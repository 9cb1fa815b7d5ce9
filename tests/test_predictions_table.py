"""The table of a run of classify."""

from __future__ import annotations

import csv
from pathlib import Path

from milpath.predictions_table import write_predictions_table
from milpath.runs import Outcome


def test_the_table_has_a_row_for_every_slide_the_failed_ones_too(tmp_path: Path) -> None:
    sure = {"predicted": "b", "probs": {"a": 0.25, "b": 0.75}, "spread": 0.125}
    sure |= {"patches": 9, "unreadable": 1, "status": "ok"}
    none = {"predicted": None, "probs": None, "spread": None}
    none |= {"patches": 0, "unreadable": 0, "status": "no_tissue"}
    outcomes = [
        Outcome("s1", "skipped", "done before", {"prediction": sure}),
        Outcome("s2", "no_tissue", "no tissue", {"prediction": none}),
        Outcome("s3", "failed", "s3: broken"),
    ]
    write_predictions_table(tmp_path / "table.csv", outcomes, ("a", "b"))
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    ends = ["unreadable", "status", "message"]
    assert rows == [
        ["slide", "predicted", "prob_a", "prob_b", "spread", "patches", *ends],
        ["s1", "b", "0.250000", "0.750000", "0.125000", "9", "1", "ok", ""],
        ["s2", "", "", "", "", "0", "0", "no_tissue", ""],
        ["s3", "", "", "", "", "", "", "failed", "s3: broken"],
    ]
