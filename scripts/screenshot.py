"""Take the picture of the viewer that the READMEs show: `xvfb-run -a python scripts/screenshot.py`.

The sample slide, its attention, and the gallery of its strongest patches.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import napari
from PIL import Image
from qtpy.QtWidgets import QApplication

from napari_milpath.panel import Panel
from napari_milpath.window import show_scale_bar

OUT = Path(__file__).resolve().parents[1] / "docs" / "viewer.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out: Path = parser.parse_args().out
    viewer = napari.Viewer(title="milpath")
    viewer.window.resize(1260, 720)
    viewer.open_sample("napari-milpath", "drawn")
    show_scale_bar(viewer)
    panel = Panel(viewer)
    viewer.window.add_dock_widget(panel, name="milpath", area="right")
    panel.tabs.setCurrentWidget(panel.gallery)
    settle()
    viewer.reset_view()
    panel.album.step(1)
    panel.album.mark("relevant")
    viewer.reset_view()
    settle()
    pixels = viewer.screenshot(canvas_only=False, flash=False)
    Image.fromarray(pixels[..., :3]).save(out, optimize=True)
    viewer.close()


def settle(seconds: float = 3.0) -> None:
    """Let the window draw itself and the thumbnails come."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()


if __name__ == "__main__":
    main()
