"""Metrics of a classifier on held-out slides, with intervals, and how they vary over folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milpath.intervals import (
    MIN_CASES,
    MIN_CASES_PER_CLASS,
    Interval,
    auc_interval,
    mean_interval,
    wilson_interval,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 1000


@dataclass(frozen=True)
class Figure:
    """A metric with its 95 % interval.

    Attributes
    ----------
    value : None where the metric is not defined (a class is missing)
    low, high : None where there is no interval
    note : why there is no interval, else None
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class FoldFigure:
    """A metric over the folds of a cross-validation.

    Attributes
    ----------
    folds : its value in each fold; None where it is not defined there
    mean, sd : over the folds where it is defined; the sample standard deviation, None below two
    """

    folds: tuple[float | None, ...]
    mean: float | None
    sd: float | None


def auc(labels: Ints, probs: Floats) -> float | None:
    """Area under the ROC curve; with more than two classes the mean of one-against-rest.

    Parameters
    ----------
    labels : (n,) class indices
    probs : (n, C)

    Returns
    -------
    None when a class that is needed has no case.
    """
    classes = [1] if probs.shape[1] == 2 else range(probs.shape[1])
    values = []
    for index in classes:
        truth = labels == index
        if truth.all() or not truth.any():
            return None
        values.append(_area(truth, probs[:, index]))
    return float(np.mean(values))


def _area(truth: NDArray[np.bool_], scores: Floats) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores))


def accuracy(labels: Ints, probs: Floats) -> float:
    """Share of slides whose most probable class is the label."""
    return float((probs.argmax(axis=1) == labels).mean())


def balanced_accuracy(labels: Ints, probs: Floats) -> float:
    """Mean over the classes present of the share that is found."""
    hits = probs.argmax(axis=1) == labels
    return float(np.mean([hits[labels == index].mean() for index in np.unique(labels)]))


def log_loss(labels: Ints, probs: Floats) -> float:
    """Mean cross-entropy in nats."""
    chosen = probs[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def instance_auc(truths: Sequence[NDArray[np.bool_]], scores: Sequence[Floats]) -> float | None:
    """How well scores find the instances that matter, within each bag.

    Parameters
    ----------
    truths : of each bag, (N,) True where an instance matters
    scores : of each bag, (N,)

    Returns
    -------
    Mean AUC of the bags that hold instances of both kinds; None when there is no such bag.
    """
    found = [
        auc(truth.astype(np.int64), np.stack([-score, score], axis=1))
        for truth, score in zip(truths, scores, strict=True)
    ]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None


METRICS: dict[str, Callable[[Ints, Floats], float | None]] = {
    "auc": auc,
    "balanced_accuracy": balanced_accuracy,
    "accuracy": accuracy,
    "loss": log_loss,
}


INTERVALS = {
    "auc": "score interval of Newcombe 2006 (method 5) from the numbers of cases",
    "balanced_accuracy": "Wilson intervals of the classes' shares, combined (Zou & Donner 2008)",
    "accuracy": "Wilson score interval from the number of cases",
    "loss": f"percentile bootstrap over cases, {RESAMPLES} resamples",
}
"""How the 95 % interval of each metric is made."""


def evaluate(labels: Ints, probs: Floats, cases: Sequence[str], seed: int = 0) -> dict[str, Figure]:
    """Every metric with its 95 % interval; see `INTERVALS`.

    Slides of one case are not independent, so an interval counts cases. Fewer than `MIN_CASES`, or
    than `MIN_CASES_PER_CLASS` of a class where classes matter, have no interval.

    Parameters
    ----------
    labels : (n,) class indices
    probs : (n, C), rows summing to 1
    cases : n names
    seed : of the bootstrap
    """
    names = np.asarray(cases)
    counts = [len(np.unique(names[labels == index])) for index in range(probs.shape[1])]
    found = {}
    for name, metric in METRICS.items():
        value = metric(labels, probs)
        note = _why_no_interval(name, len(np.unique(names)), counts)
        if value is None or note is not None:
            found[name] = Figure(value, note=None if value is None else note)
        else:
            found[name] = Figure(value, *_interval(name, labels, probs, names, seed))
    return found


def evaluate_folds(labels: Ints, probs: Floats, folds: NDArray[np.int64]) -> dict[str, FoldFigure]:
    """Every metric in each fold, and its mean and standard deviation over the folds.

    The folds' models are calibrated apart, so that probabilities of different folds cannot be
    ranked against each other; metrics of one fold can.

    Parameters
    ----------
    labels : (n,) class indices
    probs : (n, C)
    folds : (n,) the fold in which each slide was held out
    """
    found = {}
    for name, metric in METRICS.items():
        rows = [folds == fold for fold in np.unique(folds)]
        values = tuple(metric(labels[some], probs[some]) for some in rows)
        known = [value for value in values if value is not None]
        mean = float(np.mean(known)) if known else None
        sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
        found[name] = FoldFigure(values, mean, sd)
    return found


def _why_no_interval(name: str, cases: int, of_class: Sequence[int]) -> str | None:
    if name in ("auc", "balanced_accuracy") and min(of_class) < MIN_CASES_PER_CLASS:
        return (
            f"too few cases for an interval: {min(of_class)} of a class, "
            f"at least {MIN_CASES_PER_CLASS} are needed"
        )
    if cases < MIN_CASES:
        return f"too few cases for an interval: {cases}, at least {MIN_CASES} are needed"
    return None


def _interval(
    name: str, labels: Ints, probs: Floats, cases: NDArray[np.str_], seed: int
) -> Interval:
    if name == "loss":
        return _bootstrap_loss(labels, probs, cases, seed)
    if name == "accuracy":
        return wilson_interval(accuracy(labels, probs), len(np.unique(cases)))
    if name == "balanced_accuracy":
        hits = probs.argmax(axis=1) == labels
        shares = [float(hits[labels == index].mean()) for index in range(probs.shape[1])]
        counts = [len(np.unique(cases[labels == index])) for index in range(probs.shape[1])]
        each = [wilson_interval(*pair) for pair in zip(shares, counts, strict=True)]
        return mean_interval(shares, each, independent=True)
    areas, each = [], []
    for index in [1] if probs.shape[1] == 2 else range(probs.shape[1]):
        truth = labels == index
        areas.append(_area(truth, probs[:, index]))
        sizes = len(np.unique(cases[truth])), len(np.unique(cases[~truth]))
        each.append(auc_interval(areas[-1], *sizes))
    return mean_interval(areas, each, independent=False)


def _bootstrap_loss(labels: Ints, probs: Floats, cases: NDArray[np.str_], seed: int) -> Interval:
    """Percentile interval over resampled cases, each with all its slides."""
    losses = -np.log(np.maximum(probs[np.arange(len(labels)), labels], 1e-12))
    _, member = np.unique(cases, return_inverse=True)
    total, size = np.bincount(member, losses), np.bincount(member)
    picked = np.random.default_rng(seed).integers(len(size), size=(RESAMPLES, len(size)))
    means = total[picked].sum(axis=1) / size[picked].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
