"""Prediction: apply an ensemble to bags and slides, each instance once, pooled as a stream."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from milpath.errors import UnsupportedSlideError, UsageError
from milpath.formats.bag import Bag, as_kept
from milpath.formats.model_spec import BundleSpec, check_resolution
from milpath.formats.prediction import Prediction
from milpath.formats.scores import BagScores
from milpath.formats.space import FeatureSpace
from milpath.nn.bundle import Bundle, load_bundle
from milpath.nn.engine import keras
from milpath.nn.mil import Member, build_evidence
from milpath.params import compare_params
from milpath.patches.artefacts import ArtefactFilter, measure_blur
from milpath.patches.grid import PatchGrid
from milpath.patches.reader import Patch, stream_patches
from milpath.slides.facts import SlideFacts
from milpath.slides.slide import Slide
from milpath.tile import plan_slide

if TYPE_CHECKING:
    from milpath.slides.annotation import Annotation

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

BATCH = 64
"""Patches per batch."""

SCORE_BATCH = 512
"""Instances per batch, for bags in memory."""

FEATURES_BATCH = 2048
"""Features per batch: they are a thousand times smaller than patches."""

Observe = Callable[[NDArray[Any]], None]
"""Receives the features (n, D) of a batch."""


def collect_evidence(
    model: keras.Model,
    batches: Iterable[NDArray[Any]],
    batch: int | None = None,
    observe: Observe | None = None,
) -> tuple[Floats, Floats]:
    """Run an evidence model over a stream of instances.

    Because the head is linear, 1 + C numbers per instance and member are enough to pool a bag, so
    memory hardly grows with the slide.

    Parameters
    ----------
    model : of `build_evidence`
    batches : arrays (n, ...) of any n
    batch : instances per batch; by default `BATCH` for patches, `FEATURES_BATCH` for features
    observe : called with the features (n, D) of each batch; for a model that gives them

    Returns
    -------
    attention scores (M, N) and class evidence (M, N, C)
    """
    members, classes = model.output_shape[1][1:]
    size = batch or (BATCH if len(model.input_shape) > 2 else FEATURES_BATCH)
    scores, evidence = [np.zeros((0, members))], [np.zeros((0, members, classes))]
    for instances, count in _fill(batches, size):
        some = model.predict_on_batch(instances)
        scores.append(np.asarray(some[0][:count], np.float64))
        evidence.append(np.asarray(some[1][:count], np.float64))
        if observe is not None:
            observe(np.asarray(some[2][:count]))
    return np.concatenate(scores).T, np.concatenate(evidence).swapaxes(0, 1)


def _fill(batches: Iterable[NDArray[Any]], size: int) -> Iterator[tuple[NDArray[Any], int]]:
    """Regroup instances into batches of exactly `size`, so that the graph is traced once.

    Yields
    ------
    array (size, ...), the same one every time, and the number of its rows that are instances; in
    the last batch the other rows hold zeros or old values
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
    """Compute attention (M, N), the softmax of the scores, and contributions (M, N, C)."""
    if scores.shape[1] == 0:
        return scores, evidence
    attention: Floats = softmax(scores, axis=1)
    return attention, attention[..., None] * evidence


def stack_bias(members: Sequence[Member]) -> Floats:
    """Stack the biases of the members' linear heads, (M, C)."""
    return np.stack([member.head.classifier.bias.numpy() for member in members]).astype(np.float64)


def score_bag(
    model: keras.Model,
    bias: Floats,
    batches: Iterable[NDArray[Any]],
    batch: int | None = None,
    observe: Observe | None = None,
) -> BagScores:
    """Apply an ensemble to a bag that comes as a stream; exact, in memory of 1 + C numbers each.

    Parameters
    ----------
    model : of `build_evidence`
    bias : (M, C), of `stack_bias`
    batches, batch, observe : as in `collect_evidence`
    """
    return _pool(*collect_evidence(model, batches, batch, observe), bias)


def score_bags(members: Sequence[Member], bags: Sequence[NDArray[Any]]) -> list[BagScores]:
    """Apply an ensemble to bags in memory, all their instances in common batches.

    Parameters
    ----------
    members : all with an encoder of their own, or all for features
    bags : arrays (N, ...), none empty
    """
    instances = np.concatenate(bags)
    model, bias = build_evidence(instances.shape[1:], members), stack_bias(members)
    batches = (instances[at : at + SCORE_BATCH] for at in range(0, len(instances), SCORE_BATCH))
    scores, evidence = collect_evidence(model, batches, min(SCORE_BATCH, len(instances)))
    cuts = np.cumsum([len(bag) for bag in bags])[:-1]
    parts = zip(np.split(scores, cuts, axis=1), np.split(evidence, cuts, axis=1), strict=True)
    return [_pool(*part, bias) for part in parts]


def _pool(scores: Floats, evidence: Floats, bias: Floats) -> BagScores:
    attention, contributions = pool_evidence(scores, evidence)
    return BagScores(
        member_attention=attention, member_contributions=contributions, member_bias=bias
    )


