"""Encoders that features and models refer to, without holding their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from milpath.errors import StoredFileError, UsageError
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.encoders.encoder import Encoder
from milpath.nn.encoders.onnx import reload_onnx_encoder
from milpath.nn.encoders.plugins import reload_plugin
from milpath.nn.encoders.published import load_published
from milpath.registry import ENCODERS
from milpath.registry.weights import locate_weights


def find_referred(spec: EncoderSpec, weights: Path | None = None) -> Encoder:
    """Load the encoder that a spec describes, and check that it is the same one.

    Parameters
    ----------
    spec : of another kind than "keras"
    weights : file of its weights, or a folder that holds it; None to look where it was found before

    Raises
    ------
    UsageError : it cannot be found
    StoredFileError : what was found is a different one
    """
    found = _LOADERS.get(spec.kind, _load_published)(spec, weights)
    require_same(spec, found.spec)
    return found


def _load_published(spec: EncoderSpec, weights: Path | None) -> Encoder:
    if spec.name not in ENCODERS:
        raise UsageError(
            f"the encoder {spec.name} is not known to this version of milpath; compute features "
            "with the program that has it, and give them with --features"
        )
    encoder = ENCODERS[spec.name]
    return load_published(
        encoder,
        locate_weights(encoder, weights, download=True),
        variant=spec.variant,
        patch_px=spec.patch_px,
        mpp=spec.mpp,
        compute=spec.compute,
    )


def _load_onnx(spec: EncoderSpec, weights: Path | None) -> Encoder:
    path = weights / spec.weights if weights is not None and weights.is_dir() else weights
    if path is None:
        raise UsageError(
            f"the encoder {spec.name} is the ONNX file {spec.weights}, which is not stored with "
            "features and models; give it with --weights"
        )
    return reload_onnx_encoder(path, spec)


def _load_plugin(spec: EncoderSpec, weights: Path | None) -> Encoder:
    if weights is not None:
        raise UsageError(
            f"the encoder {spec.name} is loaded by the package {spec.weights}; leave --weights out"
        )
    return reload_plugin(spec)


_LOADERS: dict[str, Callable[[EncoderSpec, Path | None], Encoder]] = {
    "onnx": _load_onnx,
    "plugin": _load_plugin,
}
"""How encoders that are not of the registry are found again, by their kind."""


def require_same(spec: EncoderSpec, found: EncoderSpec) -> None:
    """Raise `StoredFileError` unless an encoder is the one that a spec describes."""
    if found.digest != spec.digest:
        raise StoredFileError(
            f"the weights {found.weights} are not those of the encoder {spec.name} that made the "
            f"features (digest {found.digest}, expected {spec.digest}); give the same file with "
            "--weights"
        )
