"""Encoders of Lunit, in timm's form by Laurent Fainsin."""

from milpath.registry.published import HALF, PublishedEncoder, VisionTransformer


def lunit_vits16() -> PublishedEncoder:
    """Lunit's DINO ViT-S/16, https://huggingface.co/1aurent/vit_small_patch16_224.lunit_dino."""
    return PublishedEncoder(
        name="lunit-vits16",
        title="Lunit DINO ViT-S/16",
        publisher="Lunit",
        repository="1aurent/vit_small_patch16_224.lunit_dino",
        file="model.safetensors",
        revision="9ed09909d93f9d39a092d8e49717ae48f9b44e6f",
        sha256="a19eb37d6cf038a7e8a34c7e9ec50698d02759b2f49dd799492f6ce7e4cb5937",
        licence="Lunit, non-commercial",
        commercial=False,
        gate="open",
        network=VisionTransformer(16, 384, 12, 6, 1536, layer_scale=False, grid=14),
        mpp=(0.5, 0.25),
        mpp_source="the paper (Kang et al. 2023)",
        mean=HALF[0],
        std=HALF[1],
        reference="https://huggingface.co/1aurent/vit_small_patch16_224.lunit_dino",
    )


def lunit_vits8() -> PublishedEncoder:
    """Lunit's DINO ViT-S/8, https://huggingface.co/1aurent/vit_small_patch8_224.lunit_dino."""
    return PublishedEncoder(
        name="lunit-vits8",
        title="Lunit DINO ViT-S/8",
        publisher="Lunit",
        repository="1aurent/vit_small_patch8_224.lunit_dino",
        file="model.safetensors",
        revision="c23bc01cfbe022bc1f2a8a9306125a07818e4eb4",
        sha256="0b7e0236ce430064b31485bbb6f85e661dc5eca0cde709e8f04d59f1c2b23e0b",
        licence="Lunit, non-commercial",
        commercial=False,
        gate="open",
        network=VisionTransformer(8, 384, 12, 6, 1536, layer_scale=False, grid=28),
        mpp=(0.5, 0.25),
        mpp_source="the paper (Kang et al. 2023)",
        reference="https://huggingface.co/1aurent/vit_small_patch8_224.lunit_dino",
    )
