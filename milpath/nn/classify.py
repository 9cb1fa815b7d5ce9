"""Classify: from a slide's file to a prediction file and a picture of its heatmap.

Importing this module imports no network library; creating a `Classifier` does.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from milpath.cohort.cohort import SlideEntry
from milpath.figures.heatmap import render_heatmap
from milpath.figures.overlay import overlay_title, write_overlay
from milpath.formats.existing import Existing
from milpath.formats.layout import overlay_path, prediction_path
from milpath.formats.model_spec import BundleSpec, check_resolution
from milpath.formats.prediction import Prediction, find_prediction, write_prediction
from milpath.formats.scores import format_probability
from milpath.predictions_table import ClassifyFacts, summarize_prediction
from milpath.runs import Outcome, describe_redo, planned_outcome, skipped_outcome
from milpath.slides.slide import Slide
from milpath.store import discard

if TYPE_CHECKING:
    from milpath.nn.predict import Model
    from milpath.slides.annotation import Annotation

log = logging.getLogger(__name__)


class Predict(Protocol):
    """A model, applied to a slide."""

    def __call__(self, slide: Slide, annotation: Annotation | None) -> Prediction:
        """Predict the class of a slide."""


def classify_slide(
    entry: SlideEntry,
    out: Path,
    spec: BundleSpec,
    predict: Predict | None = None,
    *,
    dry_run: bool = False,
) -> Outcome:
    """Write `out/<slide_id>.prediction.h5` and `out/<slide_id>.png`, unless they are there already.

    Parameters
    ----------
    entry : the slide
    out : folder of the results
    spec : of the model
    predict : the model; a dry run does without it
    dry_run : say what would be done, and write nothing

    Raises
    ------
    SlideError : the slide cannot be classified
    OutputError : `out` cannot be written
    """
    path, picture = prediction_path(out, entry.slide_id), overlay_path(out, entry.slide_id)
    with entry.open() as slide:
        annotation = entry.read_annotation(slide.bounds_l0)
        drawn = annotation.fingerprint if annotation else None
        found = find_prediction(path, slide.facts, spec.fingerprint, drawn)
        prediction = found.value
        if prediction is not None and (picture.exists() or prediction.status == "no_tissue"):
            message = f"{describe_prediction(prediction)}, already done with this model"
            return skipped_outcome(entry, message, _facts(prediction), dry_run=dry_run)
        verb = "classified" if prediction is None else "rendered"
        reason = found if prediction is None else Existing[Prediction].stale(NO_PICTURE)
        if dry_run:
            check_resolution(slide, spec)
            return planned_outcome(entry, verb, reason)
        if prediction is None:
            assert predict is not None
            discard(picture)  # an older result must not be taken for the new one
            discard(path)
            prediction = predict(slide, annotation)
            write_prediction(path, prediction)
        if prediction.status == "ok":
            write_overlay(picture, slide, render_heatmap(prediction), overlay_title(prediction))
    message = ", ".join(
        filter(None, [describe_prediction(prediction), describe_redo(verb, reason)])
    )
    return Outcome(entry.slide_id, prediction.status, message, _facts(prediction))


NO_PICTURE = "its picture is missing"


class Classifier:
    """The job that classifies a slide, with a model that is loaded already.

    Parameters
    ----------
    model : in memory
    out : folder of the results
    threads : that read the slide while the network computes
    """

    def __init__(self, model: Model, out: Path, threads: int = 2) -> None:
        self.model = model
        self.out = out
        self.threads = threads

    def __call__(self, entry: SlideEntry) -> Outcome:
        return classify_slide(entry, self.out, self.model.spec, self.predict)

    def predict(self, slide: Slide, annotation: Annotation | None = None) -> Prediction:
        """Predict the class of a slide; raise as `predict_slide` does."""
        from milpath.nn.predict import predict_slide

        return predict_slide(self.model, slide, annotation, self.threads)


def describe_prediction(prediction: Prediction) -> str:
    """Describe a prediction in a line: class, probability, patches, warnings."""
    if prediction.predicted is None:
        sentence = "no tissue found, so no class"
    else:
        probability = format_probability(float(prediction.probs.max()), 3)
        sentence = (
            f"predicted {prediction.predicted} (probability {probability}), "
            f"{len(prediction.grid)} patches"
        )
    if prediction.unreadable:
        sentence += f", {prediction.unreadable} unreadable patches left out"
    if prediction.warnings:
        sentence += f"; warning: {'; '.join(prediction.warnings)}"
    return sentence


def _facts(prediction: Prediction) -> ClassifyFacts:
    return ClassifyFacts(summarize_prediction(prediction))
