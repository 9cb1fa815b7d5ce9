"""Bags to train on: stored ones and ones in memory. Importing this module imports no Keras."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from milpath.formats.bag import Bag

Content = Literal["pixels", "features"]
"""What the instances of a stored bag are."""


class TrainingBag(Protocol):
    """A bag that training samples instances from."""

    @property
    def label(self) -> int:
        """Index of its class."""

    @property
    def size(self) -> int:
        """N, its number of instances."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read some instances, (n, ...), rows ascending."""


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
    fingerprint: str = ""
    """Of the bag; see `milpath.formats.bag.bag_fingerprint`."""
    mark: str = ""
    """Identifies the slide's contents, see `milpath.formats.model_spec.mark_slide`."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read patches or features, as `content` says; raise `StoredFileError` if damaged."""
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
        """Read some instances."""
        return self.instances[rows]
