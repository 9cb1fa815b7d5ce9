"""Repeated cross-validation, for the benchmarks on small sets of bags."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, precision_score, recall_score
from sklearn.model_selection import StratifiedKFold, train_test_split

from milpath.formats.scores import BagScores
from milpath.metrics import accuracy, auc
from milpath.nn.bags import ArrayBag
from milpath.nn.data import Augment
from milpath.nn.fit import Task, seed_of, train_member
from milpath.nn.scoring import score_bags
from milpath.params import TrainParams

Floats = NDArray[np.float64]
Prepare = Callable[[Sequence[NDArray], Sequence[NDArray]], tuple[list[NDArray], list[NDArray]]]
"""Prepares training and test instances for the network, fitted to the training ones alone."""

METRICS: dict[str, Callable[..., float | None]] = {
    "auc": auc,
    "accuracy": accuracy,
    "precision": lambda labels, probs: precision_score(
        labels, probs.argmax(axis=1), zero_division=0
    ),
    "recall": lambda labels, probs: recall_score(labels, probs.argmax(axis=1)),
    "f1": lambda labels, probs: f1_score(labels, probs.argmax(axis=1)),
}


def load_bags(path: Path) -> list[ArrayBag]:
    """Load the bags of a file, in its order."""
    with np.load(path, allow_pickle=False) as file:
        features, of, ids, labels = (
            file[name] for name in ("features", "bag_id", "bag_ids", "bag_label")
        )
    return [
        ArrayBag(features[of == name].astype(np.float32), int(label))
        for name, label in zip(ids, labels, strict=True)
    ]


def split_folds(
    labels: NDArray[np.int64], folds: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield training and test rows; every row is in one test set, classes in proportion."""
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    yield from splitter.split(np.zeros(len(labels)), labels)


def cross_validate(
    bags: Sequence[ArrayBag],
    folds: int,
    seed: int,
    recipe: TrainParams,
    negative: int | None,
    augment: Augment | None = None,
    prepare: Prepare = lambda train, test: (list(train), list(test)),
    val_fraction: float = 0.0,
) -> list[BagScores]:
    """Score every bag once, by an ensemble of `recipe.members` that was not trained on it.

    `negative` is the index of the negative class, if there is one. A fraction `val_fraction` of the
    training bags stops it early, as in `milpath train`; with 0 the number of epochs is fixed.
    """
    labels = np.array([bag.label for bag in bags])
    bag_scores: dict[int, BagScores] = {}
    for fold, (train, test) in enumerate(split_folds(labels, folds, seed)):
        learn, unseen = prepare(
            [bags[i].instances for i in train], [bags[i].instances for i in test]
        )
        known = [ArrayBag(one, int(labels[i])) for one, i in zip(learn, train, strict=True)]
        known, val = _hold_out(known, val_fraction, seed)
        task = Task(known[0].instances.shape[1:], 2, negative, augment)
        members = [
            train_member(
                known,
                val,
                task,
                recipe,
                seed_of(seed, fold * recipe.members + number),
            )[0]
            for number in range(recipe.members)
        ]
        bag_scores.update(zip(test.tolist(), score_bags(members, unseen), strict=True))
    return [bag_scores[i] for i in range(len(bags))]


def _hold_out(
    bags: list[ArrayBag], fraction: float, seed: int
) -> tuple[list[ArrayBag], list[ArrayBag]]:
    if not fraction:
        return bags, []
    labels = [bag.label for bag in bags]
    learn, val = train_test_split(bags, test_size=fraction, stratify=labels, random_state=seed)
    return learn, val


def measure(labels: NDArray[np.int64], probs: Floats) -> dict[str, float | None]:
    """Compute every metric of one repeat from the predictions of all folds together."""
    return {name: metric(labels, probs) for name, metric in METRICS.items()}


def summarize(
    labels: NDArray[np.int64], repeats: Sequence[Floats], seed: int = 0
) -> dict[str, dict[str, float]]:
    """Compute the mean of each metric over the repeats, with 95 % intervals over resampled bags."""
    rng = np.random.default_rng(seed)
    resamples = [rng.integers(len(labels), size=len(labels)) for _ in range(1000)]
    resamples = [rows for rows in resamples if 0 < labels[rows].sum() < len(rows)]

    def mean(name: str, rows: NDArray[np.int64]) -> float:
        return float(np.mean([METRICS[name](labels[rows], probs[rows]) for probs in repeats]))

    summary = {}
    for name in METRICS:
        low, high = np.quantile([mean(name, rows) for rows in resamples], [0.025, 0.975])
        middle = mean(name, np.arange(len(labels)))
        summary[name] = {"mean": middle, "low": float(low), "high": float(high)}
    return summary


def print_line(values: dict[str, object]) -> None:
    """Print one JSON line, numbers rounded to four places."""
    print(json.dumps(_rounded(values)), flush=True)


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return round(value, 4) if isinstance(value, float) else value
