"""Encoders that features and models refer to, without holding their weights."""

from __future__ import annotations

from pathlib import Path

from milpath.errors import StoredFileError, UsageError
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.encoders.encoder import Encoder
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
    StoredFileError : what was found is another one
    """
    if spec.kind != "published" or spec.name not in ENCODERS:
        raise UsageError(
            f"the encoder {spec.name} is not known to this version of milpath; compute features "
            "with the program that has it, and give them with --features"
        )
    encoder = ENCODERS[spec.name]
    found = load_published(
        encoder,
        locate_weights(encoder, weights, download=True),
        variant=spec.variant,
        patch_px=spec.patch_px,
        mpp=spec.mpp,
        compute=spec.compute,
    )
    require_same(spec, found.spec)
    return found


def require_same(spec: EncoderSpec, found: EncoderSpec) -> None:
    """Raise `StoredFileError` unless an encoder is the one that a spec describes."""
    if found.digest != spec.digest:
        raise StoredFileError(
            f"the weights {found.weights} are not those of the encoder {spec.name} that made the "
            f"features (digest {found.digest}, expected {spec.digest}); give the same file with "
            "--weights"
        )
