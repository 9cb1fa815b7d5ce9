"""Encoders of Microsoft and Providence."""

from milpath.registry.published import PublishedEncoder, VisionTransformer


def prov_gigapath() -> PublishedEncoder:
    """Prov-GigaPath's tile encoder, https://huggingface.co/prov-gigapath/prov-gigapath."""
    return PublishedEncoder(
        name="prov-gigapath",
        title="Prov-GigaPath",
        publisher="Microsoft and Providence",
        repository="prov-gigapath/prov-gigapath",
        file="pytorch_model.bin",
        revision="eba85dd46097c3eedfcc2a3a9a930baecb6bcc19",
        sha256="877947214318afa9e011754b74bbc3894a1f480a253afc7bc8045b8321dedd63",
        licence="Apache-2.0 with terms of use",
        commercial=None,
        gate="terms",
        network=VisionTransformer(16, 1536, 40, 24, 4096, gated=True, grid=14),
        patch_px=256,
        crop_px=224,
        mpp_source="the paper (Xu et al. 2024), Methods",
        precision="float16",
        reference="https://huggingface.co/prov-gigapath/prov-gigapath",
    )
