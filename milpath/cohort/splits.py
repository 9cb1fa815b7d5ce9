"""Splits of a cohort that keep all slides of a case in one set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milpath.cohort.cohort import SPLITS, Cohort
from milpath.errors import UsageError
from milpath.params import TrainParams


@dataclass(frozen=True)
class Split:
    """Row numbers of a cohort's entries, in three sets that share no case."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def split_cohort(cohort: Cohort, params: TrainParams) -> list[Split]:
    """Return the split given by the CSV, or a random one, or `params.folds` of them.

    Random splits are stratified: cases are assigned class by class. A case whose slides differ in
    label has its most frequent label.

    Raises
    ------
    UsageError : too few cases of a class, or both a given split and folds
    """
    given = [entry.split for entry in cohort.entries]
    if given[0] is not None:
        if params.folds:
            raise UsageError(
                f"{cohort.name}: its column 'split' and --folds exclude each other; remove one of "
                "them"
            )
        return [_given_split(cohort, given)]
    if params.folds == 1:
        raise UsageError(
            "--folds 1 leaves nothing to train on; give 0 for a single split, or 2 or more"
        )
    _check_case_counts(cohort, params.folds)
    rng = np.random.default_rng(params.seed)
    all_cases = set(cohort.cases())
    if params.folds:
        tests = _assign_folds(cohort, params.folds, rng)
    else:
        tests = [_hold_out(cohort, all_cases, params.test_fraction, rng)]
    splits = []
    for test in tests:
        val = _hold_out(cohort, all_cases - test, params.val_fraction, rng)
        split = Split(*(_rows(cohort, part) for part in (all_cases - test - val, val, test)))
        _check_leakage(cohort, split)
        _check_training_classes(cohort, split)
        if not split.val:
            raise UsageError(
                f"{cohort.name}: too few cases for three sets; add cases, or a column 'split'"
            )
        splits.append(split)
    return splits


def _given_split(cohort: Cohort, given: Sequence[str | None]) -> Split:
    parts = {name: tuple(i for i, part in enumerate(given) if part == name) for name in SPLITS}
    for name, rows in parts.items():
        if not rows:
            raise UsageError(
                f"{cohort.name}: no slide has split {name!r}; train, val and test are all needed"
            )
    split = Split(**parts)
    _check_training_classes(cohort, split)
    return split


def _assign_folds(cohort: Cohort, folds: int, rng: np.random.Generator) -> list[set[str]]:
    """Distribute all cases over `folds` sets, class by class, in a round-robin over the sets."""
    sets: list[set[str]] = [set() for _ in range(folds)]
    place = 0
    for cases in _cases_by_class(cohort).values():
        for case in rng.permutation(cases):
            sets[place % folds].add(str(case))
            place += 1
    return sets


def _hold_out(
    cohort: Cohort, among: set[str], fraction: float, rng: np.random.Generator
) -> set[str]:
    """Draw a fraction of the cases of each class: at least one, but never all."""
    held: set[str] = set()
    for cases in _cases_by_class(cohort).values():
        order = rng.permutation([case for case in cases if case in among])
        count = min(max(1, round(fraction * len(order))), max(0, len(order) - 1))
        held.update(str(case) for case in order[:count])
    return held


def _cases_by_class(cohort: Cohort) -> dict[str, list[str]]:
    """Return the cases of each class, sorted; a case has its most frequent label."""
    labels: dict[str, list[str]] = defaultdict(list)
    for case, entry in zip(cohort.cases(), cohort.entries, strict=True):
        labels[case].append(entry.label or "")
    found: dict[str, list[str]] = {name: [] for name in cohort.class_names}
    for case in sorted(labels):
        found[max(cohort.class_names, key=labels[case].count)].append(case)
    return found


def _rows(cohort: Cohort, cases: set[str]) -> tuple[int, ...]:
    return tuple(row for row, case in enumerate(cohort.cases()) if case in cases)


def _check_case_counts(cohort: Cohort, folds: int) -> None:
    for name in cohort.class_names:
        pairs = zip(cohort.cases(), cohort.entries, strict=True)
        cases = {case for case, entry in pairs if entry.label == name}
        if len(cases) < 3:
            found = "1 case" if len(cases) == 1 else f"{len(cases)} cases"
            raise UsageError(
                f"{cohort.name}: class {name!r} has {found}; needs at least 3: one each for "
                "training, early stopping and testing"
            )
    count = len(set(cohort.cases()))
    if count < folds:
        raise UsageError(
            f"{cohort.name}: --folds {folds} needs at least {folds} cases, there are {count}"
        )


def _check_leakage(cohort: Cohort, split: Split) -> None:
    """Raise where a case is in two sets, which would be a bug of this module."""
    cases = cohort.cases()
    sets = [{cases[i] for i in part} for part in (split.train, split.val, split.test)]
    if sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2]:
        raise AssertionError("a case is in two sets of a split")


def _check_training_classes(cohort: Cohort, split: Split) -> None:
    trained = {cohort.entries[i].label for i in split.train}
    missing = [name for name in cohort.class_names if name not in trained]
    if missing:
        raise UsageError(
            f"{cohort.name}: the training set has no slide of class {missing[0]!r}; add cases, "
            "change --seed, or add a column 'split'"
        )
