"""Encoders of kaiko.ai; the first ones in timm's form by Laurent Fainsin."""

from dataclasses import replace

from milpath.registry.published import HALF, PublishedEncoder, VisionTransformer

_SUFFIX = "kaiko_ai_towards_large_pathology_fms"


def midnight() -> PublishedEncoder:
    """Midnight-12k, https://huggingface.co/kaiko-ai/midnight."""
    return PublishedEncoder(
        name="midnight",
        title="Midnight-12k",
        publisher="kaiko.ai",
        repository="kaiko-ai/midnight",
        file="model.safetensors",
        revision="adc6b15679c981cce6f9b018bbad09d16eeeda9f",
        sha256="52c14f20386ca17c2af8a7bf32c31c352668a8fbf6aefc88d86be6eaa0c72ca1",
        licence="MIT",
        commercial=True,
        gate="open",
        network=VisionTransformer(14, 1536, 40, 24, 4096, gated=True, antialias=False),
        layout="dinov2",
        mpp=(0.5, 0.25, 1.0, 2.0),
        mpp_source="the model card",
        mean=HALF[0],
        std=HALF[1],
        resampling="bilinear",
        variants={"cls+mean": "class+mean", "cls": "class"},
        reference="https://huggingface.co/kaiko-ai/midnight",
    )


def kaiko_vits16() -> PublishedEncoder:
    """ViT-S/16 of "Towards large-scale training of pathology foundation models" (2024)."""
    network = VisionTransformer(16, 384, 12, 6, 1536, layer_scale=False, grid=14)
    return _towards("vits16", "ViT-S/16", "vit_small_patch16_224", network)


def kaiko_vits8() -> PublishedEncoder:
    """ViT-S/8 of the same paper."""
    network = VisionTransformer(8, 384, 12, 6, 1536, layer_scale=False, grid=28)
    return _towards("vits8", "ViT-S/8", "vit_small_patch8_224", network)


def kaiko_vitb16() -> PublishedEncoder:
    """ViT-B/16 of the same paper."""
    network = VisionTransformer(16, 768, 12, 12, 3072, layer_scale=False, grid=14)
    return _towards("vitb16", "ViT-B/16", "vit_base_patch16_224", network)


def kaiko_vitb8() -> PublishedEncoder:
    """ViT-B/8 of the same paper."""
    network = VisionTransformer(8, 768, 12, 12, 3072, layer_scale=False, grid=28)
    return _towards("vitb8", "ViT-B/8", "vit_base_patch8_224", network)


def kaiko_vitl14() -> PublishedEncoder:
    """ViT-L/14 of the same paper, made for 518 px and used with 224."""
    network = VisionTransformer(14, 1024, 24, 16, 4096, registers=4, positions="patches", grid=37)
    return replace(
        _towards("vitl14", "ViT-L/14", "vit_large_patch14_reg4_224", network),
        revision="fb802e347d2c59f05207b70ad75f7df30019c188",
        sha256="149c8b21c60a7115a17572073b09ef142411c91b5194c84a99ebba8b83f20e69",
    )


def _towards(
    name: str, title: str, architecture: str, network: VisionTransformer
) -> PublishedEncoder:
    repository = f"1aurent/{architecture}.{_SUFFIX}"
    return PublishedEncoder(
        name=f"kaiko-{name}",
        title=f"Kaiko {title}",
        publisher="kaiko.ai",
        repository=repository,
        file="model.safetensors",
        revision=None,
        sha256=None,
        licence="Kaiko, non-commercial",
        commercial=False,
        gate="open",
        network=network,
        mpp_source="convention; the paper trains on several",
        mean=HALF[0],
        std=HALF[1],
        resampling="bilinear",
        reference=f"https://huggingface.co/{repository}",
    )
