"""Encoders: networks that turn a patch (P, P, 3) of 0..255 into features (D,)."""

from __future__ import annotations

import hashlib

from milpath.errors import StoredFileError, UsageError
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.encoders.applications import build_application, list_applications
from milpath.nn.encoders.own import CENTRED, OWN_ENCODERS, SMALL
from milpath.nn.engine import keras
from milpath.registry.names import describe_unknown

__all__ = [
    "CENTRED",
    "OWN_ENCODERS",
    "SMALL",
    "build_encoder",
    "fingerprint_weights",
    "rebuild_encoder",
    "resize_encoder",
]


def build_encoder(name: str, patch_px: int, weights: str | None = None) -> keras.Model:
    """Build an encoder by name: one of `OWN_ENCODERS`, or a network of `keras.applications`.

    Parameters
    ----------
    name : such as "small" or "resnet50"; case does not matter for `keras.applications`
    patch_px : patch side length, pixels
    weights : of a network of `keras.applications`, see `build_application`

    Raises
    ------
    UsageError : no such network, or its weights are not available
    """
    if name in OWN_ENCODERS:
        return OWN_ENCODERS[name]((patch_px, patch_px, 3))
    if name.lower() not in list_applications():
        raise UsageError(describe_unknown(name))
    return build_application(name.lower(), patch_px, weights)


def fingerprint_weights(model: keras.Model) -> str:
    """Compute a digest of every weight of a model, in order."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(str((weight.shape, str(weight.dtype))).encode())
        digest.update(weight.tobytes())
    return digest.hexdigest()[:32]


def rebuild_encoder(spec: EncoderSpec) -> keras.Model:
    """Build the network of a spec; its weights are loaded afterwards.

    Raises
    ------
    StoredFileError : the spec names no known network, or another number of features
    """
    try:
        encoder = build_encoder(spec.name, spec.patch_px)
    except UsageError as error:
        raise StoredFileError(f"the model's encoder cannot be rebuilt: {error}") from None
    if encoder.output_shape[-1] != spec.dim:
        raise StoredFileError(
            f"the model's encoder {spec.name} gives {encoder.output_shape[-1]} features per patch, "
            f"model.json says {spec.dim}"
        )
    return encoder


def resize_encoder(encoder: keras.Model, spec: EncoderSpec) -> keras.Model:
    """Build the network of a spec, of another patch size, with the weights of an encoder.

    Raises
    ------
    UsageError : the encoder cannot take patches of this size
    """
    try:
        resized = build_encoder(spec.name, spec.patch_px)
        resized.set_weights(encoder.get_weights())
    except (UsageError, ValueError):  # of another kind, or its weights depend on the size
        raise UsageError(
            f"{spec.name} cannot take patches of {spec.patch_px} px, only those that it was made "
            "for; leave out --patch-size"
        ) from None
    return resized
