"""Prediction: the class of bags and slides, by a model in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import UnsupportedSlideError, UsageError
from milpath.formats.bag import Bag
from milpath.formats.features import round_features
from milpath.formats.model_spec import BundleSpec, check_resolution, require_encoder
from milpath.formats.prediction import Prediction
from milpath.formats.scores import BagScores
from milpath.formats.space import FeatureSpace
from milpath.nn.bundle import Bundle, load_bundle
from milpath.nn.encoders.encoder import BATCH, Encoder
from milpath.nn.encoders.referred import find_referred
from milpath.nn.engine import keras
from milpath.nn.mil import build_evidence
from milpath.nn.scoring import FEATURES_BATCH, regroup, score_bag, stack_bias
from milpath.params import TileParams, compare_params
from milpath.patches.grid import PatchGrid
from milpath.patchstream import PatchStream
from milpath.slides.facts import SlideFacts
from milpath.slides.slide import Slide
from milpath.tile import plan_slide

if TYPE_CHECKING:
    from milpath.slides.annotation import Annotation

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Model:
    """An ensemble in memory, ready to predict.

    Attributes
    ----------
    spec : its record
    evidence : of `build_evidence`, for patches or for features
    encoder : what makes the features from patches; None for a network of patches, or where
        features are given
    bias : (M, C)
    space : where the training set lies among the features; None for models of earlier versions
    """

    spec: BundleSpec
    evidence: keras.Model
    bias: NDArray[np.float64]
    space: FeatureSpace | None = None
    encoder: Encoder | None = None

    def score(self, batches: Iterable[NDArray[Any]]) -> tuple[BagScores, float | None]:
        """Apply it to a bag that comes as a stream; also give its distance, see `FeatureSpace`."""
        if self.encoder is not None:
            batches = _embed(self.encoder, batches)
        if self.space is None:
            return score_bag(self.evidence, self.bias, batches), None
        space, distances = self.space, [np.zeros(0)]

        def observe(features: NDArray[Any]) -> None:
            distances.append(space.measure_patches(features))

        scores = score_bag(self.evidence, self.bias, batches, observe=observe)
        return scores, space.measure_slide(np.concatenate(distances))

    def assemble(
        self,
        scored: tuple[BagScores, float | None],
        slide: SlideFacts,
        grid: PatchGrid,
        unreadable: int,
        annotation: str | None,
        features: str | None = None,
    ) -> Prediction:
        """Put the result of `score` together with what it is of; see `Prediction`."""
        scores, distance = scored
        return Prediction(
            slide=slide,
            grid=grid,
            status="ok" if len(grid) else "no_tissue",
            class_names=self.spec.class_names,
            model=self.spec.fingerprint,
            unreadable=unreadable,
            annotation=annotation,
            features=features,
            in_training=features in self.spec.seen or self.spec.has_seen(slide),
            distance=distance,
            member_attention=scores.member_attention,
            member_contributions=scores.member_contributions,
            member_bias=scores.member_bias,
        )


def load_model(folder: Path, weights: Path | None = None) -> Model:
    """Load a model folder, to predict from patches.

    Parameters
    ----------
    folder : of the model
    weights : file or folder of its encoder's weights, if the model only refers to them

    Raises
    ------
    StoredFileError : not a model, or damaged; or the weights are not those of its encoder
    UsageError : it has no encoder, so that it predicts from features only
    """
    return prepare_model(load_bundle(folder), weights)


def prepare_model(bundle: Bundle, weights: Path | None = None) -> Model:
    """Build the network that predicts from patches, from a bundle in memory; see `load_model`."""
    spec = bundle.spec
    require_encoder(spec)
    encoder: Encoder | None = bundle.encoder
    if encoder is None and spec.mode == "features":
        encoder = find_referred(spec.encoder, weights)
    side = spec.encoder.patch_px
    evidence = build_evidence(
        (side, side, 3) if encoder is None else (spec.encoder.dim,),
        bundle.members,
        with_features=bundle.space is not None,
    )
    return Model(spec, evidence, stack_bias(bundle.members), bundle.space, encoder)


def _embed(encoder: Encoder, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
    """Yield the features of a slide's patches, rounded as a file would hold them.

    Whether float16 suffices is known only when all are there, so they are held in memory.
    """
    parts = [np.zeros((0, encoder.spec.dim), np.float32)]
    for patches, count in regroup(batches, BATCH):
        parts.append(encoder.embed(patches[:count]))
    stored = round_features(np.concatenate(parts))
    for low in range(0, len(stored), FEATURES_BATCH):
        yield np.asarray(stored[low : low + FEATURES_BATCH], np.float32)


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
    changes = find_tile_changes(model.spec, bag.header.params)
    if changes:
        raise UsageError(f"{bag.path.name}: was tiled with {changes[0]}; tile the slide again")
    check_background(bag.slide.slide_id, bag.header.background, len(bag), model.spec)
    scored = model.score(bag.iter_patches(BATCH))
    prediction = model.assemble(
        scored, bag.slide, bag.grid, bag.header.unreadable, bag.header.annotation
    )
    return replace(prediction, stain=bag.header.stain)


def find_tile_changes(spec: BundleSpec, params: TileParams) -> list[str]:
    """Find where patches of some parameters are not what a model needs, one phrase each."""
    needed = spec.tile
    return [
        f"{group}.{name} {found}, the model needs {expected}"
        for group, one, two in (
            ("grid", needed.grid, params.grid),
            ("stain", needed.stain, params.stain),
        )
        for name, expected, found in compare_params(one, two)
    ]


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
    SlideError : the slide cannot be tiled or its stain not be normalised, or it has another kind of
        background than the model's
    """
    spec = model.spec
    check_resolution(slide, spec)
    plan = plan_slide(slide, spec.tile, annotation)
    check_background(slide.name, plan.tissue.background, len(plan.grid), spec)
    drawn = annotation.fingerprint if annotation else None
    # the model was trained on patches as bags store them (JPEG), so they are encoded here too
    stream = PatchStream(slide, plan, spec.tile, drawn, threads)
    scored = model.score(pixels[None] for pixels in stream)
    tiling = stream.summarize()
    header = tiling.header
    if header.left_out:
        log.warning("%s: %d patches left out as artefacts", slide.slide_id, header.left_out)
    prediction = model.assemble(scored, slide.facts, tiling.grid, header.unreadable, drawn)
    return replace(prediction, stain=header.stain)


def check_background(name: str, background: str, patches: int, spec: BundleSpec) -> None:
    """Raise `UnsupportedSlideError` for patches on another background than the model's."""
    if patches and spec.background not in (None, background):
        raise UnsupportedSlideError(
            f"{name}: has a {background} background, the model was trained on slides with a "
            f"{spec.background} one (fluorescence is dark, H&E bright)"
        )
