"""milpath's own CNNs, which are trained end to end together with the attention head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from milpath.nn.engine import keras, layers

SMALL = "small"
"""Name of the CNN for tissue."""

CENTRED = "centred"
"""Name of the CNN for patches centred on one object: a nucleus, a digit."""

Shape = tuple[int, int, int]


def build_small(shape: Shape) -> keras.Model:
    """Build the CNN for tissue: four blocks of convolution, batch normalisation, pooling; D = 128.

    It ends in the mean over all positions, because the position of a cell within a patch carries no
    information. Without batch normalisation it does not learn from slide labels: the demo's AUC
    stays at 0.5.
    """
    patch = keras.Input(shape, name="patch")
    x = _convolve(_rescale(patch), (16, 32, 64, 128))
    return keras.Model(patch, layers.GlobalAveragePooling2D(name="mean")(x), name=SMALL)


def build_centred(shape: Shape) -> keras.Model:
    """Build the CNN for patches centred on one object: three blocks, then a dense layer; D = 128.

    The dense layer has a weight for every position, because positions matter for such patches.
    """
    patch = keras.Input(shape, name="patch")
    x = layers.Flatten(name="places")(_convolve(_rescale(patch), (16, 32, 64)))
    x = layers.Dense(128, use_bias=False, kernel_initializer="he_normal", name="dense")(x)
    x = layers.BatchNormalization(momentum=0.9, name="norm")(x)
    return keras.Model(patch, layers.ReLU(name="relu")(x), name=CENTRED)


def _rescale(patch: Any) -> Any:
    return layers.Rescaling(1 / 127.5, offset=-1, name="rescale")(patch)


def _convolve(x: Any, widths: Sequence[int]) -> Any:
    """Blocks of convolution, batch normalisation and ReLU, each halving the side."""
    for block, filters in enumerate(widths, start=1):
        first = block == 1
        x = layers.Conv2D(
            filters,
            kernel_size=5 if first else 3,
            strides=2 if first else 1,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"conv{block}",
        )(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{block}")(x)
        x = layers.ReLU(name=f"relu{block}")(x)
        if not first:
            x = layers.MaxPooling2D(name=f"pool{block}")(x)
    return x


OWN_ENCODERS: dict[str, Callable[[Shape], keras.Model]] = {
    SMALL: build_small,
    CENTRED: build_centred,
}
"""The encoders that are trained together with the head, by name."""
