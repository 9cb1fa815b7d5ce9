"""`milpath embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milpath.cli.console import JsonOption, load_network, show_warnings
from milpath.cli.machines import (
    NetworkWorkersOption,
    SchedulerOption,
    ShardOption,
    open_backend,
    take_shard,
)
from milpath.cli.runs import DryRunOption, open_run
from milpath.errors import UsageError


def embed(
    bags: Annotated[
        Path, typer.Argument(help="Folder of bags.", metavar="BAGS", show_default=False)
    ],
    encoder: Annotated[
        str,
        typer.Option(
            help="A network of keras.applications by name (resnet50, efficientnetv2b0, ...), "
            "or a model folder, whose encoder is taken.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        str,
        typer.Option(
            help="imagenet (Keras downloads them once), a Keras weights file of the network "
            "without its top, or random (to try things out)."
        ),
    ] = "imagenet",
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Of random weights.")] = 0,
    workers: NetworkWorkersOption = 1,
    scheduler: SchedulerOption = None,
    shard: ShardOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn the patches of bags into embeddings, kept in the bags.

    Then milpath train --from features learns the attention head on them. The encoder is kept in
    BAGS/encoder, so that the model can take it along.
    """
    from milpath.formats.layout import encoder_folder, encoder_weights_path
    from milpath.runs import Inline

    show_warnings()
    load_network()
    from milpath.nn.bundle import save_encoder
    from milpath.nn.embed import Embedder, choose_encoder, find_bags
    from milpath.nn.jobs import EmbedJob

    entries = find_bags(bags)
    if not entries:
        raise UsageError(f"{bags}: no bags (*.h5) in this folder; run milpath tile first")
    mine, _ = take_shard(entries, shard)
    network, spec = choose_encoder(encoder, weights, entries, seed)
    here = Embedder(network, spec, dry_run=dry_run)
    folder = encoder_folder(bags).absolute()
    if not dry_run:
        save_encoder(folder, network, spec)
    params = {"encoder": spec.model_dump(mode="json"), "weights": here.fingerprint, "seed": seed}
    files = [encoder_weights_path(folder)]
    with (
        open_backend(workers, scheduler, len(mine), bags, files, dry_run=dry_run) as backend,
        open_run("embed", bags, mine, params, as_json, dry_run=dry_run) as run,
    ):
        # other processes load the network from its folder
        job = here if isinstance(backend, Inline) else EmbedJob(folder, here.fingerprint)
        run.do(job, backend)
    run.finish()
