"""Bags as Keras takes them: padded, masked, drawn anew each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from milpath.errors import MilpathError
from milpath.formats.bag import Bag

Augment = Callable[[NDArray[Any], np.random.Generator], NDArray[Any]]
"""Changes the instances (n, ...) that one bag gives, as training wants them changed."""

Content = Literal["pixels", "features"]
"""What a stored bag gives as its instances."""


class TrainingBag(Protocol):
    """A bag that training draws from."""

    @property
    def label(self) -> int:
        """Index of its class."""

    @property
    def size(self) -> int:
        """N, its number of instances."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some of its instances, (n, ...), rows ascending."""


@dataclass(frozen=True)
class LabelledBag:
    """A stored bag of the training cohort."""

    path: Path
    slide_id: str
    case: str
    label: int
    size: int
    """N, its number of patches."""
    content: Content = "pixels"

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Patches or embeddings, as `content` says; raises `StoredFileError` when damaged."""
        with Bag(self.path) as bag:
            if self.content == "pixels":
                return bag.read_patches(rows)
            return bag.read_features(rows if len(rows) < self.size else slice(None))


@dataclass(frozen=True, eq=False)
class ArrayBag:
    """A bag in memory."""

    instances: NDArray[Any]
    label: int

    @property
    def size(self) -> int:
        """N, its number of instances."""
        return len(self.instances)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some of its instances."""
        return self.instances[rows]


class BagSequence(keras.utils.PyDataset):
    """Batches of bags: ``({"instances": (B, n, ...), "mask": (B, n)}, label (B,), weight (B,))``.

    While training, every bag gives `per_bag` instances drawn without replacement, others each
    epoch, augmented; while validating, as many evenly spaced ones, always the same.

    Where the model has more answers than one, labels and weights are dicts by their names, see
    `build_mil`. With a negative class it learns under the standard assumption.
    Instances of a negative bag are known to be negative, all others weigh 0. Of two joined bags the
    class is the one that is not negative; where both are not, and differ, nobody knows, and they
    weigh 0. Weights make up for how rare a thing is in the whole set, never in one batch: over an
    epoch the instances weigh as much as one bag loss, and negative pairs as much as negative bags.

    Parameters
    ----------
    bags : the set
    class_weight : weight of each class in the loss
    batch : bags in a batch
    per_bag : most instances of a bag
    seed : of order, drawing and augmentation; None to validate
    augment : what is done to the drawn instances of a bag while training
    negative : index of the negative class, if there is one
    attended : whether the model answers for the instances attended to
    """

    def __init__(
        self,
        bags: Sequence[TrainingBag],
        class_weight: NDArray[np.float32],
        batch: int,
        per_bag: int,
        seed: int | None = None,
        augment: Augment | None = None,
        negative: int | None = None,
        attended: bool = False,
    ) -> None:
        # Keras' own readers are begun and ended every epoch, for a tenth of a second
        stored = not all(isinstance(bag, ArrayBag) for bag in bags)
        super().__init__(workers=2 if stored else 1, max_queue_size=4)
        self.bags = bags
        self.class_weight = class_weight
        self.batch = min(batch, len(bags))
        self.width = min(per_bag, max(bag.size for bag in bags))
        self.seed = seed
        self.augment = augment
        self.negative = negative
        self.attended = attended
        if negative is not None:
            self._instance_weight, self._joint_weight = self._weigh_presence(negative)
        self.epoch = 0
        self.error: MilpathError | None = None
        """What went wrong in a thread of Keras, which buries it in a text of fifty lines."""

    def __len__(self) -> int:
        return math.ceil(len(self.bags) / self.batch)

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any, Any]:
        order = np.arange(len(self.bags))
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        chosen = order[index * self.batch : (index + 1) * self.batch]
        try:
            drawn = [self._draw(int(place)) for place in chosen]
        except MilpathError as error:
            self.error = error
            raise
        instances = np.empty((len(drawn), self.width, *drawn[0].shape[1:]), drawn[0].dtype)
        mask = np.zeros((len(drawn), self.width), np.bool_)
        for place, bag in enumerate(drawn):
            # padded with its own patches, not with black ones: the batch normalisation sees them
            instances[place] = bag[np.arange(self.width) % len(bag)]
            mask[place, : len(bag)] = True
        labels = np.array([self.bags[place].label for place in chosen])
        inputs, weight = {"instances": instances, "mask": mask}, self.class_weight[labels]
        if self.negative is None and not self.attended:
            return inputs, labels, weight
        known = {"bag": (labels, weight)}
        if self.negative is not None:
            known |= self._under_presence(labels, mask)
        if self.attended:
            known["attended"] = (labels, weight)
        return (
            inputs,
            {name: label for name, (label, _) in known.items()},
            {name: weight for name, (_, weight) in known.items()},
        )

    def _under_presence(
        self, labels: NDArray[np.int64], mask: NDArray[np.bool_]
    ) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Labels and weights of what is known when only other instances end negativity."""
        before = np.roll(labels, 1)
        both = np.where(before == self.negative, labels, before)
        clear = (labels == self.negative) | (before == self.negative) | (labels == before)
        joint_weight = np.where(both == self.negative, *self._joint_weight)
        known = mask & (labels == self.negative)[:, None]
        joined = clear * joint_weight * self.class_weight[both]
        return {
            "instance": (
                np.repeat(labels[:, None], self.width, 1),
                (known * self._instance_weight).astype(np.float32),
            ),
            "joint": (both, joined.astype(np.float32)),
        }

    def _weigh_presence(self, negative: int) -> tuple[float, tuple[float, float]]:
        """Weight of a known instance; of pairs that are negative, and that are not."""
        negatives = [bag for bag in self.bags if bag.label == negative]
        count, total = len(negatives), len(self.bags)
        known = sum(min(bag.size, self.width) for bag in negatives) / (total * self.width)
        bags = count / total
        # neighbours in a batch are two bags, or in a batch of one the same
        pairs = bags if self.batch == 1 else bags * (count - 1) / (total - 1)
        return 1 / known if known else 0.0, (
            bags / pairs if pairs else 0.0,
            (1 - bags) / (1 - pairs) if pairs < 1 else 0.0,
        )

    def _draw(self, place: int) -> NDArray[Any]:
        bag = self.bags[place]
        count = min(self.width, bag.size)
        if self.seed is None:
            return bag.read(np.linspace(0, bag.size - 1, count).round().astype(np.int64))
        rng = np.random.default_rng([self.seed, self.epoch, place])
        drawn = bag.read(np.sort(rng.choice(bag.size, count, replace=False)))
        return drawn if self.augment is None else self.augment(drawn, rng)
