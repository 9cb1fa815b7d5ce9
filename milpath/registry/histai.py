"""Encoders of HistAI."""

from milpath.registry.published import PublishedEncoder, VisionTransformer

_MEAN, _STD = (0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)


def hibou_b() -> PublishedEncoder:
    """Hibou-B, https://huggingface.co/histai/hibou-b."""
    return PublishedEncoder(
        name="hibou-b",
        title="Hibou-B",
        publisher="HistAI",
        repository="histai/hibou-b",
        file="model.safetensors",
        revision="7fdc8cce365ebfd9e7e60ee6ee9a8d4d59388f3c",
        sha256="2121db3cac83bc9abf13a458a37b0740e2ce725609ff8d4b8e6b6c56c30c3ab6",
        licence="Apache-2.0",
        commercial=True,
        gate="login",
        network=VisionTransformer(14, 768, 12, 12, 3072, registers=4),
        layout="dinov2",
        mpp_source="convention; the model card states none",
        mean=_MEAN,
        std=_STD,
        reference="https://huggingface.co/histai/hibou-b",
    )


def hibou_l() -> PublishedEncoder:
    """Hibou-L, https://huggingface.co/histai/hibou-L."""
    return PublishedEncoder(
        name="hibou-l",
        title="Hibou-L",
        publisher="HistAI",
        repository="histai/hibou-L",
        file="model.safetensors",
        revision="31a3b9fee16554c8552cb643d311733bce8faf7c",
        sha256="a63d1699448143ceccf2b7e1c4bf35b995c51f86ef8a6efb471af2eee210b79c",
        licence="Apache-2.0",
        commercial=True,
        gate="login",
        network=VisionTransformer(14, 1024, 24, 16, 4096, registers=4),
        layout="dinov2",
        mpp_source="convention; the model card states none",
        mean=_MEAN,
        std=_STD,
        reference="https://huggingface.co/histai/hibou-L",
    )
