"""Encoders of Bioptimus."""

from milpath.registry.published import Color, PublishedEncoder, VisionTransformer

_COLORS: tuple[Color, Color] = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_GIANT = VisionTransformer(14, 1536, 40, 24, 4096, gated=True, registers=4, positions="patches")


def h_optimus_0() -> PublishedEncoder:
    """H-optimus-0, https://huggingface.co/bioptimus/H-optimus-0."""
    return PublishedEncoder(
        name="h-optimus-0",
        title="H-optimus-0",
        publisher="Bioptimus",
        repository="bioptimus/H-optimus-0",
        file="pytorch_model.bin",
        revision="b145cc1e6c6b30d3251aa8b1f844e6974188a743",
        sha256="bf47b8467403079798661601b6ab06533be789da48d3f8b510aaefe2fbc55cd3",
        licence="Apache-2.0",
        commercial=True,
        gate="login",
        network=_GIANT,
        mpp_source="the model card",
        mean=_COLORS[0],
        std=_COLORS[1],
        precision="float16",
        reference="https://huggingface.co/bioptimus/H-optimus-0",
    )


def h_optimus_1() -> PublishedEncoder:
    """H-optimus-1, https://huggingface.co/bioptimus/H-optimus-1."""
    return PublishedEncoder(
        name="h-optimus-1",
        title="H-optimus-1",
        publisher="Bioptimus",
        repository="bioptimus/H-optimus-1",
        file="model.safetensors",
        revision="3592cb220dec7a150c5d7813fb56e68bd57473b9",
        sha256="c4f1e5b457ddf00679626053b0bf2899be6a19c3a04ad191c87ad1cdfd1abfe1",
        licence="CC-BY-NC-ND-4.0",
        commercial=False,
        gate="terms",
        network=_GIANT,
        mpp_source="the model card",
        mean=_COLORS[0],
        std=_COLORS[1],
        precision="float16",
        reference="https://huggingface.co/bioptimus/H-optimus-1",
    )


def h0_mini() -> PublishedEncoder:
    """H0-mini, https://huggingface.co/bioptimus/H0-mini."""
    return PublishedEncoder(
        name="h0-mini",
        title="H0-mini",
        publisher="Bioptimus and Owkin",
        repository="bioptimus/H0-mini",
        file="model.safetensors",
        revision="5b5cc0505d19ae558270045eb0df8c34df4d9609",
        sha256="5e4de45a6527a8160f7c21fe3105c987757efe30ce581e1f2cf5809476069ade",
        licence="CC-BY-NC-ND-4.0",
        commercial=False,
        gate="terms",
        network=VisionTransformer(
            14, 768, 12, 12, 2048, gated=True, registers=4, positions="prefix"
        ),
        mpp_source="the model card says 20x, taken as 0.5",
        mean=_COLORS[0],
        std=_COLORS[1],
        variants={"cls": "class", "cls+mean": "class+mean"},
        precision="float16",
        reference="https://huggingface.co/bioptimus/H0-mini",
    )
