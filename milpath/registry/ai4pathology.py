"""The encoder of AI4Pathology."""

from milpath.registry.published import PublishedEncoder, VisionTransformer


def pathorchestra() -> PublishedEncoder:
    """PathOrchestra, https://huggingface.co/AI4Pathology/PathOrchestra."""
    return PublishedEncoder(
        name="pathorchestra",
        title="PathOrchestra",
        publisher="AI4Pathology",
        repository="AI4Pathology/PathOrchestra",
        file="pytorch_model.bin",
        revision="8280b11a63919f25e4610f3315c2646b5f38bbb5",
        sha256="3bcf28a162ed187d63ce42b41096eb298702b6d1be8640555660b053354db912",
        licence="CC-BY-NC-ND-4.0",
        commercial=False,
        gate="terms",
        network=VisionTransformer(16, 1024, 24, 16, 4096, grid=14),
        mpp_source="convention; the model card states none",
        resampling="bilinear",
        reference="https://huggingface.co/AI4Pathology/PathOrchestra",
    )
