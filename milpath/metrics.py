"""Honest figures for a classifier: point values, and bootstrap intervals over cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 1000


@dataclass(frozen=True)
class Figure:
    """A metric with its 95 % interval; None where it is not defined (a class is missing)."""

    value: float | None
    low: float | None
    high: float | None


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
    from sklearn.metrics import roc_auc_score

    classes = [1] if probs.shape[1] == 2 else range(probs.shape[1])
    values = []
    for index in classes:
        truth = labels == index
        if truth.all() or not truth.any():
            return None
        values.append(float(roc_auc_score(truth, probs[:, index])))
    return float(np.mean(values))


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


def precision(labels: Ints, probs: Floats) -> float:
    """Share of those called class 1 that are; 0 when none is called so."""
    called = probs.argmax(axis=1) == 1
    return float((labels[called] == 1).mean()) if called.any() else 0.0


def recall(labels: Ints, probs: Floats) -> float | None:
    """Share of class 1 that is called so; None when there is none."""
    called = probs.argmax(axis=1) == 1
    return float(called[labels == 1].mean()) if (labels == 1).any() else None


def f1(labels: Ints, probs: Floats) -> float | None:
    """Harmonic mean of precision and recall."""
    one, two = precision(labels, probs), recall(labels, probs)
    if two is None:
        return None
    return 2 * one * two / (one + two) if one + two else 0.0


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


def evaluate(labels: Ints, probs: Floats, cases: Sequence[str], seed: int = 0) -> dict[str, Figure]:
    """Every metric with its 95 % percentile interval over resampled cases.

    Slides of one case are not independent, so cases are drawn, with all their slides (Efron &
    Tibshirani 1993, ch. 13).

    Parameters
    ----------
    labels : (n,) class indices
    probs : (n, C), rows summing to 1
    cases : n names
    seed : of the resampling
    """
    names, member = np.unique(np.asarray(cases), return_inverse=True)
    rows_of = [np.flatnonzero(member == index) for index in range(len(names))]
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in METRICS}
    for _ in range(RESAMPLES):
        picked = rng.integers(len(names), size=len(names))
        rows = np.concatenate([rows_of[index] for index in picked])
        for name, metric in METRICS.items():
            value = metric(labels[rows], probs[rows])
            if value is not None:
                drawn[name].append(value)
    return {name: _figure(METRICS[name](labels, probs), drawn[name]) for name in METRICS}


def _figure(value: float | None, drawn: Sequence[float]) -> Figure:
    if value is None or not drawn:
        return Figure(value, None, None)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Figure(value, float(low), float(high))
