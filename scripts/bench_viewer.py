"""Measure the viewer's response times: `xvfb-run -a python scripts/bench_viewer.py [--repeats 5]`.

One JSON line per result: wall-clock and processor seconds, each as median and minimum over the
repeats. The plugin's tests count the same work instead; no test depends on these times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import napari
import numpy as np
from bench_tools import Spent, interleave, say
from napari import Viewer
from napari.layers import Layer

from milpath.formats.prediction import Prediction
from milpath.slides.slide import Slide
from napari_milpath.inspection import Inspection
from napari_milpath.layers import slide_layer
from napari_milpath.panel import Panel
from napari_milpath.pyramid import Pyramid
from napari_milpath.reader import read_attention

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support.viewing import SIDE, count_pan_reads, draw_frame, make_prediction, write_large_slide

TARGETS = {"layer and first frame": 1.5, "threshold and frame": 0.2, "hover": 1e-3, "open": 1.5}
"""Seconds that each should take at most, for a million patches and a slide of `SIDE` px."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    viewer = napari.Viewer(title="milpath")
    viewer.window.resize(1100, 800)
    draw_frame(viewer)
    for name, spent in time_patches(viewer, make_prediction(), repeats).items():
        report(name, spent, patches=1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        path = write_large_slide(Path(folder) / "s.tif")
        with Slide(path) as slide:
            report("open", time_opening(viewer, slide, repeats), side=SIDE)
            tiles = count_pan_reads(viewer, slide)
            say(what="tiles of level 0 read by 100 pans of 20 px", tiles=tiles)
            viewer.layers.clear()
    viewer.close()


def report(name: str, spent: Spent, **about: int) -> None:
    """Print one result."""
    both = {"wall": spent.seconds, "processor": spent.cpu}
    figures = {
        f"{clock}_{which}_s": float(f"{of(times):.3g}")
        for clock, times in both.items()
        for which, of in (("median", statistics.median), ("least", min))
    }
    say(what=name, **about, **figures, target_s=TARGETS[name])


def time_patches(viewer: Viewer, prediction: Prediction, repeats: int) -> dict[str, Spent]:
    """Time adding a prediction's layer, moving the threshold (both with a frame), and hovering."""

    def add() -> None:
        viewer.layers.clear()
        viewer.add_layer(Layer.create(*read_attention(prediction)))
        draw_frame(viewer)

    first = time_one(add, repeats)
    panel = Panel(viewer)
    draw_frame(viewer)
    thresholds = cycle(range(10, 100, 10))

    def move() -> None:
        panel.inspector.threshold.setValue(next(thresholds))
        draw_frame(viewer)

    moved = time_one(move, repeats)
    hovered = time_hover(panel.inspection, repeats)
    panel.stop()
    panel.deleteLater()
    viewer.layers.clear()
    return {"layer and first frame": first, "threshold and frame": moved, "hover": hovered}


def time_hover(inspection: Inspection, repeats: int, points: int = 300) -> Spent:
    """Time finding and describing the patch under the mouse, seconds per point."""
    assert inspection.source is not None
    slide = inspection.source.prediction.slide
    extent_um = slide.mpp_x * slide.width_l0
    positions = np.random.default_rng(5).uniform(0, extent_um, (points, 2)).tolist()

    def hover() -> None:
        for position in positions:
            inspection.describe_patch(inspection.patch_at(tuple(position)))

    spent = time_one(hover, repeats)
    return Spent([each / points for each in spent.seconds], [each / points for each in spent.cpu])


def time_opening(viewer: Viewer, slide: Slide, repeats: int) -> Spent:
    """Time opening a slide, with its first frame."""

    def show() -> None:
        viewer.layers.clear()
        viewer.add_layer(Layer.create(*slide_layer(Pyramid(slide))))
        draw_frame(viewer)

    return time_one(show, repeats)


def time_one(work: Callable[[], object], repeats: int) -> Spent:
    """Time one piece of work."""
    return interleave({"work": work}, repeats)["work"]


if __name__ == "__main__":
    main()
