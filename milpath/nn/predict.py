"""Prediction of a bag or a slide, pooled as a stream, and the job that classifies a slide."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from milpath.cohort.cohort import SlideEntry
from milpath.errors import UnsupportedSlideError
from milpath.figures.heatmap import render_heatmap
from milpath.figures.overlay import overlay_title, write_overlay
from milpath.formats.bag import as_kept
from milpath.formats.prediction import Prediction, find_prediction, write_prediction
from milpath.nn.bundle import Bundle
from milpath.nn.mil import Member, build_evidence
from milpath.patches.grid import PatchGrid
from milpath.patches.reader import Patch, stream_patches
from milpath.predictions_table import prediction_paths, summarize_prediction
from milpath.runs import Outcome, Status
from milpath.slides.annotation import Annotation
from milpath.slides.slide import Slide
from milpath.store import discard
from milpath.tile import plan_slide

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

BATCH = 64
"""Patches that the network takes at a time."""

SCORE_BATCH = 512
"""Instances in memory that it takes at a time."""

EMBEDDINGS_BATCH = 2048
"""Embeddings that it takes at a time: they are a thousand times smaller."""


def collect_evidence(
    model: keras.Model, batches: Iterable[NDArray[Any]], batch: int | None = None
) -> tuple[Floats, Floats]:
    """Run an evidence model over a stream of instances.

    Only 1 + C numbers a patch and member are kept: since the head is linear, they are all that
    pooling needs, and the memory hardly grows with the slide.

    Parameters
    ----------
    model : of `build_evidence`
    batches : arrays (n, ...) of any n
    batch : instances that the network is given at a time; by default `BATCH` of patches,
        `EMBEDDINGS_BATCH` of embeddings

    Returns
    -------
    attention scores (M, N) and class evidence (M, N, C)
    """
    members, classes = model.output_shape[1][1:]
    size = batch or (BATCH if len(model.input_shape) > 2 else EMBEDDINGS_BATCH)
    scores, evidence = [np.zeros((0, members))], [np.zeros((0, members, classes))]
    for instances, count in _fill(batches, size):
        some = model.predict_on_batch(instances)
        scores.append(np.asarray(some[0][:count], np.float64))
        evidence.append(np.asarray(some[1][:count], np.float64))
    return np.concatenate(scores).T, np.concatenate(evidence).swapaxes(0, 1)


def _fill(batches: Iterable[NDArray[Any]], size: int) -> Iterator[tuple[NDArray[Any], int]]:
    """The same instances, always `size` at a time, so that the graph is traced once.

    Yields
    ------
    array (size, ...), the same one every time, and how many of its first rows are instances; the
    rest of the last one is zero or left over
    """
    full: NDArray[Any] | None = None
    count = 0
    for batch in batches:
        if full is None:
            full = np.zeros((size, *batch.shape[1:]), batch.dtype)
        taken = 0
        while taken < len(batch):
            some = batch[taken : taken + size - count]
            full[count : count + len(some)] = some
            count += len(some)
            taken += len(some)
            if count == size:
                yield full, count
                count = 0
    if full is not None and count:
        yield full, count


def pool_evidence(scores: Floats, evidence: Floats) -> tuple[Floats, Floats]:
    """Attention (M, N), the scores' softmax, and contributions (M, N, C), attention x evidence."""
    if scores.shape[1] == 0:
        return scores, evidence
    attention: Floats = softmax(scores, axis=1)
    return attention, attention[..., None] * evidence


def stack_bias(members: Sequence[Member]) -> Floats:
    """(M, C), the biases of the members' linear heads."""
    return np.stack([member.head.classifier.bias.numpy() for member in members]).astype(np.float64)


@dataclass(frozen=True, eq=False)
class BagScores:
    """What an ensemble says of one bag.

    Attributes
    ----------
    probs : (C,) of its classes, from the members' mean logits
    attention : (N,) mean over the members
    contributions : (N, C) mean over the members, the bias shared out by attention: an instance
        adds ``a_k (w_c · h_k + b_c)``, and all of them together make the logits exactly
    """

    probs: Floats
    attention: Floats
    contributions: Floats

    def evidence(self, index: int) -> Floats:
        """(N,) what each instance adds to a class's logit beyond what it adds to the mean logit.

        The softmax does not see what all logits share, so this is what decides.
        """
        centred: Floats = self.contributions[:, index] - self.contributions.mean(axis=1)
        return centred


def score_bags(members: Sequence[Member], bags: Sequence[NDArray[Any]]) -> list[BagScores]:
    """Every instance of some bags is seen once by an ensemble, then each bag is pooled.

    Parameters
    ----------
    members : alike, each with its own encoder or all for embeddings
    bags : arrays (N, ...), none empty
    """
    instances = np.concatenate(bags)
    model = build_evidence(instances.shape[1:], members)
    batches = (instances[at : at + SCORE_BATCH] for at in range(0, len(instances), SCORE_BATCH))
    scores, evidence = collect_evidence(model, batches, min(SCORE_BATCH, len(instances)))
    cuts = np.cumsum([len(bag) for bag in bags])[:-1]
    bias = stack_bias(members)
    verdicts = []
    for some, its in zip(
        np.split(scores, cuts, axis=1), np.split(evidence, cuts, axis=1), strict=True
    ):
        attention, contributions = pool_evidence(some, its + bias[:, None])
        logits = contributions.sum(axis=1).mean(axis=0)
        verdicts.append(
            BagScores(softmax(logits), attention.mean(axis=0), contributions.mean(axis=0))
        )
    return verdicts


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
