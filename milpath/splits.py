"""Splits of a cohort that keep all slides of a case on one side."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milpath.cohort import SPLITS, Cohort
from milpath.errors import UsageError
from milpath.params import TrainParams


@dataclass(frozen=True)
class Split:
    """Positions of a cohort's entries, in three sets that share no case."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def split_cohort(cohort: Cohort, params: TrainParams) -> list[Split]:
    """The split the CSV gives, or one drawn, or `params.folds` of them; stratified by label.

    Raises
    ------
    UsageError : too few cases of a class
    """
    given = [entry.split for entry in cohort.entries]
    if given[0] is not None:
        return [_given_split(cohort, given)]
    everyone = np.arange(len(cohort.entries))
    if params.folds == 1:
        raise UsageError(
            "--folds 1 leaves nothing to train on; give 0 for one split, or 2 and more"
        )
    _refuse_few_cases(cohort)
    count = params.folds or max(2, round(1 / params.test_fraction))
    tests = _stratified(cohort, everyone, count, params.seed)
    if len(tests) < params.folds:
        raise UsageError(
            f"{cohort.name}: --folds {params.folds} needs as many cases of one class, "
            f"its largest has {len(tests)}"
        )
    splits = []
    for test in tests[: params.folds or 1]:
        rest = np.setdiff1d(everyone, test)
        inner = max(2, round(1 / params.val_fraction))
        val = _stratified(cohort, rest, inner, params.seed)[0]
        train = np.setdiff1d(rest, val)
        splits.append(Split(*(tuple(int(i) for i in part) for part in (train, val, test))))
    for split in splits:
        _refuse_leak(cohort, split)
        _refuse_missing_class(cohort, split)
        if not split.val or not split.test:
            raise UsageError(
                f"{cohort.name}: too few cases for three sets; give more, or a split column"
            )
    return splits


def _given_split(cohort: Cohort, given: Sequence[str | None]) -> Split:
    parts = {name: tuple(i for i, part in enumerate(given) if part == name) for name in SPLITS}
    for name, rows in parts.items():
        if not rows:
            raise UsageError(f"{cohort.name}: no slide has split {name}; all three are needed")
    split = Split(**parts)
    _refuse_missing_class(cohort, split)
    return split


def _refuse_few_cases(cohort: Cohort) -> None:
    for name, cases in _cases_of_class(cohort, range(len(cohort.entries))).items():
        if len(cases) < 3:
            raise UsageError(
                f"{cohort.name}: class {name!r} has {len(cases)} case(s), needs at least 3: "
                "one each to train, to stop and to test on"
            )


def _cases_of_class(cohort: Cohort, rows: Iterable[int]) -> dict[str | None, set[str]]:
    cases = cohort.cases()
    found: dict[str | None, set[str]] = defaultdict(set)
    for row in rows:
        found[cohort.entries[row].label].add(cases[row])
    return found


def _refuse_leak(cohort: Cohort, split: Split) -> None:
    """The promise of this module, checked once more on its result."""
    cases = cohort.cases()
    sides = [{cases[i] for i in part} for part in (split.train, split.val, split.test)]
    if sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2]:
        raise AssertionError("a case stands on two sides of a split")


def _refuse_missing_class(cohort: Cohort, split: Split) -> None:
    trained = {cohort.entries[i].label for i in split.train}
    missing = [name for name in cohort.class_names if name not in trained]
    if missing:
        raise UsageError(
            f"{cohort.name}: the training split holds no slide of class {missing[0]!r}; "
            "give more cases, another --seed, or a split column"
        )


def _stratified(
    cohort: Cohort, rows: NDArray[np.int64], count: int, seed: int
) -> list[NDArray[np.int64]]:
    """`rows` dealt into `count` parts, cases whole and labels in proportion.

    No more parts than the largest class has cases.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels = [cohort.entries[i].label for i in rows]
    cases = cohort.cases()
    groups = [cases[i] for i in rows]
    count = min(count, max(len(found) for found in _cases_of_class(cohort, rows).values()))
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # fewer cases of a class than parts is allowed: some parts then lack that class
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return [rows[test] for _, test in folds.split(rows, labels, groups)]
