"""The predictions table: one row per slide of a run of classify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from milpath.formats.prediction import Prediction
from milpath.runs import Facts, Outcome
from milpath.store import publish_csv


@dataclass(frozen=True)
class PredictionSummary:
    """A prediction as plain numbers and names.

    Attributes
    ----------
    predicted : most probable class; None without tissue
    probs : probability of each class; None without tissue
    spread : largest standard deviation of the members' probabilities; None for a single member
    patches : patches that were classified
    unreadable : patches left out because the slide's file is damaged there
    status : "ok" or "no_tissue"
    """

    predicted: str | None
    probs: Mapping[str, float] | None
    spread: float | None
    patches: int
    unreadable: int
    status: Literal["ok", "no_tissue"]


@dataclass(frozen=True)
class ClassifyFacts(Facts):
    """Facts about a classified slide."""

    prediction: PredictionSummary


def summarize_prediction(prediction: Prediction) -> PredictionSummary:
    """Reduce a prediction to plain numbers and names."""
    probs = spread = None
    if prediction.predicted is not None:
        probs = dict(zip(prediction.class_names, map(float, prediction.probs), strict=True))
        spread = float(prediction.spread.max()) if len(prediction.member_bias) > 1 else None
    return PredictionSummary(
        predicted=prediction.predicted,
        probs=probs,
        spread=spread,
        patches=len(prediction.grid),
        unreadable=prediction.unreadable,
        status=prediction.status,
    )


def write_predictions_table(
    path: Path, outcomes: Sequence[Outcome], class_names: Sequence[str]
) -> None:
    """Write one row per outcome, including those of failed slides."""
    probabilities = [f"prob_{name}" for name in class_names]
    counts = ["spread", "patches", "unreadable", "status", "message"]
    rows = [_row(outcome, class_names) for outcome in outcomes]
    publish_csv(path, ["slide", "predicted", *probabilities, *counts], rows)


def _row(outcome: Outcome, class_names: Sequence[str]) -> list[object]:
    if not isinstance(outcome.facts, ClassifyFacts):
        message = outcome.message if outcome.status == "failed" else ""
        empty = [""] * (len(class_names) + 4)
        return [outcome.slide_id, *empty, outcome.status, message]
    found = outcome.facts.prediction
    probs = found.probs or {}
    return [
        outcome.slide_id,
        found.predicted or "",
        *(f"{probs[name]:.6f}" if name in probs else "" for name in class_names),
        "" if found.spread is None else f"{found.spread:.6f}",
        found.patches,
        found.unreadable,
        found.status,
        "",
    ]
