"""How long one waits for the viewer: `xvfb-run -a python scripts/bench_viewer.py [--repeats 5]`.

One JSON line a figure: seconds by the clock and of the processor, each the median and the least of
the repeats. The plugin's tests run the same and hold the processor's seconds to their limits: what
else the machine does is not in them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import imagecodecs
import napari
import numpy as np
from bench_tools import TILE, Spent, interleave, say
from napari import Viewer
from napari.layers import Layer
from qtpy.QtWidgets import QApplication
from tifffile import TiffFile, TiffWriter

from milpath.formats.prediction import Prediction
from milpath.patches.grid import PatchGrid
from milpath.slides.slide import Slide, SlideFacts
from napari_milpath.inspection import Inspection
from napari_milpath.layers import slide_layer
from napari_milpath.panel import Panel
from napari_milpath.pyramid import Pyramid
from napari_milpath.reader import read_attention

SIDE = 1 << 16
PATCH = 100
LIMITS = {"layer and first frame": 1.5, "threshold and frame": 0.2, "hover": 1e-3, "open": 1.5}
"""Seconds that are allowed, for a million patches and a slide of `SIDE` px."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    viewer = napari.Viewer(title="milpath")
    viewer.window.resize(1100, 800)
    draw_frame(viewer)
    for name, spent in time_patches(viewer, predict_million(), repeats).items():
        tell(name, spent, patches=1_000_000)
    with tempfile.TemporaryDirectory() as folder, Slide(draw_endless(Path(folder) / "s.tif")) as s:
        tell("open", time_opening(viewer, s, repeats), side=SIDE)
        say(what="tiles of full size read by 100 pans of 20 px", tiles=count_pans(viewer, s))
        viewer.layers.clear()
    viewer.close()


def tell(name: str, spent: Spent, **about: int) -> None:
    """One JSON line."""
    both = {"wall": spent.seconds, "processor": spent.cpu}
    figures = {
        f"{clock}_{which}_s": float(f"{of(times):.3g}")
        for clock, times in both.items()
        for which, of in (("median", statistics.median), ("least", min))
    }
    say(what=name, **about, **figures, limit_s=LIMITS[name])


def draw_frame(viewer: Viewer) -> None:
    """What a user sees after a change: all events handled, and the canvas drawn to the end."""
    QApplication.processEvents()
    viewer.screenshot(flash=False)


# -- what is looked at ----------------------------------------------------------------------------


def draw_endless(path: Path, side: int = SIDE) -> Path:
    """A slide with levels of 1, 4, 16 and 64 whose tiles are all one and the same of the file."""
    tile = np.random.default_rng(0).integers(0, 256, (TILE, TILE, 3), dtype=np.uint8)
    jpeg = imagecodecs.jpeg8_encode(tile, level=60)
    levels = [side >> (2 * level) for level in range(4)]
    with TiffWriter(path, bigtiff=True) as tiff:
        for index, length in enumerate(levels):
            count = (length // TILE) ** 2
            tiff.write(
                iter([jpeg] + [b"\0"] * (count - 1)), shape=(length, length, 3), dtype=np.uint8,
                tile=(TILE, TILE), photometric="rgb", compression="jpeg", metadata=None,
                subfiletype=min(index, 1), resolution=(2e4 / 4**index,) * 2,
                resolutionunit="CENTIMETER",
            )  # fmt: skip
    with TiffFile(path, mode="r+b") as tiff:
        for page in tiff.pages:
            for name in ("TileOffsets", "TileByteCounts"):
                tag = page.tags[name]  # type: ignore[union-attr]
                tag.overwrite([tag.value[0]] * len(tag.value))
    return path


def predict_million(side: int = 1000) -> Prediction:
    """A prediction of a lattice of patches on a slide that does not exist."""
    rng = np.random.default_rng(0)
    rows, cols = np.divmod(np.arange(side * side, dtype=np.int64), side)
    grid = PatchGrid(np.stack([cols, rows], axis=1) * PATCH, PATCH, PATCH, PATCH, (0, 0), 0.5, 0)
    attention = rng.random((1, side * side))
    attention /= attention.sum()
    extent = side * PATCH
    return Prediction(
        slide=SlideFacts("million", "none", extent, extent, 0.5, 0.5, "slide", None, "none"),
        grid=grid,
        status="ok",
        class_names=("normal", "tumour"),
        member_attention=attention,
        member_contributions=attention[..., None] * rng.normal(size=(1, side * side, 2)),
        member_bias=np.zeros((1, 2)),
        model="none",
    )


# -- what is timed ---------------------------------------------------------------------------------


def time_patches(viewer: Viewer, prediction: Prediction, repeats: int) -> dict[str, Spent]:
    """Adding a prediction's layer, moving its threshold, and hovering, each to what is seen."""

    def add() -> None:
        viewer.layers.clear()
        viewer.add_layer(Layer.create(*read_attention(prediction)))
        draw_frame(viewer)

    first = time_one(add, repeats)
    panel = Panel(viewer)
    draw_frame(viewer)
    places = cycle(range(10, 100, 10))

    def move() -> None:
        panel.inspector.threshold.setValue(next(places))
        draw_frame(viewer)

    moved = time_one(move, repeats)
    hovered = time_hover(panel.inspection, repeats)
    panel.stop()
    panel.deleteLater()
    viewer.layers.clear()
    return {"layer and first frame": first, "threshold and frame": moved, "hover": hovered}


def time_hover(inspection: Inspection, repeats: int, points: int = 300) -> Spent:
    """Finding the patch under the mouse and saying all of it, seconds a point."""
    assert inspection.voice is not None
    slide = inspection.voice.prediction.slide
    reach = slide.mpp_x * slide.width_l0
    places = np.random.default_rng(5).uniform(0, reach, (points, 2)).tolist()

    def hover() -> None:
        for place in places:
            inspection.say_patch(inspection.patch_at(tuple(place)))

    spent = time_one(hover, repeats)
    return Spent([each / points for each in spent.seconds], [each / points for each in spent.cpu])


def time_opening(viewer: Viewer, slide: Slide, repeats: int) -> Spent:
    """Opening a slide, to its first frame."""

    def show() -> None:
        viewer.layers.clear()
        viewer.add_layer(Layer.create(*slide_layer(Pyramid(slide))))
        draw_frame(viewer)

    return time_one(show, repeats)


def count_pans(viewer: Viewer, slide: Slide) -> int:
    """Tiles of level 0 that 100 pans of 20 canvas pixels read, beyond those first shown."""
    pyramid = Pyramid(slide)
    viewer.layers.clear()
    viewer.add_layer(Layer.create(*slide_layer(pyramid)))
    camera, step = viewer.scene.camera, slide.mpp[0]
    camera.zoom, camera.center = 1 / step, (0, 15_000, 10_000)
    draw_frame(viewer)
    before = pyramid.reads[0]
    assert before > 0
    for _ in range(100):
        camera.center = (0, camera.center[1], camera.center[2] + 20 * step)
        draw_frame(viewer)
    return pyramid.reads[0] - before


def time_one(work: Callable[[], object], repeats: int) -> Spent:
    """One piece of work by itself."""
    return interleave({"work": work}, repeats)["work"]


if __name__ == "__main__":
    main()
