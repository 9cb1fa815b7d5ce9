"""`milpath embed`."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
            help="Encoder: the name of a keras.applications network (resnet50, "
            "efficientnetv2b0, ...), or a model folder made by milpath train, to use its "
            "encoder.",
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
        str,
        typer.Option(
            help="Weights of a named network: imagenet (downloaded once by Keras), a Keras "
            "weights file without the top layers, or random (for testing only)."
        ),
    ] = "imagenet",
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
    _check_bags(bags, items)
    _check_encoder(encoder, weights)
    mine, _ = take_shard(items, shard)
    check_backend_options(workers, scheduler)
    require_permission(out)
    show_warnings()
    load_network()
    from milpath.nn.bundle import save_encoder
    from milpath.nn.embed import Embedder, choose_encoder, name_folder
    from milpath.nn.jobs import EmbedJob

    network, spec = choose_encoder(encoder, weights, items, seed)
    results = (out / name_folder(spec)).absolute()
    here = Embedder(network, spec, results, dry_run=dry_run)
    folder = encoder_folder(results)
    if not dry_run:
        save_encoder(folder, network, spec)
    params = {"encoder": spec.model_dump(mode="json"), "seed": seed}
    files = [encoder_weights_path(folder), *(item.path for item in mine)]
    limit = None if dry_run else slide_timeout  # a dry run has no encoder that others could load
    with (
        open_backend(
            workers, scheduler, len(mine), results, files, timeout=limit, dry_run=dry_run
        ) as backend,
        open_run("embed", results, mine, params, as_json, dry_run=dry_run) as run,
    ):
        # other processes load the network from its folder
        job = here if isinstance(backend, Inline) else EmbedJob(folder, spec.digest or "", results)
        run.do(job, backend)
    run.finish()


def _check_bags(folder: Path, items: Sequence[WorkItem]) -> None:
    """Raise `UsageError` unless a bag can be read."""
    from milpath.formats.bag import Bag

    reason: StoredFileError | None = None
    for item in items:
        try:
            with Bag(item.path):
                return
        except StoredFileError as error:
            reason = error
    if reason is not None:
        raise UsageError(f"no readable bag: {reason}")
    raise UsageError(f"{folder}: no bags (*.h5) in this folder; run milpath tile first")


def _check_encoder(encoder: str, weights: str) -> None:
    """Raise `UsageError` for missing files, before Keras is loaded."""
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
            f"--encoder {encoder}: no such folder; expected a model folder, or the name of a "
            "network of keras.applications"
        )
    if weights not in ("imagenet", "random") and not Path(weights).is_file():
        raise UsageError(
            f"--weights {weights}: no such file; expected imagenet, random or a weights file"
        )
