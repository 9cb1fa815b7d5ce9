"""TrainingSet: the bags of a labelled cohort, checked to have been made alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from milpath.cohort.cohort import Cohort, SlideEntry
from milpath.errors import StoredFileError, UsageError
from milpath.formats.bag import Bag
from milpath.formats.layout import bag_path
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bundle import load_encoder
from milpath.nn.data import Content, LabelledBag
from milpath.nn.encoders import fingerprint_weights
from milpath.nn.engine import keras
from milpath.params import TileParams, compare_params


@dataclass(frozen=True)
class TrainingSet:
    """The bags of a cohort, checked to have been made alike."""

    cohort: Cohort
    bags: tuple[LabelledBag, ...]
    """One for each entry of the cohort."""
    tile: TileParams
    background: str
    patch_px: int
    encoder: tuple[str, str] | None
    """Name and fingerprint, when the bags hold embeddings of one encoder."""
    excluded: tuple[str, ...]
    """Slide ids left out because they hold no tissue."""


def gather_bags(cohort: Cohort, folder: Path, content: Content = "pixels") -> TrainingSet:
    """Open every bag of a cohort and check that they were made alike.

    Parameters
    ----------
    cohort : with labels
    folder : of its bags
    content : what of the bags is to be learned from

    Raises
    ------
    UsageError : a slide has no label or no bag; bags differ; a class without any tissue
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
                "run milpath tile on this CSV first; if the slide cannot be tiled, take it out"
            )
        with Bag(path) as bag:
            if bag.header.status == "no_tissue":
                excluded.append(entry.slide_id)
                continue
            made = (entry.slide_id, bag.header.params, bag.header.background, bag.grid.patch_px)
            encoders.setdefault(bag.encoder, entry.slide_id)
            size, quickhash = len(bag), bag.slide.quickhash
        _refuse_copy(copies, quickhash, entry.slide_id, case)
        first = first or made
        _refuse_unlike(first, made)
        label = names.index(entry.label or "")
        kept.append((entry, LabelledBag(path, entry.slide_id, case, label, size, content)))
    if first is None:
        raise UsageError(f"{cohort.name}: none of its slides holds tissue")
    left = Cohort(cohort.name, tuple(entry for entry, _ in kept))
    _refuse_lost_class(cohort, left)
    return TrainingSet(
        cohort=left,
        bags=tuple(bag for _, bag in kept),
        tile=first[1],
        background=first[2],
        patch_px=first[3],
        encoder=next(iter(encoders)) if len(encoders) == 1 else None,
        excluded=tuple(excluded),
    )


def _refuse_lost_class(cohort: Cohort, left: Cohort) -> None:
    lost = [name for name in cohort.class_names if name not in left.class_names]
    if lost:
        raise UsageError(
            f"{cohort.name}: no slide of class {lost[0]!r} holds tissue; "
            "look at the pictures in the folder qc beside the bags"
        )


def _refuse_copy(
    copies: dict[str, tuple[str, str]], quickhash: str, slide_id: str, case: str
) -> None:
    """One slide under two cases could stand on both sides of a split."""
    other, its_case = copies.setdefault(quickhash, (slide_id, case))
    if its_case != case:
        raise UsageError(
            f"slides {other!r} and {slide_id!r} are the same slide, but of the cases {its_case!r} "
            f"and {case!r}; take one of them out"
        )


def _refuse_unlike(
    first: tuple[str, TileParams, str, int], other: tuple[str, TileParams, str, int]
) -> None:
    if first[1:] == other[1:]:
        return
    differ = [f"{name} {one} and {two}" for name, one, two in compare_params(first[1], other[1])]
    what = "; ".join(differ) or f"a {first[2]} and a {other[2]} background"
    raise UsageError(
        f"bags of {first[0]!r} and {other[0]!r} were made differently ({what}); "
        "tile all slides with the same options"
    )


def frozen_encoder(folder: Path, found: tuple[str, str] | None) -> tuple[keras.Model, EncoderSpec]:
    """The encoder whose embeddings the bags of a folder hold.

    Raises
    ------
    UsageError : the bags hold none, or not all of one encoder
    """
    if found is None:
        raise UsageError(
            f"the bags in {folder} do not all hold embeddings of one encoder; "
            f"run milpath embed {folder} first"
        )
    try:
        encoder, spec = load_encoder(folder / "encoder")
    except StoredFileError as error:
        raise UsageError(f"the encoder of these embeddings is not at hand: {error}") from None
    if fingerprint_weights(encoder) != found[1]:
        raise UsageError(
            f"the bags in {folder} hold embeddings of another encoder than {folder / 'encoder'}; "
            "run milpath embed again"
        )
    return encoder, spec
