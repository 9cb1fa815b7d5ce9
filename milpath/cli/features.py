"""Options of the commands that read files of features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from milpath.formats.foreign.values import FeatureHints

FeaturesOption = Annotated[
    Path | None,
    typer.Option(
        "--features",
        metavar="FOLDER",
        help="Folder of features, a file for each slide: of milpath embed, TRIDENT, CLAM, STAMP "
        "and other tools. milpath info FOLDER shows what it holds.",
        show_default="none",
    ),
]
EncoderNameOption = Annotated[
    str | None,
    typer.Option(
        "--encoder-name",
        metavar="NAME",
        help="Name of the network that made the features, where their files do not say it; or "
        "which of several to read.",
        show_default="from the files",
    ),
]
PatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--patch-size",
        metavar="PX",
        min=1,
        help="Patch side length in pixels, as the network saw it, where the files do not say it.",
        show_default="from the files",
    ),
]
MppOption = Annotated[
    float | None,
    typer.Option(
        "--mpp",
        metavar="UM",
        help="µm per pixel of the patches, as the network saw them, where the files do not say it.",
        show_default="from the files",
    ),
]
VerifiedOnlyOption = Annotated[
    bool,
    typer.Option(
        "--verified-only",
        help="Refuse features without checksums of milpath, whose damage would go unnoticed.",
    ),
]


def make_hints(encoder_name: str | None, patch_size: int | None, mpp: float | None) -> FeatureHints:
    """Collect what the user says of features; raise `BadParameter` for impossible values."""
    from milpath.formats.foreign.values import FeatureHints
    from milpath.params import MPP_RANGE

    low, high = MPP_RANGE
    if mpp is not None and not low <= mpp <= high:
        raise typer.BadParameter(f"--mpp {mpp:g}: expected {low:g} to {high:g} µm per pixel")
    return FeatureHints(encoder=encoder_name, mpp=mpp, patch_px=patch_size)
