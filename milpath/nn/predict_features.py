"""Prediction from files of features, with the slide or without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.formats.foreign.identity import mark_features
from milpath.formats.foreign.locate import locate_features
from milpath.formats.foreign.values import SlideFeatures
from milpath.formats.model_spec import require_features_model
from milpath.formats.prediction import Prediction
from milpath.nn.bundle import Bundle, load_bundle
from milpath.nn.mil import build_evidence
from milpath.nn.predict import Model, check_background
from milpath.nn.scoring import FEATURES_BATCH, stack_bias
from milpath.params import compare_params
from milpath.slides.facts import SlideFacts


def load_features_model(folder: Path) -> Model:
    """Load a model folder, to predict from features.

    Raises
    ------
    StoredFileError : not a model, or damaged
    UsageError : trained on pixels
    """
    return prepare_for_features(load_bundle(folder))


def prepare_for_features(bundle: Bundle) -> Model:
    """Build the network that predicts from features, from a bundle in memory.

    Raises
    ------
    UsageError : its members have encoders of their own, so that there are no common features
    """
    spec = bundle.spec
    require_features_model(spec)
    evidence = build_evidence(
        (spec.encoder.dim,), bundle.members, with_features=bundle.space is not None
    )
    return Model(spec, evidence, stack_bias(bundle.members), bundle.space)


def predict_features(
    model: Model, path: Path, features: SlideFeatures, slide: SlideFacts | None = None
) -> Prediction:
    """Predict the class of a slide from its features.

    Parameters
    ----------
    model : of `prepare_for_features`, trained on features of this kind
    path : of the features, for messages
    features : open; opened with the slide's µm per pixel, if the slide is known
    slide : record of the slide, None if it is not available

    Raises
    ------
    StoredFileError : they are of another resolution or slide, or damaged
    """
    record, grid = locate_features(path, features, slide)
    made = features.made
    if made is not None:
        changes = compare_params(model.spec.tile.stain, made.header.params.stain)
        for name, expected, found in changes:
            raise StoredFileError(
                f"{path.name}: its patches were tiled with stain.{name} {found}, the model needs "
                f"{expected}; tile and embed the slide again"
            )
        check_background(record.slide_id, made.header.background, len(features), model.spec)
    prediction = model.assemble(
        model.score(_iterate(features)),
        record,
        grid,
        0 if made is None else made.header.unreadable,
        None if made is None else made.header.annotation,
        mark_features(features),
    )
    return prediction if made is None else replace(prediction, stain=made.header.stain)


def _iterate(features: SlideFeatures) -> Iterator[NDArray[Any]]:
    for low in range(0, len(features), FEATURES_BATCH):
        yield np.asarray(features.features[low : low + FEATURES_BATCH], np.float32)
