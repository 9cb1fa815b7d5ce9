"""Small TIFF pyramids with known contents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffWriter

from milpath.patches.grid import PatchGrid
from milpath.slides.facts import SlideFacts

Pixels = NDArray[np.uint8]

FACTS = SlideFacts("süd-7", "aperio", 4000, 3000, 0.25, 0.251, "slide", 40.0, "c0ffee", None, 0, 0)
"""The record of a slide that does not exist."""


def write_levels(
    path: Path,
    levels: Sequence[Pixels],
    mpp: tuple[float, float] | None = (0.5, 0.5),
    description: str | None = None,
    compression: str = "zlib",
    subsampling: tuple[int, int] | None = None,
) -> Path:
    """Write a tiled TIFF of the given levels (rows, cols, 3); `mpp` is (x, y) of level 0.

    With "jpeg" as `compression` it is RGB without `subsampling`, and YCbCr with it.
    """
    with TiffWriter(path) as tiff:
        for index, level in enumerate(levels):
            down = levels[0].shape[1] / level.shape[1]
            tiff.write(
                level,
                tile=(256, 256),
                photometric="rgb" if subsampling is None else "ycbcr",
                compression=compression,
                subsampling=subsampling,
                subfiletype=1 if index else 0,
                resolution=None if mpp is None else (1e4 / mpp[0] / down, 1e4 / mpp[1] / down),
                resolutionunit=None if mpp is None else "CENTIMETER",
                description=None if index else description,
                metadata=None,
                software=False,
            )
    return path


def write_scn(path: Path, pixels: Pixels, canvas: tuple[int, int], corner: tuple[int, int]) -> Path:
    """Write a Leica slide of 0.5 µm per pixel, whose scanned bounds are a part of its canvas.

    Parameters
    ----------
    pixels : (rows, cols, 3), what was scanned
    canvas : (width, height)
    corner : (x, y) of what was scanned, on the canvas
    """
    rows, cols = pixels.shape[:2]
    nm = 500
    levels = [pixels, pixels[::4, ::4]]
    sizes = "".join(
        f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" r="{k}" ifd="{k}"/>'
        for k, level in enumerate(levels)
    )
    description = (
        '<?xml version="1.0"?>'
        '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="u">'
        f'<collection name="c" uuid="u" sizeX="{canvas[0] * nm}" sizeY="{canvas[1] * nm}">'
        '<barcode>x</barcode><image name="i" uuid="v">'
        "<creationDate>2020-01-01T00:00:00Z</creationDate>"
        '<device model="m" version="1"/>'
        f'<pixels sizeX="{cols}" sizeY="{rows}">{sizes}</pixels>'
        f'<view sizeX="{cols * nm}" sizeY="{rows * nm}" offsetX="{corner[0] * nm}" '
        f'offsetY="{corner[1] * nm}" spacingZ="0"/>'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>"
        "<illuminationSettings><numericalAperture>0.4</numericalAperture>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings>"
        "</scanSettings></image></collection></scn>"
    )
    with TiffWriter(path, bigtiff=True) as tiff:
        for index, level in enumerate(levels):
            tiff.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                subfiletype=1 if index else 0,
                resolution=(2e4 / 4**index, 2e4 / 4**index),
                resolutionunit="CENTIMETER",
                description=None if index else description,
                metadata=None,
                software=False,
            )
    return path


def noise(rows: int, cols: int, seed: int = 0) -> Pixels:
    """Return an image of independent random pixels, the hardest to compress and to resample."""
    return np.random.default_rng(seed).integers(0, 256, (rows, cols, 3), dtype=np.uint8)


def damage_tile(path: Path, *tiles: int, level: int = 0) -> None:
    """Overwrite the bytes of tiles, given by their index in row-major order."""
    with TiffFile(path) as tiff:
        page = tiff.pages[level]
        spans = [(page.dataoffsets[tile], page.databytecounts[tile]) for tile in tiles]
    with path.open("r+b") as file:
        for offset, count in spans:
            file.seek(offset)
            file.write(b"\xff" * count)


def lose_tile(path: Path, tile: int, level: int = 0) -> None:
    """Set a tile's byte count to 0, as scanners do for tiles that they did not scan."""
    with TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages[level].tags["TileByteCounts"]
        counts = list(tag.value)
        counts[tile] = 0
        tag.overwrite(counts)


def grid_of(count: int, patch_px: int = 32, across: int = 10) -> PatchGrid:
    """Return the first patches of a grid that fits `FACTS`."""
    row, col = np.divmod(np.arange(count, dtype=np.int64), across)
    coords = np.stack([col * 64 + 20, row * 64 + 40], axis=1)
    return PatchGrid(coords, patch_px, 64, 64, (20, 40), 0.5, 0)
