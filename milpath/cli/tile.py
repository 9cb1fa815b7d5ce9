"""`milpath tile`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milpath.cli.console import (
    JsonOption,
    SlideMppOption,
    WorkersOption,
    show_warnings,
)
from milpath.cli.machines import (
    FrameOption,
    IdsFromPathOption,
    SchedulerOption,
    ShardOption,
    SlideTimeoutOption,
    TissueOption,
    files_of,
    gather_entries,
    open_backend,
    take_shard,
)
from milpath.cli.params_file import ParamsOption, given_options, merge_params
from milpath.cli.runs import DryRunOption, open_run
from milpath.errors import UsageError
from milpath.params import (
    ArtefactParams,
    CodecParams,
    GridParams,
    StainParams,
    TileParams,
    TissueParams,
)
from milpath.slides.frame import Frame

if TYPE_CHECKING:
    from milpath.runs import Outcome

_GRID = GridParams()
_PIXELS = CodecParams()
_TISSUE = TissueParams()
_ARTEFACTS = ArtefactParams()
_STAIN = StainParams()
_NAMES = {
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
    "codec": "pixels.codec",
    "quality": "pixels.quality",
}
"""Parameter of each option."""


def tile(
    context: typer.Context,
    slides: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            help="Slides, folders of slides, or cohort CSVs with a column slide (optionally "
            "slide_id, mpp). Paths in a CSV are relative to its folder.",
            metavar="SLIDE",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.", show_default=False)],
    mpp: Annotated[
        float, typer.Option(help="Resolution of the patches, in µm per pixel.")
    ] = _GRID.mpp,
    patch_size: Annotated[int, typer.Option(help="Patch side length, in pixels.")] = _GRID.patch_px,
    overlap: Annotated[
        int, typer.Option(help="Overlap of neighbouring patches, in pixels.")
    ] = _GRID.overlap_px,
    min_tissue: Annotated[
        float, typer.Option(help="Minimum fraction of a patch that must be tissue, 0 to 1.")
    ] = _GRID.min_tissue,
    sensitivity: Annotated[
        float,
        typer.Option(
            help="Sensitivity to pale tissue, 0.2 to 5; 1 is normal, above 1 keeps paler tissue."
        ),
    ] = _TISSUE.sensitivity,
    keep_pen: Annotated[
        bool,
        typer.Option(
            "--keep-pen",
            help="Do not remove regions that look like marker pen, as some green or blue stains "
            "do.",
        ),
    ] = not _TISSUE.exclude_pen,
    max_blur: Annotated[
        float | None,
        typer.Option(
            help="Leave out patches with more blur, 0 (sharp) to 1. See the scores of your own "
            "slides before you choose: [dim]milpath info BAG[/].",
            show_default="no limit",
        ),
    ] = _ARTEFACTS.max_blur,
    max_fold: Annotated[
        float | None,
        typer.Option(
            help="Leave out patches of which more is folded tissue, 0 to 1.",
            show_default="no limit",
        ),
    ] = _ARTEFACTS.max_fold,
    max_pen: Annotated[
        float | None,
        typer.Option(
            help="Leave out patches of which more is marker pen, 0 to 1.", show_default="no limit"
        ),
    ] = _ARTEFACTS.max_pen,
    stain_normalise: Annotated[
        str,
        typer.Option(
            help="Bring the colours of each H&E slide to those of one reference: macenko, "
            "reinhard or none.",
        ),
    ] = _STAIN.normalise,
    codec: Annotated[
        str,
        typer.Option(help="Pixel storage format: jpeg, or raw (lossless, about 7 times larger)."),
    ] = _PIXELS.codec,
    quality: Annotated[int, typer.Option(help="JPEG quality, 50 to 100.")] = _PIXELS.quality,
    coords_only: Annotated[
        bool,
        typer.Option(
            "--coords-only",
            help="Store only where the patches lie, in kilobytes per slide, not their pixels.",
        ),
    ] = False,
    params_file: ParamsOption = None,
    slide_mpp: SlideMppOption = None,
    tissue: TissueOption = None,
    frame: FrameOption = Frame.qupath,
    ids_from_path: IdsFromPathOption = False,
    workers: WorkersOption = 0,
    scheduler: SchedulerOption = None,
    shard: ShardOption = None,
    slide_timeout: SlideTimeoutOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Detect the tissue of slides and cut it into patches: one bag (HDF5 file) per slide.

    OUT/qc receives a picture of each slide with its tissue and patches. A slide that is already
    done with the same parameters is skipped; if they differ, it is re-tiled.
    """
    given = given_options(context, _NAMES)
    if "tissue.exclude_pen" in given:
        given["tissue.exclude_pen"] = not keep_pen
    if coords_only and {"pixels.codec", "pixels.quality"} & set(given):
        raise UsageError("--codec and --quality are for pixels, --coords-only stores none")
    if coords_only:
        given["pixels.codec"] = "none"
    params = merge_params(TileParams, "tile", params_file, given)
    from milpath.tile import tile_slide

    show_warnings()
    gathered = gather_entries(slides, slide_mpp, tissue, frame, ids_from_path=ids_from_path)
    entries, _ = take_shard(gathered, shard)
    files = files_of(entries)
    recorded = params.model_dump() | {"annotated": tissue is not None, "frame": str(frame)}
    with (
        open_backend(
            workers, scheduler, len(entries), out, files, timeout=slide_timeout, dry_run=dry_run
        ) as backend,
        open_run("tile", out, entries, recorded, as_json, dry_run=dry_run) as run,
    ):
        job = partial(
            tile_slide,
            out=out.absolute(),
            params=params,
            threads=backend.threads,
            dry_run=dry_run,
        )
        run.do(job, backend)
    if dry_run and not as_json:
        _show_total(run.outcomes)
    run.finish()


def _show_total(outcomes: Sequence[Outcome]) -> None:
    """Say how many patches and bytes would be written."""
    from milpath.tile import PlanFacts

    planned = [one.facts for one in outcomes if isinstance(one.facts, PlanFacts)]
    if len(planned) > 1:
        total = PlanFacts(sum(one.patches for one in planned), sum(one.bytes for one in planned))
        print(f"{len(planned)} slides in all: {total.describe()}")
