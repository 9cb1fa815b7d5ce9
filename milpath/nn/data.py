"""Bags as Keras takes them: padded, masked, drawn anew each epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from milpath.bag import Bag
from milpath.errors import MilpathError
from milpath.nn.augment import jitter_stain, turn_patches


@dataclass(frozen=True)
class LabelledBag:
    """A bag of the training cohort."""

    path: Path
    slide_id: str
    case: str
    label: int
    size: int
    """N, its number of patches."""


class BagSequence(keras.utils.PyDataset):
    """Batches of bags: ``({"instances": (B, n, ...), "mask": (B, n)}, label (B,), weight (B,))``.

    While training, every bag gives `per_bag` patches drawn without replacement, others each epoch,
    augmented; while validating, as many evenly spaced ones, always the same.

    Parameters
    ----------
    bags : the set
    content : "pixels" or "features"
    class_weight : weight of each class in the loss
    batch : bags in a batch
    per_bag : most instances of a bag
    seed : of order, drawing and augmentation; None to validate
    stain_jitter : strength of the stain augmentation of pixels
    """

    def __init__(
        self,
        bags: Sequence[LabelledBag],
        content: Literal["pixels", "features"],
        class_weight: NDArray[np.float32],
        batch: int,
        per_bag: int,
        seed: int | None = None,
        stain_jitter: float = 0.0,
    ) -> None:
        super().__init__(workers=2, max_queue_size=4)
        self.bags = bags
        self.content = content
        self.class_weight = class_weight
        self.batch = min(batch, len(bags))
        self.width = min(per_bag, max(bag.size for bag in bags))
        self.seed = seed
        self.stain_jitter = stain_jitter
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
        return {"instances": instances, "mask": mask}, labels, self.class_weight[labels]

    def _draw(self, place: int) -> NDArray[Any]:
        record = self.bags[place]
        count = min(self.width, record.size)
        if self.seed is None:
            rng = None
            rows = np.linspace(0, record.size - 1, count).round().astype(np.int64)
        else:
            rng = np.random.default_rng([self.seed, self.epoch, place])
            rows = np.sort(rng.choice(record.size, count, replace=False))
        with Bag(record.path) as bag:
            if self.content == "features":
                return bag.read_features(rows if count < record.size else slice(None))
            patches = bag.read_patches(rows)
        if rng is None:
            return patches
        patches = turn_patches(patches, rng)
        return jitter_stain(patches, self.stain_jitter, rng) if self.stain_jitter else patches
