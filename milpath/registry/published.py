"""What is known of a published encoder: where its weights are, and what one vector of it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Color = tuple[float, float, float]

IMAGENET: tuple[Color, Color] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's colours, of 0..1."""
HALF: tuple[Color, Color] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and standard deviation that map 0..1 to -1..1."""

Precision = Literal["float32", "float16", "bfloat16"]
"""Of a network's arithmetic."""

Pooling = Literal["class", "class+mean", "mean"]
"""How tokens become a vector: the class token; it and the mean over patch tokens; that mean."""

Positions = Literal["patches", "class", "prefix"]
"""Which tokens have a position embedding: those of patches, the class token too, or registers as
well."""

Layout = Literal["timm", "vit", "dinov2", "teacher"]
"""How the weights are named: by timm, by transformers (`ViTModel`, `Dinov2Model` with or without
registers), or by the authors of DINOv2 in the checkpoint of a teacher."""


@dataclass(frozen=True)
class VisionTransformer:
    """Shape of a vision transformer (Dosovitskiy et al. 2021, "An image is worth 16x16 words").

    Attributes
    ----------
    token_px : side length of the square that becomes a token, pixels
    dim, depth, heads : numbers per token, blocks, attention heads
    hidden : width of the hidden layer of a block's MLP
    gated : the MLP is SwiGLU (Shazeer 2020), ``W2 (silu(W1 x) * W3 x)``, instead of GELU
    registers : tokens beside the class token (Darcet et al. 2024)
    layer_scale : a factor for each channel after attention and MLP (Touvron et al. 2021)
    positions : which tokens have a position embedding
    grid : tokens per side for which the position embeddings are stored
    antialias : whether they are resampled with a filter where the grid is coarser than stored
    epsilon : of the layer normalisations
    """

    token_px: int
    dim: int
    depth: int
    heads: int
    hidden: int
    gated: bool = False
    registers: int = 0
    layer_scale: bool = True
    positions: Positions = "class"
    grid: int = 16
    antialias: bool = True
    epsilon: float = 1e-6


@dataclass(frozen=True)
class PublishedEncoder:
    """An encoder whose weights are published by others.

    Attributes
    ----------
    name : by which milpath knows it
    title, publisher : as its authors write them
    repository, file : on the hub of Hugging Face
    revision : commit of the repository, None if it is not known
    sha256 : of the file, None if it is not known
    licence : of the weights
    commercial : whether it allows commercial use; None if its documents disagree
    gate : "open" for everybody, "login" for everybody with an account, "terms" for those who accept
        the publisher's terms
    network : its architecture
    layout : of the weights file
    patch_px : side length of its patches, pixels
    mpp : µm per pixel it was made for; the first is the default
    mpp_source : where that is stated
    mean, std : of the colours, of 0..1
    resampling : filter by which its authors resize patches of other sizes; milpath reads patches of
        exactly `patch_px`
    crop_px : side length of the centre of the patch that the network sees; None for all of it
    variants : the vectors that it gives, by name; the first is the default
    precision : of the arithmetic that its authors use
    reference : address of the document that states all this
    prefix : of the names of its weights in a checkpoint that holds others too
    """

    name: str
    title: str
    publisher: str
    repository: str
    file: str
    revision: str | None
    sha256: str | None
    licence: str
    commercial: bool | None
    gate: Literal["open", "login", "terms"]
    network: VisionTransformer
    layout: Layout = "timm"
    patch_px: int = 224
    mpp: tuple[float, ...] = (0.5,)
    mpp_source: str = ""
    mean: Color = IMAGENET[0]
    std: Color = IMAGENET[1]
    resampling: Literal["bilinear", "bicubic"] = "bicubic"
    crop_px: int | None = None
    variants: Mapping[str, Pooling] = field(default_factory=lambda: {"cls": "class"})
    precision: Precision = "float32"
    reference: str = ""
    prefix: str = ""

    def dim(self, variant: str) -> int:
        """Return how many numbers a vector of this variant has."""
        return self.network.dim * (2 if self.variants[variant] == "class+mean" else 1)

    @property
    def default_variant(self) -> str:
        """The variant that is taken by default."""
        return next(iter(self.variants))
