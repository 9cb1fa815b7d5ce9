"""`milpath tile`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from milpath.cli.console import (
    JsonOption,
    SlideMppOption,
    WorkersOption,
    checked,
    show_warnings,
)
from milpath.cli.machines import (
    IdsFromPathOption,
    SchedulerOption,
    ShardOption,
    TissueOption,
    files_of,
    gather_entries,
    open_backend,
    take_shard,
)
from milpath.cli.runs import DryRunOption, open_run
from milpath.params import CodecParams, GridParams, TileParams, TissueParams

_GRID = GridParams()
_PIXELS = CodecParams()
_TISSUE = TissueParams()


def tile(
    slides: Annotated[
        list[Path],
        typer.Argument(
            help="Slides, folders of slides, or cohort CSVs (slide; optionally slide_id, mpp). "
            "Paths in a CSV are relative to its folder.",
            metavar="SLIDE",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the bags.", show_default=False)
    ],
    mpp: Annotated[
        float, typer.Option(help="Resolution of the patches, µm per pixel.")
    ] = _GRID.mpp,
    patch_size: Annotated[int, typer.Option(help="Side of a patch, pixels.")] = _GRID.patch_px,
    overlap: Annotated[
        int, typer.Option(help="Overlap of neighbouring patches, pixels.")
    ] = _GRID.overlap_px,
    min_tissue: Annotated[
        float, typer.Option(help="Least share of a patch that must be tissue, 0 to 1.")
    ] = _GRID.min_tissue,
    sensitivity: Annotated[
        float, typer.Option(help="How readily pale matter counts as tissue; 1 is usual.")
    ] = _TISSUE.sensitivity,
    keep_pen: Annotated[
        bool,
        typer.Option("--keep-pen", help="Do not leave marker pen out (for green or blue stains)."),
    ] = not _TISSUE.exclude_pen,
    codec: Annotated[
        str, typer.Option(help="How pixels are kept: jpeg, or raw (lossless, seven times larger).")
    ] = _PIXELS.codec,
    quality: Annotated[int, typer.Option(help="JPEG quality, 50 to 100.")] = _PIXELS.quality,
    slide_mpp: SlideMppOption = None,
    tissue: TissueOption = None,
    ids_from_path: IdsFromPathOption = False,
    workers: WorkersOption = 0,
    scheduler: SchedulerOption = None,
    shard: ShardOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the tissue of slides and cut it into patches: one bag (HDF5 file) a slide.

    Each slide also gets a picture in OUT/qc: tissue outlined, patches drawn in. A slide that is
    done with the same options is skipped; with others it is made anew.
    """
    params = checked(
        TileParams,
        tissue=checked(TissueParams, sensitivity=sensitivity, exclude_pen=not keep_pen),
        grid=checked(
            GridParams, mpp=mpp, patch_px=patch_size, overlap_px=overlap, min_tissue=min_tissue
        ),
        pixels=checked(CodecParams, codec=codec, quality=quality),
    )
    from milpath.tile import tile_slide

    show_warnings()
    gathered = gather_entries(slides, slide_mpp, tissue, ids_from_path=ids_from_path)
    entries, _ = take_shard(gathered, shard)
    files = files_of(entries)
    given = params.model_dump() | {"annotated": tissue is not None}
    with (
        open_backend(workers, scheduler, len(entries), out, files, dry_run=dry_run) as backend,
        open_run("tile", out, entries, given, as_json, dry_run=dry_run) as run,
    ):
        job = partial(
            tile_slide,
            out=out.absolute(),
            params=params,
            threads=backend.threads,
            dry_run=dry_run,
        )
        run.do(job, backend)
    run.finish()
