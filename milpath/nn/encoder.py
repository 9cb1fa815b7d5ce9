"""Encoders: any network that turns a patch (P, P, 3) of 0..255 into an embedding (D,)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import layers

from milpath.errors import StoredFileError, UsageError
from milpath.formats.model_spec import EncoderSpec
from milpath.store.untrusted import check_untrusted_hdf5

SMALL = "small"
"""Name of our own CNN for tissue, the one that is trained end to end."""

CENTRED = "centred"
"""Name of our CNN for patches that show one thing in their middle: a nucleus, a digit."""

Shape = tuple[int, int, int]


def build_small(shape: Shape) -> keras.Model:
    """Our CNN for tissue: four blocks of convolution, batch normalisation and pooling; D = 128.

    Its last step is the mean over all places: where in a patch a cell lies tells nothing. Without
    the batch normalisation it does not learn from one label a slide: the demo stays at chance.
    """
    patch = keras.Input(shape, name="patch")
    x = _convolve(_rescale(patch), (16, 32, 64, 128))
    return keras.Model(patch, layers.GlobalAveragePooling2D(name="mean")(x), name=SMALL)


def build_centred(shape: Shape) -> keras.Model:
    """Our CNN for patches centred on one thing: three blocks, then a dense layer; D = 128.

    The dense layer sees every place by itself, since what is where makes a digit.
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


OURS: dict[str, Callable[[Shape], keras.Model]] = {SMALL: build_small, CENTRED: build_centred}
"""The encoders that learn along with their model, by name."""


def build_encoder(name: str, patch_px: int, weights: str | None = None) -> keras.Model:
    """An encoder by name: one of `OURS`, or any network of `keras.applications` such as "resnet50".

    Parameters
    ----------
    name : case does not matter
    patch_px : side of a patch
    weights : "imagenet" (Keras downloads them), a weights file of Keras for the network without its
        top, or None for random ones

    Raises
    ------
    UsageError : no such network, or its weights are not to be had
    """
    if name in OURS:
        return OURS[name]((patch_px, patch_px, 3))
    if name.lower() not in networks():
        raise UsageError(
            f"there is no encoder {name!r}; give a model folder, or one of: "
            + ", ".join([*OURS, *sorted(networks())])
        )
    build, preprocess = networks()[name.lower()]
    if weights not in (None, "imagenet"):
        if not Path(weights).is_file():
            raise UsageError(f"weights {weights!r}: there is no such file; give imagenet or a file")
        check_untrusted_hdf5(Path(weights))
    try:
        network = build(
            include_top=False, weights=weights, pooling="avg", input_shape=(patch_px, patch_px, 3)
        )
    except Exception as error:  # Keras raises bare Exceptions for a failed download
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"encoder {name} with weights {weights}: {reason}") from None
    patch = keras.Input((patch_px, patch_px, 3), name="patch")
    return keras.Model(patch, network(preprocess(patch)), name=name.lower())


def networks() -> dict[str, tuple[Callable[..., keras.Model], Callable[[Any], Any]]]:
    """The networks of `keras.applications`: lower-case name to (builder, preprocessing)."""
    found = {}
    for name in dir(keras.applications):
        build = getattr(keras.applications, name)
        if name[0].isupper() and callable(build):
            family = getattr(keras.applications, build.__module__.rpartition(".")[2])
            found[name.lower()] = (build, family.preprocess_input)
    return found


def digest_weights(model: keras.Model) -> str:
    """A digest of every weight of a model, in order."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(str((weight.shape, str(weight.dtype))).encode())
        digest.update(weight.tobytes())
    return digest.hexdigest()[:32]


def rebuild_encoder(spec: EncoderSpec) -> keras.Model:
    """The network of a spec with weights yet to be loaded.

    Raises
    ------
    StoredFileError : the spec names no network of ours
    """
    try:
        encoder = build_encoder(spec.name, spec.patch_px)
    except UsageError as error:
        raise StoredFileError(f"the model's encoder cannot be rebuilt: {error}") from None
    if encoder.output_shape[-1] != spec.dim:
        raise StoredFileError(
            f"the model's encoder {spec.name} gives {encoder.output_shape[-1]} numbers a patch, "
            f"its record says {spec.dim}"
        )
    return encoder
