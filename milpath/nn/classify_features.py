"""Classify features: from a file of features to a prediction, and a picture if the slide is there.

Importing this module imports no network library.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from milpath.cohort.cohort import SlideEntry
from milpath.cohort.workitem import WorkItem
from milpath.errors import StoredFileError, UsageError
from milpath.figures.heatmap import render_heatmap
from milpath.figures.overlay import overlay_title, write_overlay
from milpath.formats.existing import Existing
from milpath.formats.foreign.identity import identify_encoder, mark_features
from milpath.formats.foreign.locate import locate_features
from milpath.formats.foreign.values import FeatureHints, Layout, SlideFeatures
from milpath.formats.layout import overlay_path, prediction_path
from milpath.formats.model_spec import BundleSpec
from milpath.formats.prediction import Prediction, find_prediction, write_prediction
from milpath.nn.classify import NO_PICTURE, describe_prediction
from milpath.predictions_table import ClassifyFacts, summarize_prediction
from milpath.runs import Outcome, describe_redo, planned_outcome, skipped_outcome
from milpath.slides.facts import SlideFacts
from milpath.store import discard

Predict = Callable[[Path, SlideFeatures, SlideFacts | None], Prediction]
"""A model, applied to the features of a slide; see `milpath.nn.predict_features`."""


@dataclass(frozen=True)
class FeatureItem(WorkItem):
    """A file of features, and its slide if that is available."""

    slide: SlideEntry | None = None

    def absolute(self) -> Self:
        """Return the item with absolute paths, for a process in another folder."""
        slide = None if self.slide is None else self.slide.absolute()
        return replace(self, path=self.path.absolute(), slide=slide)


def classify_features(
    item: FeatureItem,
    out: Path,
    spec: BundleSpec,
    layout: Layout,
    hints: FeatureHints,
    predict: Predict | None = None,
) -> Outcome:
    """Write `out/<slide_id>.prediction.h5`, and `out/<slide_id>.png` if the slide is available.

    Parameters
    ----------
    item : the features
    out : folder of the results
    spec : of the model
    layout, hints : how the features are read
    predict : the model; None to say what would be done, and write nothing

    Raises
    ------
    SlideError, StoredFileError : it cannot be classified
    OutputError : `out` cannot be written
    """
    path, picture = prediction_path(out, item.slide_id), overlay_path(out, item.slide_id)
    dry_run = predict is None
    with ExitStack() as stack:
        slide = None if item.slide is None else stack.enter_context(item.slide.open())
        facts = None if slide is None else slide.facts
        known = replace(hints, slide_mpp=None if slide is None else slide.mpp_mean)
        features = stack.enter_context(layout.open(item.path, known))
        require_kind(item.path, features, spec)
        record, grid = locate_features(item.path, features, facts)
        drawn = None if features.made is None else features.made.header.annotation
        found = find_prediction(path, record, spec.fingerprint, drawn, mark_features(features))
        prediction = found.value
        can_draw = slide is not None and grid.places != "unknown" and len(grid) > 0
        if prediction is not None and (picture.exists() or not can_draw):
            message = f"{describe_prediction(prediction)}, already done with this model"
            facts_of = ClassifyFacts(summarize_prediction(prediction))
            return skipped_outcome(item, message, facts_of, dry_run=dry_run)
        verb = "classified" if prediction is None else "rendered"
        reason = found if prediction is None else Existing[Prediction].stale(NO_PICTURE)
        if predict is None:
            return planned_outcome(item, verb, reason)
        if prediction is None:
            discard(picture)  # an older result must not be taken for the new one
            discard(path)
            prediction = predict(item.path, features, facts)
            write_prediction(path, prediction)
        if slide is not None and can_draw:
            write_overlay(picture, slide, render_heatmap(prediction), overlay_title(prediction))
    said = [describe_prediction(prediction), describe_redo(verb, reason)]
    if grid.places == "unknown":
        said.append("no heatmap: the files do not say where its patches lie")
    message = ", ".join(filter(None, said))
    facts_of = ClassifyFacts(summarize_prediction(prediction))
    return Outcome(item.slide_id, prediction.status, message, facts_of)


def require_kind(path: Path, features: SlideFeatures, spec: BundleSpec) -> None:
    """Raise `StoredFileError` unless features are of the kind that a model was trained on."""
    if not len(features):  # nothing to compare, and perhaps no dimension
        return
    try:
        found = identify_encoder(path, features)
    except UsageError as error:
        raise StoredFileError(str(error)) from None
    differences = spec.encoder.compare(found)
    if differences:
        raise StoredFileError(
            f"{path.name}: the model and these features are not of one kind "
            f"({'; '.join(differences)}); give features that were made as those of its training"
        )


class FeatureClassifier:
    """The job that classifies features, with a model that is loaded already.

    Parameters
    ----------
    predict : the model
    spec : of the model
    out : folder of the results
    layout, hints : how the features are read
    """

    def __init__(
        self, predict: Predict, spec: BundleSpec, out: Path, layout: Layout, hints: FeatureHints
    ) -> None:
        self.predict = predict
        self.spec = spec
        self.out = out
        self.layout = layout
        self.hints = hints

    def __call__(self, item: FeatureItem) -> Outcome:
        return classify_features(item, self.out, self.spec, self.layout, self.hints, self.predict)
