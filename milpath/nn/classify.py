"""Classify: the job that takes a slide from its file to a prediction file and a picture."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.cohort.cohort import SlideEntry
from milpath.errors import UnsupportedSlideError
from milpath.figures.heatmap import render_heatmap
from milpath.figures.overlay import overlay_title, write_overlay
from milpath.formats.bag import as_kept
from milpath.formats.prediction import Prediction, find_prediction, write_prediction
from milpath.nn.bundle import Bundle
from milpath.nn.mil import build_evidence
from milpath.nn.predict import BATCH, collect_evidence, pool_evidence, stack_bias
from milpath.patches.grid import PatchGrid
from milpath.patches.reader import Patch, stream_patches
from milpath.predictions_table import prediction_paths, summarize_prediction
from milpath.runs import Outcome, Status
from milpath.slides.annotation import Annotation
from milpath.slides.slide import Slide
from milpath.store import discard
from milpath.tile import plan_slide

log = logging.getLogger(__name__)


class Classifier:
    """The job that classifies a slide: from its file to a prediction file and an overlay.

    Parameters
    ----------
    bundle : the model
    out : folder for `<slide_id>.prediction.h5` and `<slide_id>.png`
    threads : that read the slide while the network works
    """

    def __init__(self, bundle: Bundle, out: Path, threads: int = 2) -> None:
        self.bundle = bundle
        self.out = out
        self.threads = threads
        side = bundle.spec.encoder.patch_px
        self.evidence = build_evidence((side, side, 3), bundle.members, bundle.encoder)
        self.bias = stack_bias(bundle.members)

    def __call__(self, entry: SlideEntry) -> Outcome:
        path, picture = prediction_paths(self.out, entry.slide_id)
        with entry.open() as slide:
            annotation = entry.read_annotation()
            drawn = annotation.fingerprint if annotation else None
            found = find_prediction(path, slide.facts, self.bundle.spec.fingerprint, drawn)
            if isinstance(found, Prediction):
                if picture.exists() or found.status == "no_tissue":
                    return self._outcome(found, "skipped")
                prediction = found
            else:
                discard(picture)  # whatever comes now, an older answer must not pass for this one
                discard(path)
                prediction = self.predict(slide, annotation)
                write_prediction(path, prediction)
            if prediction.status == "ok":
                write_overlay(picture, slide, render_heatmap(prediction), overlay_title(prediction))
        stale = found if isinstance(found, str) else None
        return self._outcome(prediction, prediction.status, stale)

    def predict(self, slide: Slide, annotation: Annotation | None = None) -> Prediction:
        """Tile, encode and pool a slide in one pass; raises `SlideError` as tiling does."""
        spec = self.bundle.spec
        plan = plan_slide(slide, spec.tile, annotation)
        if len(plan.grid) and plan.tissue.background != spec.background:
            raise UnsupportedSlideError(
                f"{slide.name}: has a {plan.tissue.background} background, the model was "
                f"trained on slides with a {spec.background} one (fluorescence is dark, H&E bright)"
            )
        rows: list[int] = []
        # the model learned from patches as bags keep them, so it is shown them that way
        kept = partial(as_kept, params=spec.tile.pixels)
        patches = stream_patches(slide, plan.grid, kept, self.threads)
        scores, evidence = collect_evidence(self.evidence, _noted(patches, rows, slide, plan.grid))
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

    def _outcome(self, prediction: Prediction, status: Status, stale: str | None = None) -> Outcome:
        if prediction.predicted is None:
            sentence = "no tissue found, so no class"
        else:
            sentence = (
                f"{prediction.predicted} ({prediction.probs.max():.3f}), "
                f"{len(prediction.grid)} patches"
            )
        if prediction.unreadable:
            sentence += f", {prediction.unreadable} unreadable left out"
        if status == "skipped":
            sentence += ", done before with this model"
        if stale:
            sentence += f", made anew: {stale}"
        return Outcome(
            prediction.slide.slide_id,
            status,
            sentence,
            {"prediction": summarize_prediction(prediction)},
        )


def _noted(
    patches: Iterator[Patch], rows: list[int], slide: Slide, grid: PatchGrid
) -> Iterator[NDArray[np.uint8]]:
    """A stream of patches (1, P, P, 3); notes the rows that came, and tells how far it is."""
    for row, pixels in patches:
        rows.append(row)
        yield pixels[None]
        if len(rows) % BATCH == 0:
            log.info("%s: %d of %d patches", slide.slide_id, len(rows), len(grid))
