"""The table of a run of classify."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.predicting import all_places, make_grid, make_prediction

from milpath.formats.layout import prediction_path
from milpath.formats.prediction import write_prediction
from milpath.predictions_table import (
    ClassifyFacts,
    PredictionSummary,
    add_stored,
    summarize_prediction,
    write_predictions_table,
)
from milpath.runs import Outcome

SURE = PredictionSummary("b", {"a": 0.25, "b": 0.75}, 0.125, 9, 1, "ok", True)
NONE = PredictionSummary(None, None, None, 0, 0, "no_tissue", False)


def test_the_table_has_one_row_per_slide_including_failed_ones(tmp_path: Path) -> None:
    outcomes = [
        Outcome("s1", "skipped", "already done", ClassifyFacts(SURE)),
        Outcome("s2", "no_tissue", "no tissue", ClassifyFacts(NONE)),
        Outcome("s3", "failed", "s3: broken"),
    ]
    write_predictions_table(tmp_path / "table.csv", outcomes, ("a", "b"))
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    ends = ["unreadable", "in_training", "status", "message"]
    assert rows == [
        ["slide", "predicted", "prob_a", "prob_b", "spread", "patches", *ends],
        ["s1", "b", "0.250000", "0.750000", "0.125000", "9", "1", "yes", "ok", ""],
        ["s2", "", "", "", "", "0", "0", "no", "no_tissue", ""],
        ["s3", "", "", "", "", "", "", "", "failed", "s3: broken"],
    ]


def test_an_outcome_is_json_with_the_keys_of_its_facts() -> None:
    printed = json.loads(json.dumps(asdict(Outcome("s1", "ok", "done", ClassifyFacts(SURE)))))
    assert printed["facts"]["prediction"]["probs"] == {"a": 0.25, "b": 0.75}
    assert asdict(Outcome("s1", "failed", "no"))["facts"] == {}


def test_the_table_keeps_what_earlier_runs_wrote_and_leaves_out_other_models(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = make_prediction(make_grid(all_places(2, 2), 64, 64))
    for slide_id, model in (("s3", "m"), ("s1", "m"), ("s2", "m"), ("s4", "other")):
        write_prediction(prediction_path(tmp_path, slide_id), replace(stored, model=model))
    prediction_path(tmp_path, "s5").write_bytes(b"damaged")
    outcomes = [
        Outcome("s2", "failed", "s2: broken"),
        Outcome("s0", "ok", "done", ClassifyFacts(SURE)),
    ]
    found = add_stored(outcomes, tmp_path, "m")
    assert found[:2] == outcomes
    assert [outcome.slide_id for outcome in found[2:]] == ["s1", "s3"]
    assert all(
        outcome.facts == ClassifyFacts(summarize_prediction(stored)) for outcome in found[2:]
    )
    assert caplog.messages == [
        "predictions of other models left out of the table: 1",
        "predictions that cannot be read left out of the table: 1",
    ]
    shard = add_stored(outcomes, tmp_path, "m", ["s0", "s2", "s3"])
    assert [outcome.slide_id for outcome in shard] == ["s2", "s0", "s3"]
