"""The table of a run of classify."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

from milpath.predictions_table import ClassifyFacts, PredictionSummary, write_predictions_table
from milpath.runs import Outcome

SURE = PredictionSummary("b", {"a": 0.25, "b": 0.75}, 0.125, 9, 1, "ok")
NONE = PredictionSummary(None, None, None, 0, 0, "no_tissue")


def test_the_table_has_one_row_per_slide_including_failed_ones(tmp_path: Path) -> None:
    outcomes = [
        Outcome("s1", "skipped", "already done", ClassifyFacts(SURE)),
        Outcome("s2", "no_tissue", "no tissue", ClassifyFacts(NONE)),
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


def test_an_outcome_is_json_with_the_keys_of_its_facts() -> None:
    printed = json.loads(json.dumps(asdict(Outcome("s1", "ok", "done", ClassifyFacts(SURE)))))
    assert printed["facts"]["prediction"]["probs"] == {"a": 0.25, "b": 0.75}
    assert asdict(Outcome("s1", "failed", "no"))["facts"] == {}
