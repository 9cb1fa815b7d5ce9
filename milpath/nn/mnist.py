"""The MNIST-bag benchmark of Ilse, Tomczak & Welling 2018, section 4.2: does a bag contain a 9?"""

from __future__ import annotations

import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from milpath.errors import UsageError
from milpath.formats.scores import BagScores
from milpath.metrics import accuracy, auc, instance_auc, log_loss
from milpath.nn.bags import ArrayBag
from milpath.nn.engine import keras
from milpath.nn.fit import Task, seed_of, train_member
from milpath.nn.mil import Member
from milpath.nn.scoring import score_bags
from milpath.params import MnistBagParams, MnistParams

NEGATIVE, POSITIVE = 0, 1
SHAPE = (28, 28, 1)

_NO_NPZ = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)

_NODES = 5  # of the displacement of a warp, along each side

_TRAIN, _VAL, _TEST = range(3)  # draws of bags that share no random number


@dataclass(frozen=True, eq=False)
class Digits:
    """Half of MNIST: images (n, 28, 28, 1) of 0..255, and which digit each is, (n,)."""

    images: NDArray[np.uint8]
    digits: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class MnistBag:
    """An MNIST bag; it is positive if it contains the target."""

    images: NDArray[np.uint8]
    digits: NDArray[np.uint8]
    label: int


@dataclass(frozen=True, eq=False)
class Trial:
    """One model, or ensemble, and its metrics on test bags."""

    train_bags: int
    seed: int
    auc: float
    accuracy: float
    loss: float
    instance_auc: float | None
    """AUC of attention against the target, mean over positive test bags that hold other digits."""
    evidence_auc: float | None
    """The same for the evidence of the positive class."""
    seconds: float
    """Training time of all members."""
    epochs: int
    """Largest number of epochs of a member."""
    members: tuple[Member, ...]
    test: tuple[MnistBag, ...]
    bag_scores: tuple[BagScores, ...]
    """Scores of the test bags."""


def load_mnist(path: Path | None = None) -> tuple[Digits, Digits]:
    """Load the training and the test half of MNIST.

    Parameters
    ----------
    path : an `mnist.npz` in Keras' format; None lets Keras download it

    Raises
    ------
    UsageError : the file is not MNIST, or there is none and no network
    """
    if path is None:
        try:
            (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
        except Exception as error:  # Keras raises bare Exceptions for a failed download
            raise UsageError(
                f"MNIST cannot be downloaded ({type(error).__name__}; no network?); give a copy of "
                "mnist.npz with --data"
            ) from None
        return _halves(x_train, y_train, x_test, y_test)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; check the path of --data") from None
    except _NO_NPZ:
        raise UsageError(
            f"{path}: not MNIST in Keras' format; it must contain x_train, y_train, x_test "
            "and y_test"
        ) from None
    return _halves(*arrays)


def _halves(
    x_train: NDArray[Any], y_train: NDArray[Any], x_test: NDArray[Any], y_test: NDArray[Any]
) -> tuple[Digits, Digits]:
    for images, digits in ((x_train, y_train), (x_test, y_test)):
        if images.shape != (len(digits), 28, 28) or images.dtype != np.uint8 or digits.ndim != 1:
            raise UsageError(
                f"MNIST: expected images (n, 28, 28) of uint8 and n digits, got {images.shape} of "
                f"{images.dtype} and {digits.shape}"
            )
    return Digits(x_train[..., None], y_train), Digits(x_test[..., None], y_test)


def draw_bags(
    source: Digits, params: MnistBagParams, count: int, rng: np.random.Generator
) -> list[MnistBag]:
    """Draw MNIST bags at random, their sizes from a normal distribution.

    A balanced positive bag, its size included, is drawn again until it contains the target, as in
    the paper authors' code: such bags are a little larger than negative ones.

    Parameters
    ----------
    source : digits to draw from
    params : sizes and target; balanced bags alternate in class, as in the paper
    count : number of bags
    rng : random generator

    Raises
    ------
    UsageError : `source` contains only the target, or none
    """
    target = source.digits == params.target
    if target.all() or not target.any():
        raise UsageError(f"cannot draw bags: every digit, or none, is a {params.target}")
    others = np.flatnonzero(~target)
    bags: list[MnistBag] = []
    while len(bags) < count:
        size = max(1, round(rng.normal(params.mean_size, params.std_size)))
        rows = rng.integers(len(target), size=size)
        if params.balanced:
            if len(bags) % 2:
                rows = rng.choice(others, size)
            elif not target[rows].any():
                continue
        label = POSITIVE if target[rows].any() else NEGATIVE
        bags.append(MnistBag(source.images[rows], source.digits[rows], label))
    return bags


def draw_sets(
    mnist: tuple[Digits, Digits], params: MnistParams, train_bags: int, seed: int
) -> tuple[list[MnistBag], list[MnistBag], list[MnistBag]]:
    """Draw training, validation and test bags separately, test bags from other images.

    Raises
    ------
    UsageError : the bags drawn for one of them are all of one class
    """
    learn, unseen = mnist
    train = draw_bags(learn, params.bags, train_bags, np.random.default_rng([seed, _TRAIN]))
    val = draw_bags(learn, params.bags, params.val_bags, np.random.default_rng([seed, _VAL]))
    test = draw_bags(unseen, params.bags, params.test_bags, np.random.default_rng([seed, _TEST]))
    for name, bags in (("training", train), ("validation", val), ("test", test)):
        if len({bag.label for bag in bags}) == 1:
            raise UsageError(
                f"all {len(bags)} {name} bags drawn with seed {seed} are of one class; "
                "give more bags, another size, or --balanced"
            )
    return train, val, test


def warp_pictures(
    pictures: NDArray[np.uint8], rng: np.random.Generator, strength: float = 1.0
) -> NDArray[np.uint8]:
    """Warp each picture (n, P, P, 1) at random, for objects with a fixed orientation.

    A random affine map (rotation, zoom of each axis, shear, shift) and a smooth random
    displacement (Simard et al. 2003, "Best practices for convolutional neural networks applied to
    visual document analysis"), drawn for each picture. Pixels from outside are black.

    Parameters
    ----------
    pictures : (n, P, P, 1), 0..255
    strength : scales all of them; at 1 they reach 12 degrees, 12 %, 0.12 and 7 % of the side, and
        the displacement has a standard deviation of 2.5 % of the side at its nodes
    """
    count, side = pictures.shape[:2]
    if count == 0:
        return pictures
    angle, shear = rng.uniform(-1, 1, (2, count)) * [[np.deg2rad(12)], [0.12]] * strength
    zoom = 1 / (1 + rng.uniform(-0.12, 0.12, (2, count)) * strength)
    shift = rng.uniform(-0.07, 0.07, (count, 2, 1)) * strength * side
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos * zoom[0], (shear - sin) * zoom[0]], [sin * zoom[1], cos * zoom[1]]])
    middle = (side - 1) / 2
    places = np.indices((side, side)).reshape(2, -1) - middle
    sources = np.moveaxis(matrix, -1, 0) @ places + middle + shift
    nodes = rng.normal(0, 0.025 * strength * side, (count, 2, _NODES, _NODES))
    spread = ndimage.zoom(np.eye(_NODES), (side / _NODES, 1), order=3)  # nodes to places, smoothly
    sources += (spread @ nodes @ spread.T).reshape(count, 2, -1)
    which = np.broadcast_to(np.arange(count)[:, None], (count, side * side))
    coordinates = np.stack([which, sources[:, 0], sources[:, 1]])
    warped = ndimage.map_coordinates(pictures[..., 0], coordinates, order=1)
    return warped.reshape(pictures.shape)


