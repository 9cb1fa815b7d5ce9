"""Encoders of the Mahmood Lab."""

from milpath.registry.published import PublishedEncoder, VisionTransformer


def uni() -> PublishedEncoder:
    """UNI, https://huggingface.co/MahmoodLab/UNI."""
    return PublishedEncoder(
        name="uni",
        title="UNI",
        publisher="Mahmood Lab",
        repository="MahmoodLab/UNI",
        file="pytorch_model.bin",
        revision="b55a5ec6cade1a39edfe6534189a9b8ca7a022f0",
        sha256="56ef09b44a25dc5c7eedc55551b3d47bcd17659a7a33837cf9abc9ec4e2ffb40",
        licence="CC-BY-NC-ND-4.0",
        commercial=False,
        gate="terms",
        network=VisionTransformer(16, 1024, 24, 16, 4096, grid=14),
        mpp_source="the model card says 20x, taken as 0.5",
        resampling="bilinear",
        reference="https://huggingface.co/MahmoodLab/UNI",
    )


def uni2_h() -> PublishedEncoder:
    """UNI2-h, https://huggingface.co/MahmoodLab/UNI2-h."""
    return PublishedEncoder(
        name="uni2-h",
        title="UNI2-h",
        publisher="Mahmood Lab",
        repository="MahmoodLab/UNI2-h",
        file="pytorch_model.bin",
        revision="d517a8dd47902dd7c308b3c36f63bce47e7b9a43",
        sha256="6e077eda234bebc595868d918d3458d9dd32a050199b0ff04443b2f46a0a3b1e",
        licence="CC-BY-NC-ND-4.0",
        commercial=False,
        gate="terms",
        network=VisionTransformer(
            14, 1536, 24, 24, 4096, gated=True, registers=8, positions="patches"
        ),
        mpp_source="convention; the model card states none",
        resampling="bilinear",
        precision="bfloat16",
        reference="https://huggingface.co/MahmoodLab/UNI2-h",
    )
