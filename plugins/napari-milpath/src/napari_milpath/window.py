"""Viewer window with a slide and its predictions, for `milpath view`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import napari
from napari.layers import Layer
from qtpy.QtCore import QTimer

from milpath.formats.prediction import read_prediction
from milpath.slides.slide import Slide
from napari_milpath.layers import pyramid_of, require_same_slide
from napari_milpath.panel import Panel
from napari_milpath.reader import read_attention, read_slide

TITLE = "milpath"


def open_window(
    slide: Path, predictions: Sequence[Path], mpp: float | None = None, *, force: bool = False
) -> None:
    """Show a slide and its predictions; return when the window is closed.

    Parameters
    ----------
    slide, predictions : files
    mpp : µm per pixel that replaces the slide's own
    force : also show predictions of a different slide

    Raises
    ------
    SlideError, StoredFileError, UsageError : as the reader, before the window opens
    """
    Slide(slide).close()
    viewer = napari.Viewer(title=TITLE, show=False)
    try:
        fill_viewer(viewer, slide, predictions, mpp, force=force)
    except Exception:
        viewer.close()
        raise
    viewer.show()
    QTimer.singleShot(0, viewer.reset_view)  # after the window has its final size
    napari.run()


def fill_viewer(
    viewer: napari.Viewer,
    slide: Path,
    predictions: Sequence[Path],
    mpp: float | None = None,
    *,
    force: bool = False,
) -> Panel:
    """Add a slide, its predictions and the panel to a viewer; see `open_window`."""
    found = [read_prediction(each) for each in predictions]
    layer = Layer.create(*read_slide(slide, mpp))
    pyramid = pyramid_of(layer)
    assert pyramid is not None
    for each in found:
        if not force:
            require_same_slide(pyramid, each)
    viewer.add_layer(layer)
    for each in found:
        viewer.add_layer(Layer.create(*read_attention(each)))
    panel = Panel(viewer)
    viewer.window.add_dock_widget(panel, name=TITLE, area="right")
    viewer.reset_view()
    return panel
