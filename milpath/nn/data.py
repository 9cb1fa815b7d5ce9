"""Batches of bags for Keras: sampled again each epoch, padded and masked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import MilpathError
from milpath.nn.bags import ArrayBag, TrainingBag
from milpath.nn.engine import keras

Augment = Callable[[NDArray[Any], np.random.Generator], NDArray[Any]]
"""Augments the instances (n, ...) sampled from one bag."""


class BagSequence(keras.utils.PyDataset):
    """Batches of bags: ``({"instances": (B, n, ...), "mask": (B, n)}, label (B,), weight (B,))``.

    In training, `per_bag` instances are sampled from every bag without replacement, again each
    epoch, and augmented; in validation they are evenly spaced and always the same.

    If the model has several outputs, labels and weights are dicts by output name, see `build_mil`.
    With a negative class, instances of a negative bag are labelled negative and all others have
    weight 0. Two joined bags have the class of the one that is not negative; if neither is and
    they differ, the label is unknown and the weight 0. Weights correct for frequencies in the whole
    set, never in one batch: over an epoch the instances weigh as much as one bag loss, and negative
    pairs as much as negative bags.

    Parameters
    ----------
    bags : the set
    class_weight : weight of each class in the loss
    batch : bags in a batch
    per_bag : maximum number of instances per bag
    seed : of order, sampling and augmentation; None for validation
    augment : augmentation of the sampled instances in training
    negative : index of the negative class, if there is one
    instance_loss : whether the model has the output "attention_weighted"
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
        instance_loss: bool = False,
    ) -> None:
        # starting and stopping Keras' reader threads costs 0.1 s per epoch
        stored = not all(isinstance(bag, ArrayBag) for bag in bags)
        super().__init__(workers=2 if stored else 1, max_queue_size=4)
        self.bags = bags
        self.class_weight = class_weight
        self.batch = min(batch, len(bags))
        self.width = min(per_bag, max(bag.size for bag in bags))
        self.seed = seed
        self.augment = augment
        self.negative = negative
        self.instance_loss = instance_loss
        if negative is not None:
            self._instance_weight, self._pair_weight = self._weigh_known(negative)
        self.epoch = 0
        self.error: MilpathError | None = None
        """The error raised in one of Keras' threads, which hides it in a message of fifty lines."""

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
            sampled = [self._draw(int(place)) for place in chosen]
        except MilpathError as error:
            self.error = error
            raise
        instances = np.empty((len(sampled), self.width, *sampled[0].shape[1:]), sampled[0].dtype)
        mask = np.zeros((len(sampled), self.width), np.bool_)
        for place, bag in enumerate(sampled):
            instances[place, : len(bag)] = bag
            # padded with patches of the bag itself, because batch normalisation sees the padding
            more = np.arange(len(bag), self.width)
            instances[place, len(bag) :] = bag[more % len(bag)]
            mask[place, : len(bag)] = True
        labels = np.array([self.bags[place].label for place in chosen])
        inputs, weight = {"instances": instances, "mask": mask}, self.class_weight[labels]
        if self.negative is None and not self.instance_loss:
            return inputs, labels, weight
        known = {"bag": (labels, weight)}
        if self.negative is not None:
            known |= self._known_labels(labels, mask)
        if self.instance_loss:
            known["attention_weighted"] = (labels, weight)
        return (
            inputs,
            {name: label for name, (label, _) in known.items()},
            {name: weight for name, (_, weight) in known.items()},
        )

    def _known_labels(
        self, labels: NDArray[np.int64], mask: NDArray[np.bool_]
    ) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Compute labels and weights of instances and pairs from the negative class."""
        before = np.roll(labels, 1)
        both = np.where(before == self.negative, labels, before)
        clear = (labels == self.negative) | (before == self.negative) | (labels == before)
        pair_weight = np.where(both == self.negative, *self._pair_weight)
        known = mask & (labels == self.negative)[:, None]
        joined = clear * pair_weight * self.class_weight[both]
        return {
            "instance": (
                np.repeat(labels[:, None], self.width, 1),
                (known * self._instance_weight).astype(np.float32),
            ),
            "pair": (both, joined.astype(np.float32)),
        }

    def _weigh_known(self, negative: int) -> tuple[float, tuple[float, float]]:
        """Compute the weight of a known instance, and of negative and other pairs."""
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
        sampled = bag.read(np.sort(rng.choice(bag.size, count, replace=False)))
        return sampled if self.augment is None else self.augment(sampled, rng)
