"""Bags to train on: stored ones and ones in memory. Importing this module imports no Keras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from milpath.cohort.cohort import Cohort
from milpath.formats.bag import Bag
from milpath.formats.foreign.values import FeatureHints, Layout
from milpath.formats.model_spec import EncoderSpec
from milpath.params import TileParams

Background = Literal["bright", "dark"]


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


class Source(Protocol):
    """Where the instances of a stored bag are read from; raises `StoredFileError` if damaged."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read some instances, (n, ...), rows ascending."""

    def iterate(self, batch: int) -> Iterator[NDArray[Any]]:
        """Yield all instances in order, up to `batch` at a time."""


@dataclass(frozen=True)
class Pixels:
    """The patches (n, P, P, 3) of a bag's file."""

    path: Path

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read some patches."""
        with Bag(self.path) as bag:
            return bag.read_patches(rows)

    def iterate(self, batch: int) -> Iterator[NDArray[np.uint8]]:
        """Yield all patches in order."""
        with Bag(self.path) as bag:
            yield from bag.iter_patches(batch)


@dataclass(frozen=True)
class Features:
    """The features (n, D) of a file of any layout."""

    layout: Layout
    path: Path
    hints: FeatureHints

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read some rows."""
        with self.layout.open(self.path, self.hints) as slide:
            return slide.features[rows if len(rows) < len(slide) else slice(None)]

    def iterate(self, batch: int) -> Iterator[NDArray[Any]]:
        """Yield all rows in order."""
        with self.layout.open(self.path, self.hints) as slide:
            for low in range(0, len(slide), batch):
                yield slide.features[low : low + batch]


@dataclass(frozen=True)
class LabelledBag:
    """A stored bag of the training cohort."""

    source: Source
    slide_id: str
    case: str
    label: int
    size: int
    """N, its number of instances."""
    fingerprint: str = ""
    """Of what it was made from; see `milpath.formats.bag.bag_fingerprint`."""
    mark: str = ""
    """Identifies its contents, see `milpath.formats.model_spec.mark_slide`."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read instances; raise `StoredFileError` if damaged."""
        return self.source.read(rows)


@dataclass(frozen=True)
class TrainingSet:
    """The bags of a cohort, checked to be made alike."""

    cohort: Cohort
    bags: tuple[LabelledBag, ...]
    """One for each entry of `cohort`."""
    tile: TileParams
    """How they were tiled, as far as it is known."""
    background: Background | None
    """Of the slides; None if it is not known."""
    patch_px: int
    encoder: EncoderSpec | None
    """That made the features; None for pixels."""
    excluded: tuple[str, ...]
    """Ids of slides left out because they have no tissue."""
    skipped: Mapping[str, Sequence[str]]
    """Ids of slides left out on request, by what they lack."""


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
