"""`milpath view`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from milpath.cli.console import SlideMppOption
from milpath.errors import UsageError


def view(
    slide: Annotated[Path, typer.Argument(help="A slide.", metavar="SLIDE", show_default=False)],
    predictions: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Predictions of it, to look at and to compare.",
            metavar="[PREDICTION]...",
            show_default=False,
        ),
    ] = None,
    slide_mpp: SlideMppOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Show predictions that were made of another slide.")
    ] = False,
) -> None:
    """Open a slide in napari, and over it where a model found its evidence."""
    if find_spec("napari_milpath") is None:
        raise UsageError(
            "the viewer is not installed; from milpath's folder: "
            "pip install '.[napari]' ./plugins/napari-milpath"
        )
    from napari_milpath.window import open_window

    open_window(slide, predictions or [], slide_mpp, force=force)
