"""`milpath embed`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from milpath.cli.console import (
    JsonOption,
    SlideMppOption,
    VerboseOption,
    describe_option,
    load_network,
    show_warnings,
)
from milpath.cli.embed_source import (
    NO_PIXELS,
    BagSource,
    SlideSource,
    Source,
    Target,
    check_tiling,
    find_bag_folder,
)
from milpath.cli.machines import (
    FrameOption,
    IdsFromPathOption,
    NetworkWorkersOption,
    SchedulerOption,
    ShardOption,
    SlideTimeoutOption,
    TissueOption,
    check_backend_options,
    gather_entries,
    open_backend,
    take_shard,
)
from milpath.cli.params_file import GivenParams, ParamsOption, given_options
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
from milpath.errors import StoredFileError, UsageError
from milpath.params import TileParams
from milpath.slides.frame import Frame

if TYPE_CHECKING:
    from milpath.nn.fitting import Patches


class Precision(StrEnum):
    """Precision of a network's arithmetic."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def embed(
    context: typer.Context,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            help="Slides, folders of slides, or cohort CSVs, as for milpath tile; or one folder of "
            "bags, made by milpath tile.",
            metavar="SLIDES|BAGS",
            show_default=False,
        ),
    ],
    encoder: Annotated[
        str,
        typer.Option(
            help="Encoder: the name of a published one (uni2-h, virchow2, ...), of a "
            "keras.applications network (resnet50, efficientnetv2b0, ...), or of one that an "
            "installed package offers; an ONNX file (.onnx); or a model folder made by milpath "
            "train, to use its encoder.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Output folder; the features go to OUT/ENCODER.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights of a named encoder: of a published one its file, or a folder with it; of "
            "a keras.applications network imagenet (the default; downloaded once by Keras), a "
            "Keras weights file without the top layers, or random (for testing only).",
            show_default=False,
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            help="Which vector of a published encoder, such as cls or cls+mean, or which output of "
            "an ONNX file.",
            show_default=False,
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            help="Of an ONNX file that does not state it: what is subtracted from patches, on the "
            "scale 0..1.",
            show_default="from the file",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            help="By which the patches of an ONNX file are divided after that.",
            show_default="from the file",
        ),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Precision of the arithmetic of a published encoder: auto is that of its authors "
            "where there is a GPU, else float32."
        ),
    ] = Precision.AUTO,
    seed: Annotated[
        int, typer.Option(min=0, max=(1 << 32) - 1, help="Random seed, for random weights.")
    ] = 0,
    mpp: Annotated[
        float | None,
        typer.Option(
            help=MPP_HELP, show_default=f"the encoder's; {GRID.mpp:g} where it has none of its own"
        ),
    ] = None,
    patch_size: Annotated[
        int | None,
        typer.Option(
            help=PATCH_SIZE_HELP,
            show_default=f"the encoder's; {GRID.patch_px} where it has none of its own",
        ),
    ] = None,
    allow_mpp: Annotated[
        bool,
        typer.Option(
            "--allow-mpp",
            help="Apply the encoder to patches of another resolution than it was made for; also to "
            "patches of another size, if it can take them.",
        ),
    ] = False,
    overlap: OverlapOption = GRID.overlap_px,
    min_tissue: MinTissueOption = GRID.min_tissue,
    sensitivity: SensitivityOption = TISSUE.sensitivity,
    keep_pen: KeepPenOption = not TISSUE.exclude_pen,
    max_blur: MaxBlurOption = ARTEFACTS.max_blur,
    max_fold: MaxFoldOption = ARTEFACTS.max_fold,
    max_pen: MaxPenOption = ARTEFACTS.max_pen,
    stain_normalise: StainNormaliseOption = STAIN.normalise,
    params_file: ParamsOption = None,
    slide_mpp: SlideMppOption = None,
    tissue: TissueOption = None,
    frame: FrameOption = Frame.qupath,
    ids_from_path: IdsFromPathOption = False,
    workers: NetworkWorkersOption = 1,
    scheduler: SchedulerOption = None,
    shard: ShardOption = None,
    slide_timeout: SlideTimeoutOption = None,
    verbose: VerboseOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compute the features of the patches of slides, or of bags, with a frozen encoder.

    Slides are tiled and embedded in one pass: tissue, patches and features, without bags; no
    pixels are stored. Size and resolution of the patches are those that the encoder was made for.
    Tiling follows the same options as in milpath tile, and the group tile of --params (its
    pixel storage does not matter here). Bags are embedded as they are, and not changed.

    OUT receives a folder for each encoder, with a file for each slide in the layout of TRIDENT, and
    the encoder itself, so that a model can include it. Afterwards, milpath train --features
    OUT/ENCODER trains an attention head on them.
    """
    from milpath.formats.layout import encoder_folder, encoder_weights_path
    from milpath.nn.onnx_input import OnnxOptions, check_onnx
    from milpath.registry.names import is_onnx
    from milpath.runs import Inline
    from milpath.store import require_permission

    show_warnings(verbose=verbose)
    take_shard((), shard)  # a wrong one is said first
    colours = {"mean": _parse_colours("mean", mean), "std": _parse_colours("std", std)}
    _check_colours(encoder, colours)
    check_backend_options(workers, scheduler)
    folder = find_bag_folder(inputs)
    if folder is not None:
        _refuse_slide_options(context)
        source = cast("Source[Any]", BagSource.open(folder))
    else:
        given = GivenParams(TileParams, "tile", params_file, given_tiling(context) | NO_PIXELS)
        check_tiling(given)
        found = gather_entries(inputs, slide_mpp, tissue, frame, ids_from_path=ids_from_path)
        slides = SlideSource(found, given, tissue is not None, str(frame))
        source = cast("Source[Any]", slides)
    wanted = source.patches()
    if is_onnx(encoder):
        size = wanted.patch_px
        check_onnx(Path(encoder), OnnxOptions(variant, size, **colours, allow_other=allow_mpp))
    else:
        _check_encoder(encoder, weights, None if allow_mpp else wanted, download=not dry_run)
    mine, _ = take_shard(source.items, shard)
    require_permission(out)
    load_network()
    from milpath.nn.bundle import save_encoder
    from milpath.nn.embed import name_folder
    from milpath.nn.encoder_choice import EncoderRequest, choose_encoder

    request = EncoderRequest(
        encoder,
        weights or "",
        variant,
        wanted.patch_px,
        wanted.mpp,
        compute=precision.value,
        seed=seed,
        in_bags=wanted.in_bags,
        allow_other=allow_mpp,
        **colours,
    )
    try:
        chosen = choose_encoder(request)
    except StoredFileError as error:
        raise UsageError(str(error)) from None
    spec = chosen.spec
    params = {"encoder": spec.model_dump(mode="json"), "seed": seed, **source.record(spec)}
    results = (out / name_folder(spec)).absolute()
    weights = encoder if spec.kind == "onnx" else weights
    found_weights = Path(weights).absolute() if weights else None
    target = Target(chosen, encoder_folder(results), found_weights, results)
    if not dry_run:
        save_encoder(target.stored, chosen)
    needed = encoder_weights_path(target.stored) if spec.kind == "keras" else found_weights
    files = [*([needed] if needed else []), *source.list_files(mine)]
    limit = None if dry_run else slide_timeout  # a dry run has no encoder that others could load
    with (
        open_backend(
            workers, scheduler, len(mine), results, files, timeout=limit, dry_run=dry_run
        ) as backend,
        open_run("embed", results, mine, params, as_json, dry_run=dry_run) as run,
    ):
        if isinstance(backend, Inline):
            job = source.job_here(target, backend.threads, dry_run=dry_run)
        else:
            job = source.job_elsewhere(target, backend.threads)
        run.do(job, backend)
    run.finish()


_SLIDES_ONLY = {
    **{name: describe_option(parameter) for name, parameter in TILING_NAMES.items()},
    "keep_pen": "--keep-pen",
    "params_file": "--params",
    "slide_mpp": "--slide-mpp",
    "tissue": "--tissue-annotations",
    "frame": "--frame",
    "ids_from_path": "--ids-from-path",
}
"""Options that have no effect on bags."""


def _refuse_slide_options(context: typer.Context) -> None:
    """Raise `UsageError` for options that have no effect on bags."""
    for option in given_options(context, _SLIDES_ONLY):
        raise UsageError(f"{option} is for slides; bags are tiled already, so leave it out")


def _parse_colours(name: str, text: str | None) -> tuple[float, float, float] | None:
    """Return the three numbers of an option; raise `UsageError` if it has no such."""
    if text is None:
        return None
    try:
        red, green, blue = (float(each) for each in text.split(","))
    except ValueError:
        raise UsageError(f"--{name} {text}: expected three numbers, such as 0.5,0.5,0.5") from None
    return red, green, blue


def _check_colours(encoder: str, given: Mapping[str, object]) -> None:
    from milpath.registry.names import is_onnx

    named = [f"--{name}" for name, value in given.items() if value is not None]
    if named and not is_onnx(encoder):
        raise UsageError(
            f"{' and '.join(named)}: only for ONNX files; other encoders bring their own"
        )


def _check_encoder(
    encoder: str, weights: str | None, patches: Patches | None, *, download: bool
) -> None:
    """Raise `UsageError` for missing files, before Keras is loaded.

    Parameters
    ----------
    encoder, weights : the options
    patches : that a published encoder must have been made for, before its weights are downloaded
    download : whether its weights are downloaded if they are nowhere
    """
    from milpath.formats.layout import encoder_spec_path
    from milpath.formats.model_spec import read_bundle_spec

    folder = Path(encoder)
    if folder.is_dir():
        try:
            if not encoder_spec_path(folder).is_file():
                read_bundle_spec(folder)
        except StoredFileError as error:
            raise UsageError(str(error)) from None
        return
    if os.sep in encoder or "/" in encoder:
        raise UsageError(
            f"--encoder {encoder}: no such folder; expected a model folder, an ONNX file "
            "(.onnx), or the name of an encoder"
        )
    _check_name(encoder, weights, patches, download=download)


def _check_name(
    encoder: str, weights: str | None, patches: Patches | None, *, download: bool
) -> None:
    """Check an encoder that is given by name; see `_check_encoder`."""
    from milpath.nn.fitting import check_published
    from milpath.registry import ENCODERS
    from milpath.registry.names import describe_unknown, list_names, match_name
    from milpath.registry.plugins import find_plugin
    from milpath.registry.weights import locate_weights

    if match_name(encoder, list_names()) is None and find_plugin(encoder) is None:
        raise UsageError(describe_unknown(encoder))
    if name := match_name(encoder, ENCODERS):
        if patches is not None:
            check_published(ENCODERS[name], patches)
        locate_weights(ENCODERS[name], Path(weights) if weights else None, download=download)
    elif weights not in (None, "imagenet", "random") and not Path(weights).is_file():
        raise UsageError(
            f"--weights {weights}: no such file; expected imagenet, random or a weights file"
        )