@dataclass(frozen=True, eq=False)
class Model:
    """An ensemble in memory, ready to predict.

    Attributes
    ----------
    spec : its record
    evidence : of `build_evidence`, for patches
    bias : (M, C)
    space : where the training set lies among the features; None for models of earlier versions
    """

    spec: BundleSpec
    evidence: keras.Model
    bias: Floats
    space: FeatureSpace | None = None

    def score(self, batches: Iterable[NDArray[Any]]) -> tuple[BagScores, float | None]:
        """Apply it to a bag that comes as a stream; also give its distance, see `FeatureSpace`."""
        if self.space is None:
            return score_bag(self.evidence, self.bias, batches), None
        space, distances = self.space, [np.zeros(0)]

        def observe(features: NDArray[Any]) -> None:
            distances.append(space.measure_patches(features))

        scores = score_bag(self.evidence, self.bias, batches, observe=observe)
        return scores, space.measure_slide(np.concatenate(distances))


def load_model(folder: Path) -> Model:
    """Load a model folder.

    Raises
    ------
    StoredFileError : not a model, or damaged
    """
    return prepare_model(load_bundle(folder))


def prepare_model(bundle: Bundle) -> Model:
    """Build the network that predicts, from a bundle in memory."""
    side = bundle.spec.encoder.patch_px
    evidence = build_evidence(
        (side, side, 3), bundle.members, bundle.encoder, with_features=bundle.space is not None
    )
    return Model(bundle.spec, evidence, stack_bias(bundle.members), bundle.space)


def predict_bag(model: Model, bag: Bag) -> Prediction:
    """Predict the class of a bag from its patches.

    Parameters
    ----------
    model : of `load_model`
    bag : an open bag, tiled with the parameters of the model

    Raises
    ------
    UsageError : the bag was tiled with other parameters
    StoredFileError : the bag is damaged
    """
    changes = compare_params(model.spec.tile.grid, bag.header.params.grid)
    if changes:
        name, expected, found = changes[0]
        raise UsageError(
            f"{bag.path.name}: was tiled with grid.{name} {found}, the model needs {expected}; "
            "tile the slide again"
        )
    _check_background(bag.slide.slide_id, bag.header.background, len(bag), model.spec)
    scored = model.score(bag.iter_patches(BATCH))
    return _assemble(
        model, scored, bag.slide, bag.grid, bag.header.unreadable, bag.header.annotation
    )


def predict_slide(
    model: Model, slide: Slide, annotation: Annotation | None = None, threads: int = 1
) -> Prediction:
    """Predict the class of a slide: tile, encode and pool it in one pass.

    Parameters
    ----------
    model : of `load_model`
    slide : an open slide
    annotation : its tissue as drawn by a person; by default it is detected
    threads : that read the slide while the network computes

    Raises
    ------
    SlideError : the slide cannot be tiled, or has another kind of background than the model's
    """
    spec = model.spec
    check_resolution(slide, spec)
    plan = plan_slide(slide, spec.tile, annotation)
    _check_background(slide.name, plan.tissue.background, len(plan.grid), spec)
    artefacts = ArtefactFilter(spec.tile.artefacts, plan.fold, plan.pen)

    def process(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
        # the model was trained on patches as bags store them (JPEG), so they are encoded here too
        return as_kept(pixels, spec.tile.pixels), measure_blur(pixels)

    patches = artefacts.keep(stream_patches(slide, plan.grid, process, threads))
    scored = model.score(_count(patches, slide, plan.grid))
    grid = plan.grid.select(artefacts.rows)
    unreadable = len(plan.grid) - len(grid) - artefacts.left_out
    left_out = plan.left_out + artefacts.left_out
    if left_out:
        log.warning("%s: %d patches left out as artefacts", slide.slide_id, left_out)
    annotated = annotation.fingerprint if annotation else None
    return _assemble(model, scored, slide.facts, grid, unreadable, annotated)


def _assemble(
    model: Model,
    scored: tuple[BagScores, float | None],
    slide: SlideFacts,
    grid: PatchGrid,
    unreadable: int,
    annotation: str | None,
) -> Prediction:
    scores, distance = scored
    return Prediction(
        slide=slide,
        grid=grid,
        status="ok" if len(grid) else "no_tissue",
        class_names=model.spec.class_names,
        model=model.spec.fingerprint,
        unreadable=unreadable,
        annotation=annotation,
        in_training=model.spec.has_seen(slide),
        distance=distance,
        member_attention=scores.member_attention,
        member_contributions=scores.member_contributions,
        member_bias=scores.member_bias,
    )


def _check_background(name: str, background: str, patches: int, spec: BundleSpec) -> None:
    if patches and background != spec.background:
        raise UnsupportedSlideError(
            f"{name}: has a {background} background, the model was trained on slides with a "
            f"{spec.background} one (fluorescence is dark, H&E bright)"
        )


def _count(patches: Iterator[Patch], slide: Slide, grid: PatchGrid) -> Iterator[NDArray[np.uint8]]:
    """Yield patches as (1, P, P, 3), and log the progress."""
    for number, (_, pixels) in enumerate(patches, start=1):
        yield pixels[None]
        if number % BATCH == 0:
            log.info("%s: %d of %d patches", slide.slide_id, number, len(grid))
