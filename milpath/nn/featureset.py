"""The features of a cohort, in files of any layout, that an attention head is trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydantic import ValidationError

from milpath.cohort.cohort import Cohort, SlideEntry
from milpath.errors import UsageError
from milpath.formats.foreign import FeatureFolder
from milpath.formats.foreign.identity import identify_encoder, mark_features
from milpath.formats.foreign.values import FeatureHints, SlideFeatures
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bags import Background, Features, LabelledBag, TrainingSet
from milpath.nn.missing import require_each_class, settle_missing
from milpath.nn.pixelset import require_one_case, require_same_params
from milpath.params import GridParams, TileParams, describe_violation

log = logging.getLogger(__name__)

_MIN_SPREAD = 1e-4  # of features over patches; below it, training makes no progress
_SAMPLED_BAGS = 16
_SAMPLED_ROWS = 64


def gather_features(
    cohort: Cohort,
    folder: FeatureFolder,
    hints: FeatureHints | None = None,
    *,
    skip_missing: bool = False,
) -> TrainingSet:
    """Open the features of every slide of a cohort and check that one encoder made all.

    Parameters
    ----------
    cohort : with labels
    folder : of the features
    hints : what its files do not say
    skip_missing : leave out slides without a label or features

    Raises
    ------
    UsageError : a slide has no label or features; they differ, or do not say what they are; no
        slide of a class has patches
    StoredFileError : a file is damaged
    """
    cohort.require_classes()
    cohort, missing = settle_missing(
        cohort,
        folder.folder,
        "features",
        lambda entry: entry.slide_id in folder.files,
        skip=skip_missing,
    )
    gathered = _Gathered(cohort.name)
    names = cohort.class_names
    for entry, case in zip(cohort.entries, cohort.cases(), strict=True):
        known = replace(hints or FeatureHints(), slide_mpp=entry.mpp)
        source = Features(folder.layout, folder.files[entry.slide_id], known)
        gathered.add(entry, case, names.index(entry.label or ""), source)
    left = Cohort(cohort.name, tuple(gathered.entries))
    encoder, tile, background = gathered.settle()
    require_each_class(cohort, left, "has patches with features")
    _warn_of_constant_features(gathered.bags)
    return TrainingSet(
        cohort=left,
        bags=tuple(gathered.bags),
        tile=tile,
        background=background,
        patch_px=encoder.patch_px,
        encoder=encoder,
        excluded=tuple(gathered.excluded),
        skipped=missing,
    )


class _Gathered:
    """What has been found in the files so far."""

    def __init__(self, cohort: str) -> None:
        self._cohort = cohort
        self.entries: list[SlideEntry] = []
        self.bags: list[LabelledBag] = []
        self.excluded: list[str] = []
        self._first: tuple[str, EncoderSpec] | None = None
        self._tiled: tuple[str, TileParams, Background, int] | None = None
        self._rounded = True
        self._unverified = 0
        self._copies: dict[str, tuple[str, str]] = {}

    def add(self, entry: SlideEntry, case: str, label: int, source: Features) -> None:
        """Add the features of a slide; raise as `gather_features` does."""
        slide_id = entry.slide_id
        with source.layout.open(source.path, source.hints) as slide:
            self._unverified += not slide.verified
            if not len(slide):
                self.excluded.append(slide_id)
                return
            self._check_encoder(slide_id, identify_encoder(source.path, slide))
            self._check_tiling(slide_id, slide)
            mark = mark_features(slide)
            self._rounded &= slide.features.dtype == np.float16
            made_from = mark if slide.made is None else slide.made.header.fingerprint
            size = len(slide)
        require_one_case(self._copies, mark, slide_id, case)
        self.entries.append(entry)
        self.bags.append(LabelledBag(source, slide_id, case, label, size, made_from, mark))

    def settle(self) -> tuple[EncoderSpec, TileParams, Background | None]:
        """Return the encoder of all features, how slides were tiled, and their background."""
        if self._first is None:
            raise UsageError(f"{self._cohort}: none of its slides has patches with features")
        if self._unverified:
            log.warning(
                "%s: the features of %d of %d slides have no checksums of milpath, so that damage "
                "to them goes unnoticed",
                self._cohort,
                self._unverified,
                len(self.bags) + len(self.excluded),
            )
        precision = "float16" if self._rounded else "float32"
        encoder = self._first[1].model_copy(update={"precision": precision})
        if self._tiled is not None:
            return encoder, self._tiled[1], self._tiled[2]
        return encoder, _assume_tiling(encoder), None

    def _check_encoder(self, slide_id: str, encoder: EncoderSpec) -> None:
        self._first = self._first or (slide_id, encoder)
        differences = self._first[1].compare(encoder)
        if not differences:
            return
        only_mpp = not self._first[1].model_copy(update={"mpp": None}).compare(encoder)
        remedy = (
            "if they were made for one resolution, such as 0.5 for 20x, give it with --mpp"
            if only_mpp
            else "give a folder with the features of one encoder"
        )
        raise UsageError(
            f"the features of {self._first[0]!r} and {slide_id!r} are not of one kind "
            f"({'; '.join(differences)}); {remedy}"
        )

    def _check_tiling(self, slide_id: str, slide: SlideFeatures) -> None:
        if slide.made is None:
            return
        header = slide.made.header
        found = (slide_id, header.params, header.background, slide.made.grid.patch_px)
        self._tiled = self._tiled or found
        require_same_params(self._tiled, found)


def _assume_tiling(encoder: EncoderSpec) -> TileParams:
    """Return milpath's way to tile slides at the resolution of an encoder's patches."""
    try:
        return TileParams(
            grid=GridParams.model_validate({"mpp": encoder.mpp, "patch_px": encoder.patch_px})
        )
    except ValidationError as error:
        name, fact = describe_violation(error)
        raise UsageError(f"features of {encoder.name}: {name} {fact}") from None


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
