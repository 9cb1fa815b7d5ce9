"""Take the screenshot of the viewer in the READMEs: `xvfb-run -a python scripts/screenshot.py`.

It shows the sample slide, its attention, and the gallery of its strongest patches, or any slide
with its predictions; `--tab` and `--zoom` show other parts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import napari
from PIL import Image
from qtpy.QtWidgets import QApplication

from napari_milpath.panel import Panel
from napari_milpath.window import fill_viewer

OUT = Path(__file__).resolve().parents[1] / "docs" / "viewer.png"
TABS = ("inspect", "gallery", "classify")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path, nargs="?", help="default: the sample slide")
    parser.add_argument("predictions", type=Path, nargs="*")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--tab", choices=TABS, default="gallery")
    parser.add_argument("--zoom", action="store_true", help="zoom to the strongest patch")
    options = parser.parse_args()
    viewer = napari.Viewer(title="milpath")
    viewer.window.resize(1260, 720)
    panel = open_files(viewer, options.slide, options.predictions)
    panel.tabs.setCurrentIndex(TABS.index(options.tab))
    if options.tab == "classify":
        panel.classify_tab.show_tissue()
    settle()
    viewer.reset_view()
    panel.selection.step(1)
    panel.selection.mark("relevant")
    if not options.zoom:
        viewer.reset_view()
    settle()
    pixels = viewer.screenshot(canvas_only=False, flash=False)
    Image.fromarray(pixels[..., :3]).save(options.out, optimize=True)
    viewer.close()


def open_files(viewer: napari.Viewer, slide: Path | None, predictions: list[Path]) -> Panel:
    """Open a slide and its predictions, or the sample, with the panel."""
    if slide is not None:
        return fill_viewer(viewer, slide, predictions)
    viewer.open_sample("napari-milpath", "synthetic")
    panel = Panel(viewer)
    viewer.window.add_dock_widget(panel, name="milpath", area="right")
    return panel


def settle(seconds: float = 3.0) -> None:
    """Process events until the window is drawn and the thumbnails are loaded."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()


if __name__ == "__main__":
    main()
