"""The summary of a run of classify: a row a slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milpath.cohort.cohort import SlideEntry
from milpath.formats.model_spec import BundleSpec
from milpath.formats.prediction import Prediction, find_prediction
from milpath.runs import Outcome, plan_outcome
from milpath.store import publish_csv


def prediction_paths(out: Path, slide_id: str) -> tuple[Path, Path]:
    """Where the prediction of a slide, and its picture, lie in a folder of results."""
    return out / f"{slide_id}.prediction.h5", out / f"{slide_id}.png"


def preview_prediction(entry: SlideEntry, out: Path, spec: BundleSpec) -> Outcome:
    """What classifying a slide would do, as far as can be said without finding its tissue.

    Raises as `Slide`, `Slide.level_for` and `SlideEntry.read_annotation` do; writes nothing.
    """
    path, picture = prediction_paths(out, entry.slide_id)
    with entry.open() as slide:
        drawn = annotation.fingerprint if (annotation := entry.read_annotation()) else None
        found = find_prediction(path, slide.facts, spec.fingerprint, drawn)
        slide.level_for(spec.tile.grid.mpp)
    if not isinstance(found, Prediction):
        return plan_outcome(entry, found)
    if found.status == "ok" and not picture.exists():
        return plan_outcome(entry, "its picture was missing")
    said = found.predicted or "no tissue"
    return plan_outcome(entry, Outcome(entry.slide_id, "skipped", f"{said}, done before"))


def summarize_prediction(prediction: Prediction) -> dict[str, Any]:
    """A prediction as plain numbers and names."""
    sure = prediction.predicted is not None
    members = len(prediction.member_bias)
    return {
        "predicted": prediction.predicted,
        "probs": dict(zip(prediction.class_names, map(float, prediction.probs), strict=True))
        if sure
        else None,
        "spread": float(prediction.spread.max()) if sure and members > 1 else None,
        "patches": len(prediction.grid),
        "unreadable": prediction.unreadable,
        "status": prediction.status,
    }


def write_predictions_table(
    path: Path, outcomes: Sequence[Outcome], class_names: Sequence[str]
) -> None:
    """The table of a run: a row a slide, the failed ones included."""
    rows = []
    for outcome in outcomes:
        found = outcome.facts.get("prediction") or {}
        probs = found.get("probs") or {}
        rows.append(
            [
                outcome.slide_id,
                found.get("predicted") or "",
                *(f"{probs[name]:.6f}" if name in probs else "" for name in class_names),
                f"{found['spread']:.6f}" if found.get("spread") is not None else "",
                found.get("patches", ""),
                found.get("unreadable", ""),
                found.get("status", outcome.status),
                outcome.message if outcome.status == "failed" else "",
            ]
        )
    probabilities = [f"prob_{name}" for name in class_names]
    counts = ["spread", "patches", "unreadable", "status", "message"]
    publish_csv(path, ["slide", "predicted", *probabilities, *counts], rows)