def run_trial(
    mnist: tuple[Digits, Digits],
    params: MnistParams,
    train_bags: int,
    seed: int,
    on_epoch: Callable[[dict[str, float]], None] = lambda losses: None,
) -> Trial:
    """Draw bags, train, and evaluate on bags of MNIST's test half.

    Parameters
    ----------
    mnist : training and test half
    params : of the benchmark
    train_bags : number of training bags
    seed : of bags and training
    on_epoch : called with the losses after every epoch

    Raises
    ------
    UsageError : the bags drawn are all of one class
    """
    train, val, test = draw_sets(mnist, params, train_bags, seed)
    epochs = params.epochs_for(train_bags)
    recipe = params.train.model_copy(update={"epochs": epochs})
    negative = NEGATIVE if params.negative_class else None
    task = Task(SHAPE, 2, negative, warp_pictures if params.warp else None)
    start = time.perf_counter()
    trained = [
        train_member(
            [ArrayBag(bag.images, bag.label) for bag in train],
            [ArrayBag(bag.images, bag.label) for bag in val],
            task,
            recipe,
            seed_of(seed, number),
            lambda epoch, losses: on_epoch(losses),
        )
        for number in range(recipe.members)
    ]
    seconds = time.perf_counter() - start
    members = tuple(member for member, _ in trained)
    bag_scores = score_bags(members, [bag.images for bag in test])
    labels = np.array([bag.label for bag in test])
    probs = np.stack([scores.probs for scores in bag_scores])
    positive = [i for i, label in enumerate(labels) if label == POSITIVE]
    truth = [test[i].digits == params.bags.target for i in positive]
    return Trial(
        train_bags=train_bags,
        seed=seed,
        auc=auc(labels, probs) or 0.0,
        accuracy=accuracy(labels, probs),
        loss=log_loss(labels, probs),
        instance_auc=instance_auc(truth, [bag_scores[i].attention for i in positive]),
        evidence_auc=instance_auc(truth, [bag_scores[i].evidence(POSITIVE) for i in positive]),
        seconds=seconds,
        epochs=max(len(history["loss"]) for _, history in trained),
        members=members,
        test=tuple(test),
        bag_scores=tuple(bag_scores),
    )
