"""The bags of a cohort that a network is trained on together with its head."""

from __future__ import annotations

from pathlib import Path

from milpath.cohort.cohort import Cohort, SlideEntry
from milpath.errors import UsageError
from milpath.formats.bag import Bag
from milpath.formats.layout import bag_path
from milpath.formats.model_spec import mark_slide
from milpath.nn.bags import Background, LabelledBag, Pixels, TrainingSet
from milpath.nn.missing import require_each_class, settle_missing
from milpath.params import TileParams, compare_params

_NO_TISSUE = "has tissue; check the pictures in the folder qc beside the bags"


def gather_bags(cohort: Cohort, folder: Path, *, skip_missing: bool = False) -> TrainingSet:
    """Open every bag of a cohort and check that all have the same parameters.

    Parameters
    ----------
    cohort : with labels
    folder : of its bags
    skip_missing : leave out slides without a label or a bag

    Raises
    ------
    UsageError : a slide has no label or bag; bags differ; a class has no tissue
    StoredFileError : a bag is damaged
    """
    cohort.require_classes()
    cohort, missing = settle_missing(
        cohort,
        folder,
        "bag",
        lambda entry: bag_path(folder, entry.slide_id).exists(),
        skip=skip_missing,
    )
    names = cohort.class_names
    kept: list[tuple[SlideEntry, LabelledBag]] = []
    excluded: list[str] = []
    copies: dict[str, tuple[str, str]] = {}
    first: tuple[str, TileParams, Background, int] | None = None
    for entry, case in zip(cohort.entries, cohort.cases(), strict=True):
        path = bag_path(folder, entry.slide_id)
        with Bag(path) as bag:
            if bag.header.status == "no_tissue":
                excluded.append(entry.slide_id)
                continue
            bag.require_pixels()
            made = (entry.slide_id, bag.header.params, bag.header.background, bag.grid.patch_px)
            size, quickhash, mark = len(bag), bag.slide.quickhash, mark_slide(bag.slide)
            made_from = bag.header.fingerprint
        require_one_case(copies, quickhash, entry.slide_id, case)
        first = first or made
        require_same_params(first, made)
        label = names.index(entry.label or "")
        record = LabelledBag(
            Pixels(path), entry.slide_id, case, label, size, fingerprint=made_from, mark=mark
        )
        kept.append((entry, record))
    if first is None:
        raise UsageError(f"{cohort.name}: none of its slides has tissue")
    left = Cohort(cohort.name, tuple(entry for entry, _ in kept))
    require_each_class(cohort, left, _NO_TISSUE)
    return TrainingSet(
        cohort=left,
        bags=tuple(bag for _, bag in kept),
        tile=first[1],
        background=first[2],
        patch_px=first[3],
        encoder=None,
        excluded=tuple(excluded),
        skipped=missing,
    )


def require_one_case(
    copies: dict[str, tuple[str, str]], mark: str, slide_id: str, case: str
) -> None:
    """Raise `UsageError` for one slide under two cases, which could be on both sides of a split."""
    other, its_case = copies.setdefault(mark, (slide_id, case))
    if its_case != case:
        raise UsageError(
            f"slides {other!r} and {slide_id!r} are one slide, but have the cases {its_case!r} and "
            f"{case!r}; remove one of them"
        )


def require_same_params(
    first: tuple[str, TileParams, Background, int], other: tuple[str, TileParams, Background, int]
) -> None:
    """Raise `UsageError` unless two slides, given with their ids, were tiled alike."""
    if first[1:] == other[1:]:
        return
    differ = [f"{name} {one} and {two}" for name, one, two in compare_params(first[1], other[1])]
    what = "; ".join(differ) or f"a {first[2]} and a {other[2]} background"
    raise UsageError(
        f"bags of {first[0]!r} and {other[0]!r} have different parameters ({what}); "
        "tile all slides with the same options"
    )
