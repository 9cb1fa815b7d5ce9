"""What the viewer's tests and its benchmark display: a million patches, a very large slide."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
from napari import Viewer
from napari.layers import Layer
from qtpy.QtWidgets import QApplication
from tifffile import TiffFile, TiffWriter

from milpath.formats.prediction import Prediction
from milpath.patches.grid import PatchGrid
from milpath.slides.facts import SlideFacts
from milpath.slides.slide import Slide
from napari_milpath.layers import slide_layer
from napari_milpath.pyramid import Pyramid

SIDE = 1 << 16
"""Side of the large slide, pixels of level 0."""

_TILE = 256
_PATCH = 100


def write_large_slide(path: Path, side: int = SIDE) -> Path:
    """Write a square TIFF slide with downsamples 1, 4, 16 and 64.

    All tiles of a level point to the same bytes, so that 65,536 px take 1 MB.
    """
    tile = np.random.default_rng(0).integers(0, 256, (_TILE, _TILE, 3), dtype=np.uint8)
    jpeg = imagecodecs.jpeg8_encode(tile, level=60)
    levels = [side >> (2 * level) for level in range(4)]
    with TiffWriter(path, bigtiff=True) as tiff:
        for index, length in enumerate(levels):
            count = (length // _TILE) ** 2
            tiff.write(
                iter([jpeg] + [b"\0"] * (count - 1)), shape=(length, length, 3), dtype=np.uint8,
                tile=(_TILE, _TILE), photometric="rgb", compression="jpeg", metadata=None,
                subfiletype=min(index, 1), resolution=(2e4 / 4**index,) * 2,
                resolutionunit="CENTIMETER",
            )  # fmt: skip
    with TiffFile(path, mode="r+b") as tiff:
        for page in tiff.pages:
            for name in ("TileOffsets", "TileByteCounts"):
                tag = page.tags[name]  # type: ignore[union-attr]
                tag.overwrite([tag.value[0]] * len(tag.value))
    return path


def make_prediction(side: int = 1000) -> Prediction:
    """Make a prediction of `side` x `side` patches on a slide that has no file."""
    rng = np.random.default_rng(0)
    rows, cols = np.divmod(np.arange(side * side, dtype=np.int64), side)
    coords = np.stack([cols, rows], axis=1) * _PATCH
    attention = rng.random((1, side * side))
    attention /= attention.sum()
    extent = side * _PATCH
    return Prediction(
        slide=SlideFacts("million", "none", extent, extent, 0.5, 0.5, "slide", None, "none"),
        grid=PatchGrid(coords, _PATCH, _PATCH, _PATCH, (0, 0), 0.5, 0),
        status="ok",
        class_names=("normal", "tumour"),
        member_attention=attention,
        member_contributions=attention[..., None] * rng.normal(size=(1, side * side, 2)),
        member_bias=np.zeros((1, 2)),
        model="none",
    )


def draw_frame(viewer: Viewer) -> None:
    """Handle all events and draw the canvas: what a user sees after a change."""
    QApplication.processEvents()
    viewer.screenshot(flash=False)


def count_pan_reads(viewer: Viewer, slide: Slide, pans: int = 100) -> int:
    """Count the tiles of level 0 read by pans of 20 canvas pixels, after the first view."""
    pyramid = Pyramid(slide)
    viewer.layers.clear()
    viewer.add_layer(Layer.create(*slide_layer(pyramid)))
    camera, step = viewer.scene.camera, slide.mpp[0]
    camera.zoom, camera.center = 1 / step, (0, 15_000, 10_000)
    draw_frame(viewer)
    before = pyramid.reads[0]
    assert before > 0
    for _ in range(pans):
        camera.center = (0, camera.center[1], camera.center[2] + 20 * step)
        draw_frame(viewer)
    return pyramid.reads[0] - before
