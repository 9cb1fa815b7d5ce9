"""Encoders of Owkin."""

from milpath.registry.published import PublishedEncoder, VisionTransformer


def phikon() -> PublishedEncoder:
    """Phikon, https://huggingface.co/owkin/phikon."""
    return PublishedEncoder(
        name="phikon",
        title="Phikon",
        publisher="Owkin",
        repository="owkin/phikon",
        file="model.safetensors",
        revision="057cc0295895c2df3dd7681a89680da6015cbefe",
        sha256="d01642bfeb683c6b039622eca273e0a8e4208065a4595b63edba178c1c4cfa68",
        licence="Owkin, non-commercial",
        commercial=False,
        gate="open",
        network=VisionTransformer(
            16, 768, 12, 12, 3072, layer_scale=False, grid=14, antialias=False, epsilon=1e-12
        ),
        layout="vit",
        mpp_source="the paper (Filiot et al. 2023)",
        resampling="bilinear",
        reference="https://huggingface.co/owkin/phikon",
    )


def phikon_v2() -> PublishedEncoder:
    """Phikon-v2, https://huggingface.co/owkin/phikon-v2."""
    return PublishedEncoder(
        name="phikon-v2",
        title="Phikon-v2",
        publisher="Owkin",
        repository="owkin/phikon-v2",
        file="model.safetensors",
        revision="2ae989a9c40cffaa27f0a6cb29cc94d1d6f9a5fd",
        sha256="261ae680fa699b3b951597fd57aa19c02ef735805acb104b93af69b36d928569",
        licence="Owkin, non-commercial",
        commercial=False,
        gate="open",
        network=VisionTransformer(16, 1024, 24, 16, 4096, grid=14, antialias=False),
        layout="dinov2",
        mpp_source="the paper (Filiot et al. 2024)",
        reference="https://huggingface.co/owkin/phikon-v2",
    )
