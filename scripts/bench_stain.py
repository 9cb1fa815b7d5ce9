"""Does stain normalisation help, on slides of the scanner trained on and on those of another?

The colon task of `bench_colon.py`, in which every image stands for a slide: a normaliser is fitted
to it alone. The small CNN and its head are trained on images as they are or normalised, with the
stain augmentation of `milpath train` and without, and tested on the images of the other folds: as
they are, and as another scanner and laboratory would show them (other stain colours, more
haematoxylin and less eosin, another response of each channel). Images that cannot be normalised are
left out of all. Prints one JSON line per figure, with 95 % bootstrap intervals over images.

python scripts/bench_stain.py --data FOLDER [--repeats 3]

FOLDER is that of `bench_colon.py`.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from bench_colon import NEGATIVE, RECIPE, ColonImage, cut_nuclei, load_images
from numpy.typing import NDArray
from repeated_cv import print_line, split_folds, summarize

from milpath.errors import UnsupportedSlideError
from milpath.nn.augment import augment_tissue
from milpath.nn.bags import ArrayBag
from milpath.nn.fit import Task, seed_of, train_member
from milpath.nn.scoring import score_bags
from milpath.params import TrainParams
from milpath.patches.stain import fit_normaliser

Pixels = NDArray[np.uint8]
Arm = Literal["none", "macenko", "reinhard"]
ARMS: tuple[Arm, ...] = ("none", "macenko", "reinhard")

_FROM = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_TO = np.array([[0.55, 0.76, 0.34], [0.18, 0.92, 0.35], [0.27, 0.57, 0.78]])
_STRENGTH = np.array([1.3, 0.7, 1.0])
_GAMMA = np.array([1.0, 1.1, 0.95])
_STEP = 7  # pixels that a normaliser is fitted to are this far apart


def shift_scanner(rgb: Pixels) -> Pixels:
    """Show an image (..., 3) as another scanner would; white stays white."""
    one, two = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (_FROM, _TO))
    density = -np.log((rgb.astype(np.float64) + 1) / 256)
    shown = density @ np.linalg.inv(one) @ np.diag(_STRENGTH) @ two * _GAMMA
    result: Pixels = np.clip(256 * np.exp(-shown) - 1, 0, 255).round().astype(np.uint8)
    return result


def normalise(rgb: Pixels, arm: Arm) -> Pixels:
    """Normalise an image by a fit to itself; raises `UnsupportedSlideError`."""
    if arm == "none":
        return rgb
    return fit_normaliser(arm, rgb.reshape(-1, 3)[::_STEP]).apply(rgb)


def keep_possible(images: Sequence[ColonImage]) -> list[ColonImage]:
    """Leave out images that some method cannot normalise, as they are or shifted."""

    def is_possible(image: ColonImage) -> bool:
        try:
            for rgb in (image.rgb, shift_scanner(image.rgb)):
                for arm in ARMS:
                    normalise(rgb, arm)
        except UnsupportedSlideError:
            return False
        return True

    return [image for image in images if is_possible(image)]


def prepare_bags(images: Sequence[ColonImage], arm: Arm, *, shifted: bool) -> list[ArrayBag]:
    """Normalise images and cut their patches out of them."""
    bags = []
    for image in images:
        rgb = normalise(shift_scanner(image.rgb) if shifted else image.rgb, arm)
        bags.append(ArrayBag(cut_nuclei(rgb, image.nuclei)[0], image.label))
    return bags


def cross_validate_shift(
    bags: Mapping[bool, Sequence[ArrayBag]], folds: int, seed: int, recipe: TrainParams
) -> dict[bool, NDArray[np.float64]]:
    """Train on bags that are not shifted (`bags[False]`), and test on both kinds; (n, 2) each."""
    known = bags[False]
    labels = np.array([bag.label for bag in known])
    probs = {shifted: np.zeros((len(known), 2)) for shifted in bags}
    augment = partial(augment_tissue, stain_jitter=recipe.stain_jitter)
    task = Task(known[0].instances.shape[1:], 2, NEGATIVE, augment)
    for fold, (train, test) in enumerate(split_folds(labels, folds, seed)):
        learn = [known[row] for row in train]
        member = train_member(learn, [], task, recipe, seed_of(seed, fold))[0]
        for shifted, others in bags.items():
            scores = score_bags([member], [others[row].instances for row in test])
            probs[shifted][test] = np.stack([each.probs for each in scores])
    return probs


def main() -> None:
    """Print one JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--images", type=int, help="use only the first N images, for a trial run")
    options = parser.parse_args()
    found = load_images(options.data, "nuclei", options.images)
    images = keep_possible(found)
    labels = np.array([image.label for image in images])
    for jitter in (RECIPE.stain_jitter, 0.0):
        changes = {"epochs": options.epochs, "members": 1, "stain_jitter": jitter}
        recipe = RECIPE.model_copy(update=changes)
        for arm in ARMS:
            start = time.perf_counter()
            bags = {each: prepare_bags(images, arm, shifted=each) for each in (False, True)}
            runs = [
                cross_validate_shift(bags, options.folds, repeat, recipe)
                for repeat in range(options.repeats)
            ]
            for shifted in bags:
                summary = summarize(labels, [probs[shifted] for probs in runs])
                print_line(
                    {
                        "normalise": arm,
                        "stain_jitter": jitter,
                        "shifted": shifted,
                        "images": len(images),
                        "left_out": len(found) - len(images),
                        "repeats": options.repeats,
                        "auc": summary["auc"],
                        "accuracy": summary["accuracy"],
                        "seconds": time.perf_counter() - start,
                    }
                )


if __name__ == "__main__":
    main()
