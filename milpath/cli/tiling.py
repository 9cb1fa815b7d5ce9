"""Options of the commands that tile slides: tissue, grid and limits of artefacts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from milpath.cli.params_file import given_options
from milpath.params import ArtefactParams, GridParams, StainParams, TissueParams

GRID = GridParams()
TISSUE = TissueParams()
ARTEFACTS = ArtefactParams()
STAIN = StainParams()

MPP_HELP = "Resolution of the patches, in µm per pixel."
PATCH_SIZE_HELP = "Patch side length, in pixels."
OverlapOption = Annotated[int, typer.Option(help="Overlap of neighbouring patches, in pixels.")]
MinTissueOption = Annotated[
    float, typer.Option(help="Minimum fraction of a patch that must be tissue, 0 to 1.")
]
SensitivityOption = Annotated[
    float,
    typer.Option(
        help="Sensitivity to pale tissue, 0.2 to 5; 1 is normal, above 1 keeps paler tissue."
    ),
]
KeepPenOption = Annotated[
    bool,
    typer.Option(
        "--keep-pen",
        help="Do not remove regions that look like marker pen, as some green or blue stains do.",
    ),
]
MaxBlurOption = Annotated[
    float | None,
    typer.Option(
        help="Leave out patches with more blur, 0 (sharp) to 1. See the scores of your own "
        "slides before you choose: milpath info BAG.",
        show_default="no limit",
    ),
]
MaxFoldOption = Annotated[
    float | None,
    typer.Option(
        help="Leave out patches of which more is folded tissue, 0 to 1.",
        show_default="no limit",
    ),
]
MaxPenOption = Annotated[
    float | None,
    typer.Option(
        help="Leave out patches of which more is marker pen, 0 to 1.", show_default="no limit"
    ),
]
StainNormaliseOption = Annotated[
    str,
    typer.Option(
        help="Bring the colours of each H&E slide to those of one reference: macenko, "
        "reinhard or none.",
    ),
]

TILING_NAMES = {
    "mpp": "grid.mpp",
    "patch_size": "grid.patch_px",
    "overlap": "grid.overlap_px",
    "min_tissue": "grid.min_tissue",
    "sensitivity": "tissue.sensitivity",
    "keep_pen": "tissue.exclude_pen",
    "max_blur": "artefacts.max_blur",
    "max_fold": "artefacts.max_fold",
    "max_pen": "artefacts.max_pen",
    "stain_normalise": "stain.normalise",
}
"""Parameter of each option."""


def given_tiling(context: typer.Context) -> dict[str, Any]:
    """Collect the options of tiling that the user gave, by the names of their parameters."""
    given = given_options(context, TILING_NAMES)
    if "tissue.exclude_pen" in given:
        given["tissue.exclude_pen"] = not given["tissue.exclude_pen"]
    return given
