"""`milpath view`."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from milpath.cli.console import SlideMppOption
from milpath.errors import UsageError

_QT_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")
_QT_ON_A_DISPLAY = ("", "xcb", "wayland", "wayland-egl")


def view(
    slide: Annotated[
        Path,
        typer.Argument(exists=True, help="Slide.", metavar="SLIDE", show_default=False),
    ],
    predictions: Annotated[
        list[Path] | None,
        typer.Argument(
            exists=True,
            help="Prediction files of the slide, made by milpath classify; several are compared.",
            metavar="[PREDICTION]...",
            show_default=False,
        ),
    ] = None,
    slide_mpp: SlideMppOption = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also show predictions that were made from another slide."),
    ] = False,
) -> None:
    """Open a slide in napari, with heatmaps of its predictions."""
    require_viewer()
    require_display()
    from napari_milpath.window import open_window

    open_window(slide, predictions or [], slide_mpp, force=force)


def require_viewer() -> None:
    """Raise `UsageError` unless the plugin, napari and Qt are installed."""
    installed = find_spec("napari_milpath") and find_spec("napari")
    if not installed or not any(map(find_spec, _QT_BINDINGS)):
        raise UsageError(
            "the viewer is not installed; from milpath's folder: "
            "pip install '.[napari]' ./plugins/napari-milpath"
        )


def require_display() -> None:
    """Raise `UsageError` where Qt would abort because there is no display (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    platform = os.environ.get("QT_QPA_PLATFORM", "").partition(":")[0]
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if platform in _QT_ON_A_DISPLAY and not has_display:
        raise UsageError(
            "there is no display (DISPLAY is not set); run milpath view in a desktop session or "
            "through ssh -X, or use milpath heatmap for a picture"
        )
