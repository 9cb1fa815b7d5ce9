"""The predictions table: one row per slide whose prediction lies in the folder of results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from milpath.errors import StoredFileError
from milpath.formats.layout import find_predictions
from milpath.formats.prediction import Prediction, read_prediction
from milpath.runs import Facts, Outcome
from milpath.store import publish_csv

log = logging.getLogger(__name__)


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
    in_training : whether the model was trained on this slide
    """

    predicted: str | None
    probs: Mapping[str, float] | None
    spread: float | None
    patches: int
    unreadable: int
    status: Literal["ok", "no_tissue"]
    in_training: bool


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
        in_training=prediction.in_training,
    )


def add_stored(
    outcomes: Sequence[Outcome], results: Path, model: str, slide_ids: Sequence[str] | None = None
) -> list[Outcome]:
    """Add the other predictions of the model that lie in the folder, whatever run wrote them.

    How many predictions of other models, and damaged ones, are left out is logged.

    Parameters
    ----------
    outcomes : of this run
    results : folder of the predictions
    model : fingerprint of the model
    slide_ids : only these slides, those of a shard
    """
    done = {outcome.slide_id for outcome in outcomes}
    stored, others, damaged = list(outcomes), 0, 0
    for slide_id, path in find_predictions(results).items():
        if slide_id in done or (slide_ids is not None and slide_id not in slide_ids):
            continue
        try:
            prediction = read_prediction(path)
        except StoredFileError:
            damaged += 1
            continue
        if prediction.model == model:
            facts = ClassifyFacts(summarize_prediction(prediction))
            stored.append(Outcome(slide_id, "skipped", "", facts))
        else:
            others += 1
    if others:
        log.warning("predictions of other models left out of the table: %d", others)
    if damaged:
        log.warning("predictions that cannot be read left out of the table: %d", damaged)
    return stored


def write_predictions_table(
    path: Path, outcomes: Sequence[Outcome], class_names: Sequence[str]
) -> None:
    """Write one row per outcome, including those of failed slides."""
    probabilities = [f"prob_{name}" for name in class_names]
    counts = ["spread", "patches", "unreadable", "in_training", "status", "message"]
    rows = [_row(outcome, class_names) for outcome in outcomes]
    publish_csv(path, ["slide", "predicted", *probabilities, *counts], rows)


def _row(outcome: Outcome, class_names: Sequence[str]) -> list[object]:
    if not isinstance(outcome.facts, ClassifyFacts):
        message = outcome.message if outcome.status == "failed" else ""
        empty = [""] * (len(class_names) + 5)
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
        "yes" if found.in_training else "no",
        found.status,
        "",
    ]
