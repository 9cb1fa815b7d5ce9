"""The encoder of Sophont."""

from milpath.registry.published import PublishedEncoder, VisionTransformer


def openmidnight() -> PublishedEncoder:
    """OpenMidnight, https://huggingface.co/SophontAI/OpenMidnight."""
    return PublishedEncoder(
        name="openmidnight",
        title="OpenMidnight",
        publisher="Sophont",
        repository="SophontAI/OpenMidnight",
        file="teacher_checkpoint_load.pt",
        revision="87189e6674d397a14a5cd342c97b1a1615a185aa",
        sha256="b57121fc10e2b04c9e85514fa5e4c23b75329301e05bfc756c3bca57312505be",
        licence="Apache-2.0",
        commercial=True,
        gate="terms",
        network=VisionTransformer(14, 1536, 40, 24, 4096, gated=True, registers=4),
        layout="teacher",
        mpp_source="convention; the model card states none",
        resampling="bilinear",
        reference="https://huggingface.co/SophontAI/OpenMidnight",
    )
