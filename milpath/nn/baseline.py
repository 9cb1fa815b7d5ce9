"""The baseline of every model trained on features: a slide is the mean of its patches.

Logistic regression on each slide's mean features, fitted to the cases that a fold's models learned
from and applied to those it held out. Importing this module imports no Keras.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.metrics import log_loss

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BASELINE = "logistic regression on the mean features of each slide, fitted to the same cases"
"""What it is, in words."""

STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
"""Penalties ``λ / 2 · ‖w‖²`` added to the summed log loss, of which one is chosen."""

_DEFAULT_STRENGTH = 100.0  # where a class has one case, so that none can be held out to choose
_INNER_FOLDS = 5
_MAX_STEPS = 1000


class Baseline:
    """L2-regularised logistic regression on standardised mean features.

    The penalty is that of `STRENGTHS` with the lowest log loss in a cross-validation by cases
    among the slides given; λ = 100 where a class has a single case.

    Parameters
    ----------
    means : (n, D) mean features of the training slides
    labels : (n,) class indices
    cases : n names; slides of one case are never on both sides of a fold
    classes : C
    balanced : weigh classes inversely to their frequency
    """

    def __init__(
        self, means: Floats, labels: Ints, cases: Sequence[str], classes: int, *, balanced: bool
    ) -> None:
        self._classes = classes
        self._balanced = balanced
        self.strength = self._choose_strength(means, labels, np.asarray(cases))
        """λ"""
        self._fitted = self._fit(means, labels, self.strength)

    def predict(self, means: Floats) -> Floats:
        """Compute class probabilities (n, C) of slides by their mean features (n, D)."""
        return self._predict(self._fitted, means)

    def _choose_strength(self, means: Floats, labels: Ints, cases: NDArray[np.str_]) -> float:
        folds = list(_split_cases(labels, cases))
        if not folds:
            return _DEFAULT_STRENGTH
        losses = []
        for strength in STRENGTHS:
            probs = np.zeros((len(labels), self._classes))
            for learn, unseen in folds:
                fitted = self._fit(means[learn], labels[learn], strength)
                probs[unseen] = self._predict(fitted, means[unseen])
            losses.append(log_loss(labels, probs))
        best = int(np.argmin(losses[::-1]))  # the strongest of equal ones
        return STRENGTHS[::-1][best]

    def _fit(self, means: Floats, labels: Ints, strength: float) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        weight = "balanced" if self._balanced else None
        regression = LogisticRegression(
            C=1 / strength, class_weight=weight, max_iter=_MAX_STEPS, tol=1e-6
        )
        return make_pipeline(StandardScaler(), regression).fit(means, labels)

    def _predict(self, fitted: Any, means: Floats) -> Floats:
        probs = np.zeros((len(means), self._classes))
        probs[:, fitted.classes_] = fitted.predict_proba(means)
        return probs


def pool_mean(batches: Iterable[NDArray[Any]]) -> Floats:
    """Compute the mean (D,) of a bag's features that come in batches (n, D), at least one row."""
    total, count = 0.0, 0
    for batch in batches:
        total = total + batch.sum(axis=0, dtype=np.float64)
        count += len(batch)
    mean: Floats = np.asarray(total / count, np.float64)
    return mean


def _split_cases(labels: Ints, cases: NDArray[np.str_]) -> Iterator[tuple[Ints, Ints]]:
    """Yield training and test rows of each inner fold; nothing where a class has one case."""
    from sklearn.model_selection import StratifiedGroupKFold

    present = np.unique(labels)
    fewest = min(len(np.unique(cases[labels == label])) for label in present)
    if fewest < 2:
        return
    splitter = StratifiedGroupKFold(min(_INNER_FOLDS, fewest), shuffle=True, random_state=0)
    for learn, unseen in splitter.split(labels, labels, cases):
        if len(unseen) and len(np.unique(labels[learn])) == len(present):
            yield learn, unseen
