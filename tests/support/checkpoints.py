"""Checkpoints of small vision transformers: drawn weights, named as publishers name them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from milpath.nn.encoders.checkpoint import list_weights
from milpath.registry import ENCODERS
from milpath.registry.published import PublishedEncoder
from support.foreign_tensors import tensor, write_torch

Array = NDArray[np.float32]
Shape = tuple[int, ...]

_TEACHER = {"reg_token": "register_tokens", "mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"}
_DINOV2 = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "pos_embed": "embeddings.position_embeddings",
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "blocks.": "encoder.layer.",
}
_VIT = {
    **_DINOV2,
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_GATED_DINOV2 = {**_DINOV2, "mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}


def shrink(encoder: PublishedEncoder) -> PublishedEncoder:
    """Make an encoder small: two blocks, two heads, 48 numbers; all else stays as it is."""
    hidden = 128 if encoder.network.gated else 192
    network = replace(encoder.network, dim=48, heads=2, depth=2, hidden=hidden)
    return replace(encoder, network=network, sha256=None)


def small(name: str) -> PublishedEncoder:
    """Return the small form of a published encoder."""
    return shrink(ENCODERS[name])


@dataclass(frozen=True)
class Case:
    """A small encoder, one of its variants, and patches that it sees."""

    name: str
    variant: str
    patch_px: int

    def __str__(self) -> str:
        return f"{self.name} {self.variant} {self.patch_px}"


def list_cases() -> list[Case]:
    """List all variants of all encoders, for patches of their own size, larger and smaller ones."""
    cases = []
    for encoder in ENCODERS.values():
        edge, grid = encoder.network.token_px, encoder.network.grid
        sides = (encoder.patch_px, edge * (grid + 3), edge * max(2, grid // 2 - 1))
        cases += [
            Case(encoder.name, variant, side)
            for variant in encoder.variants
            for side in dict.fromkeys(sides)
        ]
    return cases


def draw_patches(side: int, count: int = 2) -> NDArray[np.uint8]:
    """Draw patches (count, side, side, 3)."""
    drawn = np.random.default_rng(side).integers(0, 256, (count, side, side, 3))
    return drawn.astype(np.uint8)


def draw_weights(encoder: PublishedEncoder, seed: int = 0) -> dict[str, Array]:
    """Draw all weights of an encoder, by their names in its file; each depends on its name only."""
    weights: dict[str, Array] = {}
    for name, shape in list_weights(encoder.network).items():
        for part, some in _split(encoder, name, shape):
            weights[encoder.prefix + part] = _draw(part, some, seed)
    return weights


def write_checkpoint(path: Path, weights: dict[str, Array]) -> Path:
    """Write weights as safetensors or, by another suffix, as `torch.save` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(weights, path)
        return path
    state: dict[str, Any] = {}
    for number, (name, values) in enumerate(weights.items()):
        *outer, inner = name.split("/")  # "teacher/cls_token" lies in a dict of its own
        place = state
        for each in outer:
            place = place.setdefault(each, {})
        place[inner] = tensor(values, str(number))
    return write_torch(path, state)


def _split(encoder: PublishedEncoder, name: str, shape: Shape) -> list[tuple[str, Shape]]:
    """Return the names and shapes by which a file holds a weight."""
    layout = encoder.layout
    if layout == "timm":
        return [(name, shape)]
    if layout == "teacher":
        return [(_replace(name, _TEACHER), shape)]
    if ".attn.qkv." in name:
        block, rest = name.split(".")[1], name.rpartition(".")[2]
        stem = f"encoder.layer.{block}.attention.attention"
        third = (shape[0] // 3, *shape[1:])
        return [(f"{stem}.{part}.{rest}", third) for part in ("query", "key", "value")]
    if name.startswith("norm."):
        return [(f"layer{name}", shape)]
    dinov2 = _GATED_DINOV2 if encoder.network.gated else _DINOV2
    names = _VIT if layout == "vit" else dinov2
    return [(_replace(name, names), shape)]


def _replace(name: str, names: dict[str, str]) -> str:
    for one, other in names.items():
        name = name.replace(one, other)
    return name


def _draw(name: str, shape: tuple[int, ...], seed: int) -> Array:
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    drawn = generator.standard_normal(shape).astype(np.float32)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.3 * drawn
    return drawn * np.float32(0.3 if len(shape) < 2 else 0.08)
