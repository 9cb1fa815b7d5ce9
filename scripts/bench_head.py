"""The attention head against the mean: 10-fold cross-validation on stored and on drawn features.

Sets: `files` hold features of real images, such as those of the network of
`scripts/export_efficientnet.py`; `mean` is drawn so that the mean of a bag says all (58 bags);
`rare` so that one patch in fifty of a positive bag is positive and the mean says nothing (100
bags). The baseline is that of `milpath train`: logistic regression on mean features. Both learn
from the same bags of each fold; a fifth of them stops the head early, as there. Prints one JSON
line a figure: the mean over the repeats and their standard deviation, of the AUC of all folds
together, of the mean of the folds' AUC, and of the accuracy.

python scripts/bench_head.py [FILE.npz ...] [--sets mean rare] [--repeats 3] [--folds 10]

A file contains features (N, D), bag_id (N,), bag_ids (B,) and bag_label (B,) of 0 and 1.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from numpy.typing import NDArray
from repeated_cv import cross_validate, load_bags, print_line, split_folds

from milpath.metrics import accuracy, auc
from milpath.nn.bags import ArrayBag
from milpath.nn.baseline import Baseline
from milpath.params import TrainParams

RECIPE = TrainParams(mode="features")
Floats = NDArray[np.float64]


def draw_mean_bags(seed: int, count: int = 58, size: int = 16, dim: int = 384) -> list[ArrayBag]:
    """Draw bags that differ in their mean: skewed, correlated features with an effect of the bag.

    Patches are N(b, 1) along `dim` axes of standard deviation 1, 1/√2, 1/√3, ..., rotated at
    random, where b is N(0, 1/4) plus 1.6 of one random direction in positive bags and minus 1.6 in
    negative ones; all times 5, and what is below -0.3 is -0.3, as activations are cut off.
    """
    rng = np.random.default_rng(seed)
    axes = _draw_axes(rng, dim, 1.0)
    labels, direction = np.arange(count) % 2, _draw_direction(rng, dim)
    bags = []
    for label in labels:
        centre = rng.normal(0, 0.5, dim) + (label - 0.5) * 3.2 * direction
        patches = (centre + rng.normal(size=(size, dim))) @ axes * 5
        bags.append(ArrayBag(np.maximum(patches, -0.3).astype(np.float32), int(label)))
    return bags


def draw_rare_bags(seed: int, count: int = 100, dim: int = 96) -> list[ArrayBag]:
    """Draw bags of 100 to 140 patches, of which 2 % are positive in positive bags.

    Patches are N(b, 1) along axes as in `draw_mean_bags`, but of more even deviations (to the power
    0.35); b is N(0, 1/4). A positive patch lies 7 further along one random direction.
    """
    rng = np.random.default_rng(seed)
    axes = _draw_axes(rng, dim, 0.7)
    labels, direction = np.arange(count) % 2, _draw_direction(rng, dim)
    bags = []
    for label in labels:
        size = int(rng.integers(100, 141))
        patches = rng.normal(0, 0.5, dim) + rng.normal(size=(size, dim))
        if label:
            patches[rng.choice(size, round(0.02 * size), replace=False)] += 7 * direction
        bags.append(ArrayBag((patches @ axes * 5).astype(np.float32), int(label)))
    return bags


def _draw_axes(rng: np.random.Generator, dim: int, decay: float) -> Floats:
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    axes: Floats = ((rotation * np.arange(1, dim + 1) ** (-decay / 2)).T).astype(np.float64)
    return axes


def _draw_direction(rng: np.random.Generator, dim: int) -> Floats:
    direction: Floats = rng.normal(size=dim)
    return direction / np.linalg.norm(direction)


DRAWN = {"mean": draw_mean_bags, "rare": draw_rare_bags}


def predict_baseline(bags: Sequence[ArrayBag], folds: int, seed: int) -> Floats:
    """Compute class probabilities (n, 2) of the baseline, on the folds of the head."""
    labels = np.array([bag.label for bag in bags])
    means = np.stack([bag.instances.mean(axis=0, dtype=np.float64) for bag in bags])
    probs = np.zeros((len(bags), 2))
    for train, test in split_folds(labels, folds, seed):
        fitted = Baseline(means[train], labels[train], [str(i) for i in train], 2, balanced=True)
        probs[test] = fitted.predict(means[test])
    return probs


def measure_folds(labels: NDArray[np.int64], probs: Floats, folds: int, seed: int) -> list[float]:
    """Compute the AUC over all folds, the mean of the folds' AUC, and the accuracy."""
    each = [auc(labels[test], probs[test]) for _, test in split_folds(labels, folds, seed)]
    known = [value for value in each if value is not None]
    whole = auc(labels, probs)
    assert whole is not None  # both classes are there
    return [whole, float(np.mean(known)), accuracy(labels, probs)]


def say(name: str, what: str, found: Sequence[Sequence[float]]) -> None:
    """Print means and standard deviations over repeats as one JSON line."""
    values = np.array(found)
    names = ("auc", "auc_of_folds", "accuracy")
    print_line(
        {
            "set": name,
            "what": what,
            "repeats": len(values),
            **{key: float(value) for key, value in zip(names, values.mean(axis=0), strict=True)},
            **{
                f"{key}_sd": float(value)
                for key, value in zip(names, values.std(axis=0), strict=True)
            },
        }
    )


def main() -> None:
    """Measure every set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="*", help="stored features of bags")
    parser.add_argument("--sets", nargs="*", choices=tuple(DRAWN), default=tuple(DRAWN))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--members", type=int, default=RECIPE.members)
    options = parser.parse_args()
    recipe = RECIPE.model_copy(update={"epochs": options.epochs, "members": options.members})
    for source in (*options.files, *options.sets):
        heads, baselines = [], []
        for repeat in range(options.repeats):
            bags = load_bags(source) if isinstance(source, Path) else DRAWN[source](repeat)
            labels = np.array([bag.label for bag in bags])
            scores = cross_validate(
                bags, options.folds, repeat, recipe, None, val_fraction=recipe.val_fraction
            )
            head = np.stack([one.probs for one in scores])
            baseline = predict_baseline(bags, options.folds, repeat)
            heads.append(measure_folds(labels, head, options.folds, repeat))
            baselines.append(measure_folds(labels, baseline, options.folds, repeat))
        name = source.stem if isinstance(source, Path) else source
        say(name, "baseline", baselines)
        say(name, "head", heads)


if __name__ == "__main__":
    main()
