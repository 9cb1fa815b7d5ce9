"""MUSK1 and Elephant, the classic sets of bags: repeated 10-fold cross-validation.

As in Ilse, Tomczak & Welling 2018, section 4.1: features are given, only the head is trained. Each
fold standardizes by its own training instances. The parameters were chosen on these bags, as there
are no others, with folds of the seeds 0 to 9, Elephant's also of 100 to 104; give --first-seed 200
for other folds. The figures are slightly optimistic even so. Prints one JSON line per repeat, then
the means with 95 % bootstrap intervals over bags.

python scripts/bench_classic_mil.py FILE.npz [FILE.npz ...] [--repeats 5] [--first-seed 0]

A file contains features (N, D), bag_id (N,), bag_ids (B,) and bag_label (B,) of 0 and 1.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from numpy.typing import NDArray
from repeated_cv import cross_validate, load_bags, measure, print_line, summarize

from milpath.params import HeadParams, TrainParams

RECIPE = TrainParams(
    mode="features",
    head=HeadParams(projection_dim=256, dropout=0.5),
    epochs=300,
    bag_batch=8,
    learning_rate=2e-3,
    weight_decay=1e-2,
)
SPARSE = RECIPE.model_copy(
    update={
        "head": HeadParams(projection_dim=64, dropout=0.5),
        "epochs": 80,
        "instance_loss": 2.0,
    }
)
"""For features many of which are zero, and some very large (Elephant)."""


def blur(bag: NDArray, rng: np.random.Generator) -> NDArray:
    """Add noise of half the standard deviation to every feature, against overfitting few bags."""
    return bag + rng.normal(0, 0.5, bag.shape).astype(np.float32)


def drop_half(bag: NDArray, rng: np.random.Generator) -> NDArray:
    """Set half of the features of an instance to zero, at random, and double the others."""
    return bag * (rng.random(bag.shape) < 0.5) * np.float32(2)


def standardize(
    train: Sequence[NDArray], test: Sequence[NDArray], limit: float
) -> tuple[list[NDArray], list[NDArray]]:
    """Scale each feature to mean 0 and deviation 1 over the training instances, and clip it."""
    known = np.concatenate(train)
    mean, std = known.mean(axis=0), known.std(axis=0)
    std[std == 0] = 1

    def change(bags: Sequence[NDArray]) -> list[NDArray]:
        return [np.clip((bag - mean) / std, -limit, limit).astype(np.float32) for bag in bags]

    return change(train), change(test)


def standardize_roots(
    train: Sequence[NDArray], test: Sequence[NDArray]
) -> tuple[list[NDArray], list[NDArray]]:
    """Standardize signed square roots, whose tails are shorter (Perronnin et al. 2010)."""

    def root(bags: Sequence[NDArray]) -> list[NDArray]:
        return [np.sign(bag) * np.sqrt(np.abs(bag)) for bag in bags]

    return standardize(root(train), root(test), limit=5.0)


def main() -> None:
    """Print one JSON line per repeat, and a summary per file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--epochs", type=int, help="fewer, for a trial run")
    parser.add_argument("--members", type=int, default=RECIPE.members)
    parser.add_argument("--instance-loss", type=float, help="weight of the instance loss")
    options = parser.parse_args()
    for path in options.files:
        bags = load_bags(path)
        labels = np.array([bag.label for bag in bags])
        sparse = np.mean(np.concatenate([bag.instances for bag in bags]) == 0) > 0.2
        recipe = SPARSE if sparse else RECIPE
        change = {"members": options.members, "epochs": options.epochs or recipe.epochs}
        if options.instance_loss is not None:
            change["instance_loss"] = options.instance_loss
        recipe = recipe.model_copy(update=change)
        augment = drop_half if sparse else blur
        prepare = standardize_roots if sparse else partial(standardize, limit=3.0)
        repeats = []
        for seed in range(options.first_seed, options.first_seed + options.repeats):
            start = time.perf_counter()
            bag_scores = cross_validate(bags, options.folds, seed, recipe, None, augment, prepare)
            repeats.append(np.stack([scores.probs for scores in bag_scores]))
            seconds = time.perf_counter() - start
            line = {"set": path.stem, "seed": seed, **measure(labels, repeats[-1])}
            print_line({**line, "seconds": seconds})
        summary = {"set": path.stem, "bags": len(bags), "repeats": options.repeats}
        print_line({**summary, **summarize(labels, repeats)})


if __name__ == "__main__":
    main()
