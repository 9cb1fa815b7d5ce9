"""Splits of a cohort that keep all slides of a case on one side."""

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
    """Positions of a cohort's entries, in three sets that share no case."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def split_cohort(cohort: Cohort, params: TrainParams) -> list[Split]:
    """The split the CSV gives, or one drawn, or `params.folds` of them.

    Cases are dealt class by class, so that every set has its share of each; a case whose slides
    differ in label counts as one of its most frequent label.

    Raises
    ------
    UsageError : too few cases of a class, or a given split and folds at once
    """
    given = [entry.split for entry in cohort.entries]
    if given[0] is not None:
        if params.folds:
            raise UsageError(
                f"{cohort.name}: its column split says what is held out, and --folds says "
                "something else; leave one of them out"
            )
        return [_given_split(cohort, given)]
    if params.folds == 1:
        raise UsageError(
            "--folds 1 leaves nothing to train on; give 0 for one split, or 2 and more"
        )
    _refuse_few_cases(cohort, params.folds)
    rng = np.random.default_rng(params.seed)
    everyone = set(cohort.cases())
    if params.folds:
        tests = _deal(cohort, params.folds, rng)
    else:
        tests = [_hold_out(cohort, everyone, params.test_fraction, rng)]
    splits = []
    for test in tests:
        val = _hold_out(cohort, everyone - test, params.val_fraction, rng)
        split = Split(*(_rows(cohort, part) for part in (everyone - test - val, val, test)))
        _refuse_leak(cohort, split)
        _refuse_missing_class(cohort, split)
        if not split.val:
            raise UsageError(
                f"{cohort.name}: too few cases for three sets; give more, or a split column"
            )
        splits.append(split)
    return splits


def _given_split(cohort: Cohort, given: Sequence[str | None]) -> Split:
    parts = {name: tuple(i for i, part in enumerate(given) if part == name) for name in SPLITS}
    for name, rows in parts.items():
        if not rows:
            raise UsageError(f"{cohort.name}: no slide has split {name}; all three are needed")
    split = Split(**parts)
    _refuse_missing_class(cohort, split)
    return split


def _deal(cohort: Cohort, folds: int, rng: np.random.Generator) -> list[set[str]]:
    """All cases in `folds` sets, each class dealt round, the next going on where one ended."""
    dealt: list[set[str]] = [set() for _ in range(folds)]
    place = 0
    for cases in _cases_by_class(cohort).values():
        for case in rng.permutation(cases):
            dealt[place % folds].add(str(case))
            place += 1
    return dealt


def _hold_out(
    cohort: Cohort, among: set[str], fraction: float, rng: np.random.Generator
) -> set[str]:
    """A share of the cases of each class: one at the least, but never its last."""
    held: set[str] = set()
    for cases in _cases_by_class(cohort).values():
        order = rng.permutation([case for case in cases if case in among])
        count = min(max(1, round(fraction * len(order))), max(0, len(order) - 1))
        held.update(str(case) for case in order[:count])
    return held


def _cases_by_class(cohort: Cohort) -> dict[str, list[str]]:
    """The cases of each class, sorted; a case is of its most frequent label."""
    labels: dict[str, list[str]] = defaultdict(list)
    for case, entry in zip(cohort.cases(), cohort.entries, strict=True):
        labels[case].append(entry.label or "")
    found: dict[str, list[str]] = {name: [] for name in cohort.class_names}
    for case in sorted(labels):
        found[max(cohort.class_names, key=labels[case].count)].append(case)
    return found


def _rows(cohort: Cohort, cases: set[str]) -> tuple[int, ...]:
    return tuple(row for row, case in enumerate(cohort.cases()) if case in cases)


def _refuse_few_cases(cohort: Cohort, folds: int) -> None:
    for name in cohort.class_names:
        pairs = zip(cohort.cases(), cohort.entries, strict=True)
        cases = {case for case, entry in pairs if entry.label == name}
        if len(cases) < 3:
            raise UsageError(
                f"{cohort.name}: class {name!r} has {len(cases)} case(s), needs at least 3: "
                "one each to train, to stop and to test on"
            )
    count = len(set(cohort.cases()))
    if count < folds:
        raise UsageError(f"{cohort.name}: --folds {folds} needs as many cases, there are {count}")


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
