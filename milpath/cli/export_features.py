"""`milpath export-features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milpath.cli.console import JsonOption, SlideMppOption, show_warnings
from milpath.cli.features import (
    EncoderNameOption,
    MppOption,
    PatchSizeOption,
    VerifiedOnlyOption,
    make_hints,
)
from milpath.cli.runs import open_run
from milpath.export_features import FeatureLayout


def export_features(
    features: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="Folder of features, of milpath embed or of another tool.",
            metavar="FEATURES",
            show_default=False,
        ),
    ],
    layout: Annotated[
        FeatureLayout,
        typer.Option(
            help="trident: OUT/features_ENCODER. clam: OUT/pt_files, h5_files and patches. stamp: "
            "OUT, coordinates in µm.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.", show_default=False)],
    encoder_name: EncoderNameOption = None,
    patch_size: PatchSizeOption = None,
    mpp: MppOption = None,
    slide_mpp: SlideMppOption = None,
    verified_only: VerifiedOnlyOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write features in the layout of TRIDENT, CLAM or STAMP, for programs that read theirs.

    Files that are there already are replaced.
    """
    from milpath.cohort.workitem import WorkItem
    from milpath.export_features import FeatureExport
    from milpath.formats.foreign import detect_features
    from milpath.runs import Inline

    show_warnings()
    found = detect_features(features, verified_only=verified_only)
    items = [WorkItem(path, slide_id) for slide_id, path in found.files.items()]
    hints = make_hints(encoder_name, patch_size, mpp)
    job = FeatureExport(found.layout, hints, layout, out.absolute(), slide_mpp)
    params = {"layout": str(layout), "features": found.layout.name}
    with open_run("export-features", out, items, params, as_json) as run:
        run.do(job, Inline(1))
    run.finish()
