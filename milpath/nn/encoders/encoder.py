"""Encoder: what turns patches into features, whatever it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from milpath.formats.model_spec import EncoderSpec
from milpath.nn.engine import keras

BATCH = 64
"""Patches per batch of a network."""


class Encoder(Protocol):
    """Turns patches into features, each for itself.

    Attributes
    ----------
    spec : which encoder it is, of patches of which size and resolution
    """

    @property
    def spec(self) -> EncoderSpec:
        """Which encoder it is."""

    def embed(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute features (n, D) of patches (n, P, P, 3), RGB of 0..255."""


@dataclass(frozen=True, eq=False)
class NetworkEncoder:
    """A Keras network as an encoder.

    Attributes
    ----------
    network : of patches (n, P, P, 3) of 0..255
    spec : its record
    """

    network: keras.Model
    spec: EncoderSpec

    def embed(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute features (n, D) of patches (n, P, P, 3), in batches of one size: traced once."""
        parts = [np.zeros((0, self.spec.dim), np.float32)]
        for low in range(0, len(patches), BATCH):
            some = patches[low : low + BATCH]
            full = np.pad(some, [(0, BATCH - len(some)), (0, 0), (0, 0), (0, 0)])
            features = self.network.predict_on_batch(full)[: len(some)]
            parts.append(np.asarray(features, np.float32))
        return np.concatenate(parts)
