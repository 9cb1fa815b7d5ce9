"""Fitting an encoder to patches: what it was made for, and what it is to see.

Importing this module imports no network library.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from milpath.errors import UsageError
from milpath.formats.model_spec import EncoderSpec
from milpath.registry.published import PublishedEncoder

log = logging.getLogger(__name__)

_SAME_MPP = 0.01  # µm per pixel are rounded where they are stated


@dataclass(frozen=True)
class Patches:
    """The patches that an encoder is to see.

    Attributes
    ----------
    patch_px : side length, pixels; None to leave it to the encoder
    mpp : µm per pixel; None to leave it to the encoder
    in_bags : whether they are cut already
    """

    patch_px: int | None = None
    mpp: float | None = None
    in_bags: bool = False


def fit_encoder(
    spec: EncoderSpec, patches: Patches, also_mpp: tuple[float, ...] = (), *, allow: bool = False
) -> EncoderSpec:
    """Describe an encoder as it is applied to patches.

    Parameters
    ----------
    spec : of the encoder, with the patches that it was made for; mpp None if that is not known
    patches : that it is to see
    also_mpp : other µm per pixel that it was made for
    allow : apply it to patches that it was not made for, and log that

    Raises
    ------
    UsageError : it was not made for such patches
    """
    patch_px = patches.patch_px or spec.patch_px
    mpp = patches.mpp or spec.mpp
    made_for = [each for each in (spec.mpp, *also_mpp) if each is not None]
    fits = not made_for or any(abs(mpp / each - 1) <= _SAME_MPP for each in made_for if mpp)
    if patch_px != spec.patch_px or not fits:
        given = f"{patch_px} px" + (f" at {mpp:g} µm per pixel" if mpp else "")
        fact = f"{spec.name} was made for patches of {_describe(spec, made_for)}"
        if not allow:
            raise UsageError(f"{fact}, not of {given}; {_remedy(spec, patches)}")
        log.warning("%s, and is applied to patches of %s", fact, given)
    return spec.model_copy(update={"patch_px": patch_px, "mpp": mpp})


def check_published(encoder: PublishedEncoder, patches: Patches) -> None:
    """Raise `UsageError` unless a published encoder was made for patches; needs no weights."""
    own = EncoderSpec(
        name=encoder.name,
        patch_px=encoder.patch_px,
        dim=encoder.dim(encoder.default_variant),
        mpp=encoder.mpp[0],
    )
    fit_encoder(own, patches, encoder.mpp)


def _describe(spec: EncoderSpec, made_for: list[float]) -> str:
    scales = " or ".join(f"{each:g}" for each in dict.fromkeys(made_for))
    return f"{spec.patch_px} px" + (f" at {scales} µm per pixel" if scales else "")


def _remedy(spec: EncoderSpec, patches: Patches) -> str:
    given = {"--patch-size": patches.patch_px, "--mpp": patches.mpp}
    remedy = "leave out " + " and ".join(name for name, value in given.items() if value)
    if patches.in_bags:
        remedy = f"tile again with --patch-size {spec.patch_px}"
        remedy += f" --mpp {spec.mpp:g}" if spec.mpp else ""
    return f"{remedy}, or apply it to them all the same with --allow-mpp"
