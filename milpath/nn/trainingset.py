"""TrainingSet and TrainingPlan: which bags of a labelled cohort are trained on, all checked.

Importing this module imports no Keras, so that wrong input is reported within a second.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from milpath.cohort.cohort import Cohort, SlideEntry
from milpath.cohort.splits import Split, split_cohort
from milpath.errors import StoredFileError, UsageError
from milpath.formats.bag import Bag
from milpath.formats.layout import bag_path
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bags import Content, LabelledBag
from milpath.params import TileParams, TrainParams, compare_params

if TYPE_CHECKING:
    from milpath.nn.engine import keras

log = logging.getLogger(__name__)

_MIN_SPREAD = 1e-4  # of features over patches; below it, training makes no progress
_SAMPLED_BAGS = 16
_SAMPLED_ROWS = 64


@dataclass(frozen=True)
class TrainingSet:
    """The bags of a cohort, checked for equal parameters."""

    cohort: Cohort
    bags: tuple[LabelledBag, ...]
    """One for each entry of `cohort`."""
    tile: TileParams
    background: str
    patch_px: int
    encoder: tuple[str, str] | None
    """Name and fingerprint, if all bags have features of one encoder."""
    excluded: tuple[str, ...]
    """Ids of slides left out because they have no tissue."""


@dataclass(frozen=True)
class TrainingPlan:
    """What will be trained on which bags.

    Attributes
    ----------
    cohort : all its slides
    folder : of the bags
    params : how to train
    data : the bags
    splits : one per fold, rows of `data`
    negative : index of the negative class, if there is one
    """

    cohort: Cohort
    folder: Path
    params: TrainParams
    data: TrainingSet
    splits: Sequence[Split]
    negative: int | None


def plan_training(cohort: Cohort, bags: Path, params: TrainParams) -> TrainingPlan:
    """Check a cohort and its bags, and split them. Writes nothing.

    Parameters
    ----------
    cohort : with labels
    bags : folder that holds a bag for each of its slides
    params : how to train

    Raises
    ------
    UsageError : the cohort or its bags do not allow it
    StoredFileError : a bag is damaged
    """
    negative = find_negative(cohort, params.negative)
    data = gather_bags(cohort, bags, params.mode)
    if params.mode == "features":
        _require_features(bags, data.encoder)
        _warn_of_constant_features(data.bags)
    return TrainingPlan(cohort, bags, params, data, split_cohort(data.cohort, params), negative)


def find_negative(cohort: Cohort, name: str | None) -> int | None:
    """Return the index of the negative class; None if there is none.

    Raises
    ------
    UsageError : the cohort has no such class
    """
    if name is None:
        return None
    if name not in cohort.class_names:
        raise UsageError(
            f"--negative {name}: {cohort.name} has no such class; "
            f"it has {', '.join(cohort.class_names)}"
        )
    return cohort.class_names.index(name)


def gather_bags(cohort: Cohort, folder: Path, content: Content = "pixels") -> TrainingSet:
    """Open every bag of a cohort and check that all have the same parameters.

    Parameters
    ----------
    cohort : with labels
    folder : of its bags
    content : what to train on

    Raises
    ------
    UsageError : a slide has no label or no bag; bags differ; a class has no tissue
    StoredFileError : a bag is damaged
    """
    cohort.require_labels()
    names = cohort.class_names
    kept: list[tuple[SlideEntry, LabelledBag]] = []
    excluded: list[str] = []
    copies: dict[str, tuple[str, str]] = {}
    first: tuple[str, TileParams, str, int] | None = None
    encoders: dict[tuple[str, str] | None, str] = {}
    for entry, case in zip(cohort.entries, cohort.cases(), strict=True):
        path = bag_path(folder, entry.slide_id)
        if not path.exists():
            raise UsageError(
                f"{cohort.name}: slide {entry.slide_id!r} has no bag in {folder}; "
                "run milpath tile on this CSV first; if the slide cannot be tiled, remove it"
            )
        with Bag(path) as bag:
            if bag.header.status == "no_tissue":
                excluded.append(entry.slide_id)
                continue
            if content == "pixels":
                bag.require_pixels()
            made = (entry.slide_id, bag.header.params, bag.header.background, bag.grid.patch_px)
            encoders.setdefault(bag.encoder, entry.slide_id)
            size, quickhash = len(bag), bag.slide.quickhash
        _check_duplicate(copies, quickhash, entry.slide_id, case)
        first = first or made
        _check_params(first, made)
        label = names.index(entry.label or "")
        kept.append((entry, LabelledBag(path, entry.slide_id, case, label, size, content)))
    if first is None:
        raise UsageError(f"{cohort.name}: none of its slides has tissue")
    left = Cohort(cohort.name, tuple(entry for entry, _ in kept))
    _check_lost_class(cohort, left)
    return TrainingSet(
        cohort=left,
        bags=tuple(bag for _, bag in kept),
        tile=first[1],
        background=first[2],
        patch_px=first[3],
        encoder=next(iter(encoders)) if len(encoders) == 1 else None,
        excluded=tuple(excluded),
    )


def _warn_of_constant_features(bags: Sequence[LabelledBag]) -> None:
    """Warn if the features in a sample of the bags hardly differ."""
    sampled = []
    for bag in bags[:: max(1, len(bags) // _SAMPLED_BAGS)]:
        rows = np.unique(np.linspace(0, bag.size - 1, _SAMPLED_ROWS).astype(np.int64))
        sampled.append(bag.read(rows).astype(np.float64))
    values = np.concatenate(sampled)
    spread = float(np.sqrt(np.mean(np.square(values - values.mean(axis=0)))))
    if spread < _MIN_SPREAD:
        log.warning(
            "the features of different patches differ by only %.1g (standard deviation); a model "
            "cannot learn from them: check the weights of the encoder",
            spread,
        )


def _check_lost_class(cohort: Cohort, left: Cohort) -> None:
    lost = [name for name in cohort.class_names if name not in left.class_names]
    if lost:
        raise UsageError(
            f"{cohort.name}: no slide of class {lost[0]!r} has tissue; "
            "check the pictures in the folder qc beside the bags"
        )


def _check_duplicate(
    copies: dict[str, tuple[str, str]], quickhash: str, slide_id: str, case: str
) -> None:
    """Raise `UsageError` for one slide under two cases, which could be on both sides of a split."""
    other, its_case = copies.setdefault(quickhash, (slide_id, case))
    if its_case != case:
        raise UsageError(
            f"slides {other!r} and {slide_id!r} are one slide, but have the cases {its_case!r} and "
            f"{case!r}; remove one of them"
        )


def _check_params(
    first: tuple[str, TileParams, str, int], other: tuple[str, TileParams, str, int]
) -> None:
    if first[1:] == other[1:]:
        return
    differ = [f"{name} {one} and {two}" for name, one, two in compare_params(first[1], other[1])]
    what = "; ".join(differ) or f"a {first[2]} and a {other[2]} background"
    raise UsageError(
        f"bags of {first[0]!r} and {other[0]!r} have different parameters ({what}); "
        "tile all slides with the same options"
    )


def _require_features(folder: Path, encoder: tuple[str, str] | None) -> tuple[str, str]:
    if encoder is None:
        raise UsageError(
            f"the bags in {folder} do not all have features of one encoder; "
            f"run milpath embed {folder} first"
        )
    return encoder


def frozen_encoder(folder: Path, found: tuple[str, str] | None) -> tuple[keras.Model, EncoderSpec]:
    """Load the encoder that made the features in the bags of a folder. Imports Keras.

    Raises
    ------
    UsageError : the bags have no features, or not all of one encoder
    """
    from milpath.nn.bundle import load_encoder
    from milpath.nn.encoders import fingerprint_weights

    _, fingerprint = _require_features(folder, found)
    try:
        encoder, spec = load_encoder(folder / "encoder")
    except StoredFileError as error:
        raise UsageError(f"the encoder of these features is not available: {error}") from None
    if fingerprint_weights(encoder) != fingerprint:
        raise UsageError(
            f"the features in {folder} were made by a different encoder than {folder / 'encoder'}; "
            "run milpath embed again"
        )
    return encoder, spec
