"""The encoder of Tae Joon Jun."""

from milpath.registry.published import PublishedEncoder, VisionTransformer


def openpath() -> PublishedEncoder:
    """OpenPath, https://huggingface.co/taejoon89/openpath."""
    return PublishedEncoder(
        name="openpath",
        title="OpenPath",
        publisher="Tae Joon Jun",
        repository="taejoon89/openpath",
        file="teacher_checkpoint.pth",
        revision="22b339237195931eb56ea6c86653362edd2dd155",
        sha256="1b389360b4867b5159ce7534ff231f51e87d3cf140daa4b37483d0a178af3da3",
        licence="Apache-2.0",
        commercial=True,
        gate="open",
        network=VisionTransformer(14, 1536, 40, 24, 4096, gated=True, registers=4),
        layout="teacher",
        prefix="teacher/backbone.",
        mpp_source="the model card",
        resampling="bilinear",
        reference="https://huggingface.co/taejoon89/openpath",
    )
