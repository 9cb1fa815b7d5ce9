"""TrainingSet and TrainingPlan: which bags of a labelled cohort are trained on, all checked.

Importing this module imports no Keras, so that wrong input is reported within a second.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from milpath.cohort.cohort import Cohort, SlideEntry, count_slides, list_slides
from milpath.cohort.splits import Split, split_cohort
from milpath.errors import StoredFileError, UsageError
from milpath.formats.bag import Bag
from milpath.formats.layout import bag_path
from milpath.formats.model_spec import EncoderSpec, mark_slide
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
    skipped: Mapping[str, Sequence[str]]
    """Ids of slides left out on request, by what they lack."""


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


def plan_training(
    cohort: Cohort, bags: Path, params: TrainParams, *, skip_missing: bool = False
) -> TrainingPlan:
    """Check a cohort and its bags, and split them. Writes nothing.

    Parameters
    ----------
    cohort : with labels
    bags : folder that holds a bag for each of its slides
    params : how to train
    skip_missing : leave out slides without a label, a bag or features

    Raises
    ------
    UsageError : the cohort or its bags do not allow it
    StoredFileError : a bag is damaged
    """
    negative = find_negative(cohort, params.negative)
    data = gather_bags(cohort, bags, params.mode, skip_missing=skip_missing)
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


def gather_bags(
    cohort: Cohort, folder: Path, content: Content = "pixels", *, skip_missing: bool = False
) -> TrainingSet:
    """Open every bag of a cohort and check that all have the same parameters.

    Parameters
    ----------
    cohort : with labels
    folder : of its bags
    content : what to train on
    skip_missing : leave out slides without a label, a bag or features

    Raises
    ------
    UsageError : a slide has no label, bag or features; bags differ; a class has no tissue
    StoredFileError : a bag is damaged
    """
    cohort.require_classes()
    missing = _find_missing(cohort, folder, content)
    if missing:
        _report_missing(cohort, folder, missing, skip=skip_missing)
        cohort = _leave_out(cohort, missing)
    names = cohort.class_names
    kept: list[tuple[SlideEntry, LabelledBag]] = []
    excluded: list[str] = []
    copies: dict[str, tuple[str, str]] = {}
    first: tuple[str, TileParams, str, int] | None = None
    encoders: dict[tuple[str, str] | None, str] = {}
    for entry, case in zip(cohort.entries, cohort.cases(), strict=True):
        path = bag_path(folder, entry.slide_id)
        with Bag(path) as bag:
            if bag.header.status == "no_tissue":
                excluded.append(entry.slide_id)
                continue
            if content == "pixels":
                bag.require_pixels()
            made = (entry.slide_id, bag.header.params, bag.header.background, bag.grid.patch_px)
            encoders.setdefault(bag.encoder, entry.slide_id)
            size, quickhash, mark = len(bag), bag.slide.quickhash, mark_slide(bag.slide)
            made_from = bag.header.fingerprint
        _check_duplicate(copies, quickhash, entry.slide_id, case)
        first = first or made
        _check_params(first, made)
        label = names.index(entry.label or "")
        record = LabelledBag(
            path, entry.slide_id, case, label, size, content, fingerprint=made_from, mark=mark
        )
        kept.append((entry, record))
    if first is None:
        raise UsageError(f"{cohort.name}: none of its slides has tissue")
    left = Cohort(cohort.name, tuple(entry for entry, _ in kept))
    _check_lost_class(
        cohort, left, "has tissue; check the pictures in the folder qc beside the bags"
    )
    return TrainingSet(
        cohort=left,
        bags=tuple(bag for _, bag in kept),
        tile=first[1],
        background=first[2],
        patch_px=first[3],
        encoder=next(iter(encoders)) if len(encoders) == 1 else None,
        excluded=tuple(excluded),
        skipped=missing,
    )


def _find_missing(cohort: Cohort, folder: Path, content: Content) -> dict[str, list[str]]:
    """Find the slides that cannot be trained on: what they lack, and their ids."""
    missing: dict[str, list[str]] = {}
    for entry in cohort.entries:
        path = bag_path(folder, entry.slide_id)
        if entry.label is None:
            lacks = "label"
        elif not path.exists():
            lacks = "bag"
        elif content == "features" and not _has_features(path):
            lacks = "features"
        else:
            continue
        missing.setdefault(lacks, []).append(entry.slide_id)
    return missing


def _leave_out(cohort: Cohort, missing: Mapping[str, Sequence[str]]) -> Cohort:
    lost = {slide_id for ids in missing.values() for slide_id in ids}
    left = tuple(entry for entry in cohort.entries if entry.slide_id not in lost)
    _check_lost_class(cohort, Cohort(cohort.name, left), "has both a label and a bag to train on")
    return Cohort(cohort.name, left)


def _has_features(path: Path) -> bool:
    with Bag(path) as bag:
        return bag.header.status == "no_tissue" or bag.encoder is not None


def _report_missing(
    cohort: Cohort, folder: Path, missing: Mapping[str, Sequence[str]], *, skip: bool
) -> None:
    """Log all that is missing if it is to be skipped, or else raise `UsageError`."""
    if skip:
        for lacks, ids in missing.items():
            text = f"{count_slides(ids)} no {lacks}: {list_slides(ids)}"
            log.warning("%s: left out, %s", cohort.name, text)
        return
    where = {
        "label": "label (empty, or NA, nan, None, null)",
        "bag": f"bag in {folder}",
        "features": f"features in {folder}",
    }
    facts = [
        f"{count_slides(ids)} no {where[what]}: {list_slides(ids)}" for what, ids in missing.items()
    ]
    remedies = [_REMEDIES[what] for what in missing]
    raise UsageError(
        f"{cohort.name}: {', '.join(facts)}; {', '.join(remedies)}, or leave them out with "
        "--skip-missing"
    )


_REMEDIES = {
    "label": "write the labels",
    "bag": "run milpath tile on this CSV first",
    "features": "run milpath embed on the bags",
}


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


def _check_lost_class(cohort: Cohort, left: Cohort, verb: str) -> None:
    lost = [name for name in cohort.class_names if name not in left.class_names]
    if lost:
        raise UsageError(f"{cohort.name}: no slide of class {lost[0]!r} {verb}")


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
