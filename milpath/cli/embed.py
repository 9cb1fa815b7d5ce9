"""`milpath embed`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milpath.cli.console import JsonOption, load_network, show_warnings
from milpath.cli.machines import (
    NetworkWorkersOption,
    SchedulerOption,
    ShardOption,
    SlideTimeoutOption,
    check_backend_options,
    open_backend,
    take_shard,
)
from milpath.cli.runs import DryRunOption, open_run
from milpath.errors import StoredFileError, UsageError

if TYPE_CHECKING:
    from milpath.cohort.workitem import WorkItem


class Precision(StrEnum):
    """Precision of a network's arithmetic."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def embed(
    bags: Annotated[
        Path,
        typer.Argument(
            exists=True,
            file_okay=False,
            help="Folder of bags, made by milpath tile.",
            metavar="BAGS",
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
        typer.Option(help="Precision of the arithmetic of a published encoder."),
    ] = Precision.FLOAT32,
    seed: Annotated[
        int, typer.Option(min=0, max=(1 << 32) - 1, help="Random seed, for random weights.")
    ] = 0,
    workers: NetworkWorkersOption = 1,
    scheduler: SchedulerOption = None,
    shard: ShardOption = None,
    slide_timeout: SlideTimeoutOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compute the features of the patches of bags with a frozen encoder.

    OUT receives a folder for each encoder, with a file for each slide in the layout of TRIDENT, and
    the encoder itself, so that a model can include it. The bags are not changed. Afterwards,
    milpath train --features OUT/ENCODER trains an attention head on them.
    """
    from milpath.cohort.workitem import WorkItem
    from milpath.formats.layout import encoder_folder, encoder_weights_path, list_bags
    from milpath.runs import Inline
    from milpath.store import require_permission

    items = [WorkItem(path, path.stem) for path in list_bags(bags)]
    patch_px, mpp = _read_grid(bags, items)
    colours = {"mean": _parse_colours("mean", mean), "std": _parse_colours("std", std)}
    _check_encoder(encoder, weights)
    _check_colours(encoder, colours)
    mine, _ = take_shard(items, shard)
    check_backend_options(workers, scheduler)
    require_permission(out)
    show_warnings()
    load_network()
    from milpath.nn.bundle import save_encoder
    from milpath.nn.embed import Embedder, name_folder
    from milpath.nn.encoder_choice import EncoderRequest, choose_encoder
    from milpath.nn.jobs import EmbedJob

    request = EncoderRequest(
        encoder,
        weights or "",
        variant,
        patch_px,
        mpp,
        compute=precision.value,
        seed=seed,
        **colours,
    )
    try:
        chosen = choose_encoder(request)
    except StoredFileError as error:
        raise UsageError(str(error)) from None
    spec = chosen.spec
    results = (out / name_folder(spec)).absolute()
    here = Embedder(chosen, results, dry_run=dry_run)
    folder = encoder_folder(results)
    if not dry_run:
        save_encoder(folder, chosen)
    params = {"encoder": spec.model_dump(mode="json"), "seed": seed}
    if spec.kind == "onnx":
        weights = encoder
    found = Path(weights).absolute() if weights else None
    stored = {"keras": [encoder_weights_path(folder)], "onnx": [Path(encoder)]}.get(spec.kind, [])
    files = [*stored, *(item.path for item in mine)]
    limit = None if dry_run else slide_timeout  # a dry run has no encoder that others could load
    with (
        open_backend(
            workers, scheduler, len(mine), results, files, timeout=limit, dry_run=dry_run
        ) as backend,
        open_run("embed", results, mine, params, as_json, dry_run=dry_run) as run,
    ):
        # other processes load the network from its folder
        away = EmbedJob(folder, spec.digest or "", results, found)
        job = here if isinstance(backend, Inline) else away
        run.do(job, backend)
    run.finish()


def _read_grid(folder: Path, items: Sequence[WorkItem]) -> tuple[int, float]:
    """Read the patch size and µm per pixel of the first readable bag; raise `UsageError`."""
    from milpath.formats.bag import Bag

    reason: StoredFileError | None = None
    for item in items:
        try:
            with Bag(item.path) as bag:
                grid = bag.header.params.grid
                return grid.patch_px, grid.mpp
        except StoredFileError as error:
            reason = error
    if reason is not None:
        raise UsageError(f"no readable bag: {reason}")
    raise UsageError(f"{folder}: no bags (*.h5) in this folder; run milpath tile first")


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


def _check_encoder(encoder: str, weights: str | None) -> None:
    """Raise `UsageError` for missing files, before Keras is loaded."""
    from milpath.formats.layout import encoder_spec_path
    from milpath.formats.model_spec import read_bundle_spec
    from milpath.registry import ENCODERS
    from milpath.registry.names import is_onnx, match_name
    from milpath.registry.weights import locate_weights
    from milpath.store.onnxfile import read_onnx

    folder = Path(encoder)
    if is_onnx(encoder):
        read_onnx(folder)
        return
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
    if name := match_name(encoder, ENCODERS):
        locate_weights(ENCODERS[name], Path(weights) if weights else None, download=True)
    elif weights not in (None, "imagenet", "random") and not Path(weights).is_file():
        raise UsageError(
            f"--weights {weights}: no such file; expected imagenet, random or a weights file"
        )
