"""A split keeps every case in one set, for any cohort."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milpath.cohort.cohort import Cohort, SlideEntry
from milpath.cohort.splits import Split, split_cohort
from milpath.errors import UsageError
from milpath.params import TrainParams


def cohort_of(*slides: tuple[str, str | None, str | None]) -> Cohort:
    """A cohort of (label, case, split)."""
    entries = tuple(
        SlideEntry(Path(f"{i}.svs"), f"s{i}", label, case, split=split)
        for i, (label, case, split) in enumerate(slides)
    )
    return Cohort("c", entries)


def even(per_class: int, classes: str = "ab", slides_per_case: int = 1) -> Cohort:
    return cohort_of(
        *(
            (label, f"{label}{case}", None)
            for case in range(per_class)
            for label in classes
            for _ in range(slides_per_case)
        )
    )


def parts(split: Split) -> list[tuple[int, ...]]:
    return [split.train, split.val, split.test]


cohorts = st.builds(
    lambda sizes, mixed, seed: _shuffled(sizes, mixed, seed),
    st.lists(st.lists(st.integers(1, 4), min_size=3, max_size=9), min_size=2, max_size=3),
    st.integers(0, 2),
    st.integers(0, 99),
)


def _shuffled(sizes: list[list[int]], mixed: int, seed: int) -> Cohort:
    """Classes of cases of 1 to 4 slides; some more cases have slides of two classes."""
    slides: list[tuple[str, str | None, str | None]] = [
        (str(label), f"{label}-{case}", None)
        for label, cases in enumerate(sizes)
        for case, count in enumerate(cases)
        for _ in range(count)
    ]
    slides += [(str(label), f"mixed-{i}", None) for i in range(mixed) for label in (0, 1)]
    random.Random(seed).shuffle(slides)
    return cohort_of(*slides)


# -- properties ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(cohort=cohorts, folds=st.sampled_from([0, 2, 3]), seed=st.integers(0, 9))
def test_no_case_is_in_two_sets_and_every_slide_is_in_one(
    cohort: Cohort, folds: int, seed: int
) -> None:
    try:
        splits = split_cohort(cohort, TrainParams(folds=folds, seed=seed))
    except UsageError:
        return
    cases = cohort.cases()
    for split in splits:
        rows = [row for part in parts(split) for row in part]
        assert sorted(rows) == list(range(len(cases)))
        sets = [{cases[row] for row in part} for part in parts(split)]
        assert all(sets)
        assert sum(map(len, sets)) == len(set(cases))
        assert {cohort.entries[row].label for row in split.train} == set(cohort.class_names)
    if folds:
        assert len(splits) == folds
        tested = Counter(row for split in splits for row in split.test)
        assert tested == dict.fromkeys(range(len(cases)), 1)


@pytest.mark.parametrize("per_class", [3, 4, 5, 7, 20])
@pytest.mark.parametrize("slides_per_case", [1, 3])
def test_a_balanced_cohort_of_three_or_more_cases_per_class_can_be_split(
    per_class: int, slides_per_case: int
) -> None:
    (split,) = split_cohort(even(per_class, "abc", slides_per_case), TrainParams())
    for part in parts(split):
        assert {"abc"[row // slides_per_case % 3] for row in part} == set("abc")


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_in_proportion_in_every_set(seed: int) -> None:
    cohort = cohort_of(*(("a" if i % 4 else "b", None, None) for i in range(80)))
    (split,) = split_cohort(cohort, TrainParams(seed=seed))
    assert [len(part) for part in parts(split)] == [51, 13, 16]
    for part in parts(split):
        share = sum(cohort.entries[row].label == "b" for row in part) / len(part)
        assert share == pytest.approx(0.25, abs=0.07)


def test_the_same_seed_gives_the_same_split_and_a_different_one_does_not() -> None:
    cohort = even(10)
    assert split_cohort(cohort, TrainParams(seed=1)) == split_cohort(cohort, TrainParams(seed=1))
    assert split_cohort(cohort, TrainParams(seed=1)) != split_cohort(cohort, TrainParams(seed=2))


@pytest.mark.parametrize(("fraction", "count"), [(0.1, 4), (0.2, 8), (0.25, 10), (0.5, 20)])
def test_the_test_fraction_is_held_out(fraction: float, count: int) -> None:
    (split,) = split_cohort(even(20), TrainParams(test_fraction=fraction))
    assert len(split.test) == count


# -- a given split -------------------------------------------------------------------------


def test_a_given_split_is_used_unchanged() -> None:
    cohort = cohort_of(("a", None, "test"), ("a", None, "train"), ("b", None, "train"))
    cohort = Cohort("c", (*cohort.entries, SlideEntry(Path("v"), "v", "b", split="val")))
    assert split_cohort(cohort, TrainParams(seed=7)) == [Split((1, 2), (3,), (0,))]


def test_a_given_split_without_validation_slides_raises() -> None:
    cohort = cohort_of(("a", None, "test"), ("b", None, "train"))
    with pytest.raises(UsageError, match="no slide has split 'val'; train, val and test are"):
        split_cohort(cohort, TrainParams())


def test_a_class_without_training_slides_raises() -> None:
    cohort = cohort_of(("a", None, "train"), ("a", None, "val"), ("b", None, "test"))
    with pytest.raises(UsageError, match="the training set has no slide of class 'b'"):
        split_cohort(cohort, TrainParams())


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [0, 2, 5])
def test_a_class_of_two_cases_raises_for_any_number_of_slides(folds: int) -> None:
    slides = [("a", f"a{i}", None) for i in range(9)] + [("b", f"b{i % 2}", None) for i in range(9)]
    with pytest.raises(
        UsageError,
        match="class 'b' has 2 cases; needs at least 3: one each for training, early stopping and",
    ):
        split_cohort(cohort_of(*slides), TrainParams(folds=folds))


def test_one_fold_raises() -> None:
    with pytest.raises(UsageError, match="--folds 1 leaves nothing to train on"):
        split_cohort(even(5), TrainParams(folds=1))


def test_more_folds_than_cases_raise() -> None:
    with pytest.raises(UsageError, match="--folds 10 needs at least 10 cases, there are 8"):
        split_cohort(even(4), TrainParams(folds=10))


def test_a_given_split_with_folds_raises() -> None:
    cohort = cohort_of(("a", None, "train"), ("a", None, "val"), ("b", None, "test"))
    with pytest.raises(UsageError, match="its column 'split' and --folds exclude each other"):
        split_cohort(cohort, TrainParams(folds=5))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.35, 0.4, 0.45, 0.5])
def test_the_test_fraction_is_met_within_one_case(fraction: float) -> None:
    (split,) = split_cohort(even(50), TrainParams(test_fraction=fraction))
    assert len(split.test) == pytest.approx(100 * fraction, abs=1.1)


@pytest.mark.parametrize("seed", range(20))
def test_a_rare_class_of_three_cases_is_in_every_set(seed: int) -> None:
    cohort = cohort_of(
        *(("rare", f"r{i}", None) for i in range(3)), *(("a", f"a{i}", None) for i in range(30))
    )
    (split,) = split_cohort(cohort, TrainParams(seed=seed))
    for part in parts(split):
        assert "rare" in {cohort.entries[row].label for row in part}
