"""`milpath demo`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from milpath.cli.console import JsonOption, load_network, progress, show_warnings
from milpath.cli.machines import processors

_OUT = Path("milpath-demo")
_MAX = (1 << 22) - 1  # slides have seeds of their own, a thousand for each


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")] = _OUT,
    seed: Annotated[int, typer.Option(min=0, max=_MAX, help="Random seed.")] = 0,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Fewer and smaller slides: about a minute.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the end-to-end demo on synthetic slides: tile, train, classify, heatmap. Needs no data.

    Makes synthetic slides, some with a tumour, trains on their labels alone, classifies other
    slides, and measures whether attention finds the tumour. Open OUT/index.html afterwards. Takes a
    few minutes on two CPUs.
    """
    from milpath.demo import FULL, QUICK, require_demo_folder, run_demo

    show_warnings()
    require_demo_folder(out)
    load_network()
    size = QUICK if quick else FULL
    with progress("demo", size.steps) as advance:
        result = run_demo(out, seed, advance, processors(), size)
    if as_json:
        print(json.dumps(asdict(result)))
        return
    print(f"AUC on {result.unseen_slides} unseen slides: {result.auc:.3f}")
    print(f"attention finds planted tumour patches: AUC {result.attention_auc:.3f}")
    print(f"took {result.seconds:.0f} s; open {out / 'index.html'}")
