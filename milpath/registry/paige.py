"""Encoders of Paige."""

from milpath.registry.published import PublishedEncoder, VisionTransformer


def virchow() -> PublishedEncoder:
    """Virchow, https://huggingface.co/paige-ai/Virchow."""
    return PublishedEncoder(
        name="virchow",
        title="Virchow",
        publisher="Paige",
        repository="paige-ai/Virchow",
        file="model.safetensors",
        revision="19eebc84ae33e79f1b2d866e6ff90ae50e522f9a",
        sha256="3416891b37a2349a2d9ce7ecf00b64a6277011b41351436c1ceb0abb80805408",
        licence="Apache-2.0",
        commercial=True,
        gate="terms",
        network=VisionTransformer(14, 1280, 32, 16, 3416, gated=True),
        mpp_source="the model card",
        variants={"cls+mean": "class+mean", "cls": "class"},
        precision="float16",
        reference="https://huggingface.co/paige-ai/Virchow",
    )


def virchow2() -> PublishedEncoder:
    """Virchow2, https://huggingface.co/paige-ai/Virchow2."""
    return PublishedEncoder(
        name="virchow2",
        title="Virchow2",
        publisher="Paige",
        repository="paige-ai/Virchow2",
        file="model.safetensors",
        revision="3158645804b69e3f3bc4439d4116edddf0840a72",
        sha256="8d6cea947eb2418c3b0dff48cfb9b238e47744ab0dfca21b2b0637b140769b4b",
        licence="CC-BY-NC-ND-4.0",
        commercial=False,
        gate="terms",
        network=VisionTransformer(
            14, 1280, 32, 16, 3416, gated=True, registers=4, positions="prefix"
        ),
        mpp=(0.5, 0.25, 1.0, 2.0),
        mpp_source="the model card",
        variants={"cls+mean": "class+mean", "cls": "class"},
        precision="float16",
        reference="https://huggingface.co/paige-ai/Virchow2",
    )
