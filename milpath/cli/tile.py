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
from milpath.cli.tiling import (
    ARTEFACTS,
    GRID,
    MPP_HELP,
    PATCH_SIZE_HELP,
    STAIN,
    TILING_NAMES,
    TISSUE,
    KeepPenOption,
    MaxBlurOption,
    MaxFoldOption,
    MaxPenOption,
    MinTissueOption,
    OverlapOption,
    SensitivityOption,
    StainNormaliseOption,
    given_tiling,
)
from milpath.errors import UsageError
from milpath.params import CodecParams, TileParams
from milpath.slides.frame import Frame

if TYPE_CHECKING:
    from milpath.runs import Outcome

_PIXELS = CodecParams()
_PIXEL_NAMES = {"codec": "pixels.codec", "quality": "pixels.quality"}
_NAMES = TILING_NAMES | _PIXEL_NAMES
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
    mpp: Annotated[float, typer.Option(help=MPP_HELP)] = GRID.mpp,
    patch_size: Annotated[int, typer.Option(help=PATCH_SIZE_HELP)] = GRID.patch_px,
    overlap: OverlapOption = GRID.overlap_px,
    min_tissue: MinTissueOption = GRID.min_tissue,
    sensitivity: SensitivityOption = TISSUE.sensitivity,
    keep_pen: KeepPenOption = not TISSUE.exclude_pen,
    max_blur: MaxBlurOption = ARTEFACTS.max_blur,
    max_fold: MaxFoldOption = ARTEFACTS.max_fold,
    max_pen: MaxPenOption = ARTEFACTS.max_pen,
    stain_normalise: StainNormaliseOption = STAIN.normalise,
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
    given = given_tiling(context) | given_options(context, _PIXEL_NAMES)
    if coords_only and {"pixels.codec", "pixels.quality"} & set(given):
        raise UsageError("--codec and --quality are for pixels, --coords-only stores none")
    if coords_only:
        given["pixels.codec"] = "none"
    params = merge_params(TileParams, "tile", params_file, given)
    from milpath.tile import require_pixels, tile_slide

    require_pixels(params)
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
