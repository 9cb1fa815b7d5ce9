"""Published encoders as networks: built by the registry, with weights from their files."""

from __future__ import annotations

from pathlib import Path

from milpath.errors import UsageError
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.encoders.checkpoint import load_checkpoint, read_checkpoint
from milpath.nn.encoders.encoder import NetworkEncoder
from milpath.nn.encoders.transformer import build_transformer
from milpath.registry.checksums import digest_weights
from milpath.registry.published import Precision, PublishedEncoder
from milpath.store.weightsfile import open_weights


def load_published(
    encoder: PublishedEncoder,
    path: Path,
    *,
    variant: str | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    compute: Precision = "float32",
) -> NetworkEncoder:
    """Load a published encoder from the file of its weights.

    Parameters
    ----------
    encoder : of the registry
    path : of the file, safetensors or `torch.save`
    variant : which of its vectors; by default the first
    patch_px : side length of the patches; by default the one it was made for
    mpp : µm per pixel of the patches; by default the one it was made for
    compute : precision of the arithmetic

    Raises
    ------
    UsageError : no such variant, or patches of no whole number of tokens
    StoredFileError : the file does not hold its weights
    """
    spec = describe_published(encoder, variant, patch_px, mpp, compute)
    digest = digest_weights(path)
    with open_weights(path) as weights:
        checkpoint = read_checkpoint(path.name, weights, encoder)
        network = build_transformer(
            checkpoint.network,
            spec.patch_px,
            (encoder.mean, encoder.std),
            encoder.variants[spec.variant or ""],
            crop_px=_crop(encoder, spec.patch_px),
            compute=compute,
        )
        load_checkpoint(network, weights, checkpoint)
    pinned = digest == encoder.sha256
    known = {
        "digest": digest[:32],
        "weights": path.name,
        "revision": encoder.revision if pinned else None,
    }
    return NetworkEncoder(network, spec.model_copy(update=known))


def describe_published(
    encoder: PublishedEncoder,
    variant: str | None,
    patch_px: int | None,
    mpp: float | None,
    compute: Precision,
) -> EncoderSpec:
    """Describe a published encoder before its weights are known; raises `UsageError`."""
    chosen = variant or encoder.default_variant
    if chosen not in encoder.variants:
        raise UsageError(
            f"{encoder.name} has no variant {chosen!r}; give one of: {', '.join(encoder.variants)}"
        )
    side = patch_px or encoder.patch_px
    edge, seen = encoder.network.token_px, _crop(encoder, side) or side
    if seen % edge:
        raise UsageError(
            f"{encoder.name} sees patches of a multiple of {edge} px, not {seen} px; give "
            f"--patch-size {encoder.patch_px}, or another multiple of {edge}"
        )
    return EncoderSpec(
        name=encoder.name,
        kind="published",
        patch_px=side,
        dim=encoder.dim(chosen),
        mpp=mpp or encoder.mpp[0],
        variant=chosen,
        compute=compute,
    )


def _crop(encoder: PublishedEncoder, patch_px: int) -> int | None:
    """Return the side length of the centre that is seen; patches of other sizes are seen whole."""
    return encoder.crop_px if patch_px == encoder.patch_px else None
