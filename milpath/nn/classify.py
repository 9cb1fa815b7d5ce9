"""Classify: from a slide's file to a prediction file and a picture of its heatmap.

Importing this module imports no network library; creating a `Classifier` does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from milpath.cohort.cohort import SlideEntry
from milpath.errors import UnsupportedSlideError
from milpath.figures.heatmap import render_heatmap
from milpath.figures.overlay import overlay_title, write_overlay
from milpath.formats.bag import as_kept
from milpath.formats.existing import Existing
from milpath.formats.layout import overlay_path, prediction_path
from milpath.formats.model_spec import BundleSpec
from milpath.formats.prediction import Prediction, find_prediction, write_prediction
from milpath.patches.grid import PatchGrid
from milpath.patches.reader import Patch, stream_patches
from milpath.predictions_table import ClassifyFacts, summarize_prediction
from milpath.runs import Outcome, describe_redo, planned_outcome, skipped_outcome
from milpath.slides.slide import Slide
from milpath.store import discard
from milpath.tile import plan_slide

if TYPE_CHECKING:
    from milpath.nn.bundle import Bundle
    from milpath.slides.annotation import Annotation

log = logging.getLogger(__name__)

_LOG_EVERY = 64  # patches: a batch of the network


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
        annotation = entry.read_annotation()
        drawn = annotation.fingerprint if annotation else None
        found = find_prediction(path, slide.facts, spec.fingerprint, drawn)
        prediction = found.value
        if prediction is not None and (picture.exists() or prediction.status == "no_tissue"):
            message = f"{_describe(prediction)}, already done with this model"
            return skipped_outcome(entry, message, _facts(prediction), dry_run=dry_run)
        verb = "classified" if prediction is None else "rendered"
        reason = found if prediction is None else Existing[Prediction].stale(_NO_PICTURE)
        if dry_run:
            slide.level_for(spec.tile.grid.mpp)
            return planned_outcome(entry, verb, reason)
        if prediction is None:
            assert predict is not None
            discard(picture)  # an older result must not be taken for the new one
            discard(path)
            prediction = predict(slide, annotation)
            write_prediction(path, prediction)
        if prediction.status == "ok":
            write_overlay(picture, slide, render_heatmap(prediction), overlay_title(prediction))
    message = ", ".join(filter(None, [_describe(prediction), describe_redo(verb, reason)]))
    return Outcome(entry.slide_id, prediction.status, message, _facts(prediction))


_NO_PICTURE = "its picture is missing"


class Classifier:
    """The job that classifies a slide, with a model that is loaded already.

    Parameters
    ----------
    bundle : the model
    out : folder of the results
    threads : that read the slide while the network works
    """

    def __init__(self, bundle: Bundle, out: Path, threads: int = 2) -> None:
        from milpath.nn.mil import build_evidence
        from milpath.nn.predict import stack_bias

        self.bundle = bundle
        self.out = out
        self.threads = threads
        side = bundle.spec.encoder.patch_px
        self.evidence = build_evidence((side, side, 3), bundle.members, bundle.encoder)
        self.bias = stack_bias(bundle.members)

    def __call__(self, entry: SlideEntry) -> Outcome:
        return classify_slide(entry, self.out, self.bundle.spec, self.predict)

    def predict(self, slide: Slide, annotation: Annotation | None = None) -> Prediction:
        """Tile, encode and pool a slide in one pass; raise `SlideError` as tiling does."""
        from milpath.nn.predict import collect_evidence, pool_evidence

        spec = self.bundle.spec
        plan = plan_slide(slide, spec.tile, annotation)
        if len(plan.grid) and plan.tissue.background != spec.background:
            raise UnsupportedSlideError(
                f"{slide.name}: has a {plan.tissue.background} background, the model was "
                f"trained on slides with a {spec.background} one (fluorescence is dark, H&E bright)"
            )
        rows: list[int] = []
        # the model was trained on patches as bags store them (JPEG), so they are encoded here too
        stored = partial(as_kept, params=spec.tile.pixels)
        patches = stream_patches(slide, plan.grid, stored, self.threads)
        batches = _note_rows(patches, rows, slide, plan.grid)
        scores, evidence = collect_evidence(self.evidence, batches)
        attention, contributions = pool_evidence(scores, evidence)
        return Prediction(
            slide=slide.facts,
            grid=plan.grid.select(np.asarray(rows, np.int64)),
            status="ok" if rows else "no_tissue",
            class_names=spec.class_names,
            member_attention=attention,
            member_contributions=contributions,
            member_bias=self.bias,
            model=spec.fingerprint,
            unreadable=len(plan.grid) - len(rows),
            annotation=annotation.fingerprint if annotation else None,
        )


def _describe(prediction: Prediction) -> str:
    if prediction.predicted is None:
        sentence = "no tissue found, so no class"
    else:
        sentence = (
            f"predicted {prediction.predicted} (p={prediction.probs.max():.3f}), "
            f"{len(prediction.grid)} patches"
        )
    if prediction.unreadable:
        sentence += f", {prediction.unreadable} unreadable patches left out"
    return sentence


def _facts(prediction: Prediction) -> ClassifyFacts:
    return ClassifyFacts(summarize_prediction(prediction))


def _note_rows(
    patches: Iterator[Patch], rows: list[int], slide: Slide, grid: PatchGrid
) -> Iterator[NDArray[np.uint8]]:
    """Yield patches as (1, P, P, 3), append their rows to `rows`, and log the progress."""
    for row, pixels in patches:
        rows.append(row)
        yield pixels[None]
        if len(rows) % _LOG_EVERY == 0:
            log.info("%s: %d of %d patches", slide.slide_id, len(rows), len(grid))
