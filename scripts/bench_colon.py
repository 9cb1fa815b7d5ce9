"""Colon tissue: which of 75 images contain epithelium, and where?

The task of Ilse, Tomczak & Welling 2018 on the images of Sirinukunwattana et al. 2016: an image is
a bag of patches of 27 x 27 px, positive if any of its nuclei is epithelial. Repeated 10-fold
cross-validation, every image scored once per repeat by a model that was not trained on it; the
number of epochs is fixed. Two cautions: the parameters were chosen by repeats of the same
cross-validation, as there are no other images; and it is not published which images are of one
patient, so a patient may be on both sides of a fold, here as in the paper. The baseline, on the
same folds, is a logistic regression on 15 colour statistics of the whole image. Prints one JSON
line per repeat, then the means with 95 % bootstrap intervals over images.

python scripts/bench_colon.py --data FOLDER [--kind nuclei] [--repeats 5]

FOLDER holds images/*.png, labels.csv (image, label) and nuclei.csv (image, x, y, type).
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from repeated_cv import cross_validate, measure, print_line, split_folds, summarize
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from milpath.formats.scores import BagScores
from milpath.metrics import instance_auc
from milpath.nn.augment import augment_tissue
from milpath.nn.bags import ArrayBag
from milpath.params import TrainParams

SIDE = 27
NEGATIVE = 0  # an image without epithelium has no epithelial nucleus
RECIPE = TrainParams(encoder="centred", members=2, epochs=24, patches_per_bag=32, bag_batch=4)


Nuclei = Sequence[tuple[float, float, bool]]
"""Of each: x, y, and whether it is epithelial."""


@dataclass(frozen=True, eq=False)
class ColonImage:
    """An image as a bag."""

    rgb: NDArray[np.uint8]
    label: int
    patches: NDArray[np.uint8]
    """(N, 27, 27, 3)"""
    epithelial: NDArray[np.bool_]
    """(N,) whether a patch shows an epithelial nucleus; for evaluation only."""
    nuclei: Nuclei


def load_images(folder: Path, kind: str, most: int | None = None) -> list[ColonImage]:
    """Load images as bags of patches centred on nuclei or on a regular grid."""
    nuclei = defaultdict(list)
    with (folder / "nuclei.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            place = (float(row["x"]), float(row["y"]), row["type"] == "epithelial")
            nuclei[row["image"]].append(place)
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:most]
    images = []
    for row in rows:
        path = folder / "images" / f"{Path(row['image']).stem}.png"
        rgb = np.asarray(Image.open(path).convert("RGB"))
        cut = cut_nuclei if kind == "nuclei" else cut_grid
        marked = nuclei[row["image"]]
        images.append(ColonImage(rgb, int(row["label"]), *cut(rgb, marked), marked))
    return images


Cut = tuple[NDArray[np.uint8], NDArray[np.bool_]]


def cut_nuclei(rgb: NDArray[np.uint8], nuclei: Nuclei) -> Cut:
    """Cut a patch centred on each nucleus, the image mirrored at its border."""
    padded = np.pad(rgb, [(SIDE // 2, SIDE // 2)] * 2 + [(0, 0)], mode="reflect")
    rows, cols = rgb.shape[:2]
    patches = []
    for x, y, _ in nuclei:
        row, col = min(max(round(y), 0), rows - 1), min(max(round(x), 0), cols - 1)
        patches.append(padded[row : row + SIDE, col : col + SIDE])
    return np.stack(patches), np.array([epithelial for *_, epithelial in nuclei])


def cut_grid(rgb: NDArray[np.uint8], nuclei: Nuclei) -> Cut:
    """Cut a regular grid; a patch is epithelial if such a nucleus has its centre in it."""
    rows, cols = (side // SIDE for side in rgb.shape[:2])
    grid = rgb[: rows * SIDE, : cols * SIDE].reshape(rows, SIDE, cols, SIDE, 3)
    truth = np.zeros((rows, cols), np.bool_)
    for x, y, epithelial in nuclei:
        row, col = int(y) // SIDE, int(x) // SIDE
        if epithelial and 0 <= row < rows and 0 <= col < cols:
            truth[row, col] = True
    return grid.swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3), truth.ravel()


def colour_statistics(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Compute 15 numbers: mean, deviation and three percentiles of each channel."""
    pixels = rgb.reshape(-1, 3).astype(np.float64)
    return np.concatenate(
        [pixels.mean(0), pixels.std(0), *np.percentile(pixels, [10, 50, 90], axis=0)]
    )


def classify_colours(images: Sequence[ColonImage], folds: int, seed: int) -> NDArray[np.float64]:
    """Compute class probabilities (n, 2) of the baseline, on the folds of the model."""
    labels = np.array([image.label for image in images])
    colours = np.stack([colour_statistics(image.rgb) for image in images])
    probs = np.zeros((len(images), 2))
    for train, test in split_folds(labels, folds, seed):
        simple = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        probs[test] = simple.fit(colours[train], labels[train]).predict_proba(colours[test])
    return probs


def evaluate_instances(
    images: Sequence[ColonImage], bag_scores: Sequence[BagScores]
) -> dict[str, float | None]:
    """Compute how well scores separate the patches within positive images."""
    some = [i for i, image in enumerate(images) if image.label == 1]
    truth = [images[i].epithelial for i in some]
    return {
        "attention_auc": instance_auc(truth, [bag_scores[i].attention for i in some]),
        "contribution_auc": instance_auc(truth, [bag_scores[i].evidence(1) for i in some]),
    }


def main() -> None:
    """Print one JSON line per repeat, and the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kind", choices=("nuclei", "grid"), default="nuclei")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--members", type=int, default=RECIPE.members)
    parser.add_argument("--images", type=int, help="use only the first N images, for a trial run")
    options = parser.parse_args()
    images = load_images(options.data, options.kind, options.images)
    labels = np.array([image.label for image in images])
    bags = [ArrayBag(image.patches, image.label) for image in images]
    recipe = RECIPE.model_copy(update={"epochs": options.epochs, "members": options.members})
    augment = partial(augment_tissue, stain_jitter=recipe.stain_jitter)
    probs, baseline, found = [], [], []
    for repeat in range(options.repeats):
        start = time.perf_counter()
        bag_scores = cross_validate(bags, options.folds, repeat, recipe, NEGATIVE, augment)
        seconds = time.perf_counter() - start
        probs.append(np.stack([scores.probs for scores in bag_scores]))
        baseline.append(classify_colours(images, options.folds, repeat))
        found.append(evaluate_instances(images, bag_scores))
        colours = measure(labels, baseline[-1])
        print_line(
            {
                "kind": options.kind,
                "repeat": repeat,
                **measure(labels, probs[-1]),
                **found[-1],
                "colour_auc": colours["auc"],
                "colour_accuracy": colours["accuracy"],
                "seconds": seconds,
            }
        )
    print_line(
        {
            "kind": options.kind,
            "images": len(images),
            "repeats": options.repeats,
            "milpath": summarize(labels, probs),
            **{name: float(np.mean([one[name] for one in found])) for name in found[0]},
            "colour_statistics": summarize(labels, baseline),
        }
    )


if __name__ == "__main__":
    main()
