"""Encoders of the Hong Kong University of Science and Technology."""

from milpath.registry.published import PublishedEncoder, VisionTransformer


def mstar() -> PublishedEncoder:
    """mSTAR, https://huggingface.co/Wangyh/mSTAR."""
    return PublishedEncoder(
        name="mstar",
        title="mSTAR",
        publisher="HKUST Smart Lab",
        repository="Wangyh/mSTAR",
        file="model.safetensors",
        revision="162ae5da9897d4ff8b9a4c2daea175ae45012ef7",
        sha256="13b2df84648420bbc0fd2eca43ddfb5b7c9764920149988b3e015f39ed6f07ee",
        licence="CC-BY-NC-ND-4.0",
        commercial=False,
        gate="terms",
        network=VisionTransformer(16, 1024, 24, 16, 4096, grid=14),
        mpp_source="the paper (Xu et al. 2024) says 20x, taken as 0.5",
        resampling="bilinear",
        reference="https://huggingface.co/Wangyh/mSTAR",
    )


def gpfm() -> PublishedEncoder:
    """GPFM, https://huggingface.co/majiabo/GPFM; its documents disagree about the licence."""
    return PublishedEncoder(
        name="gpfm",
        title="GPFM",
        publisher="HKUST Smart Lab",
        repository="majiabo/GPFM",
        file="GPFM.pth",
        revision="c2e0c6c7cea4d7ae67151c3375d780712f82254e",
        sha256="ebde1a9d7d9098848034bcff30f8771034c8d0b69e32846fa266940f2fd4604c",
        licence="MIT on the hub, CC-BY-NC-ND-4.0 in its repository",
        commercial=None,
        gate="open",
        network=VisionTransformer(14, 1024, 24, 16, 4096),
        mpp_source="the paper (Ma et al. 2025) says 20x, taken as 0.5",
        reference="https://huggingface.co/majiabo/GPFM",
    )
