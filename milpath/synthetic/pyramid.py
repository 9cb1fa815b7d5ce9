"""Pyramid: write an RGB picture as a tiled pyramidal TIFF that OpenSlide opens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.store import publish

TILE_PX = 256
JPEG_QUALITY = 85
SMALLEST_PX = 256
"""The pyramid ends with the first reduced level whose longer side is at most this."""


def write_pyramid(path: Path, rgb: NDArray[np.uint8], mpp: float | None) -> None:
    """Write `rgb` [row, col, channel] whole or not at all; `mpp=None` leaves out the resolution.

    Reduced levels are further pages, each reduced exactly 4 times and rounded up to whole pixels: a
    side that 4 does not divide makes the ratio of the sizes fractional, as in scanners' files.
    """
    from tifffile import TiffWriter

    with publish(path) as file, TiffWriter(file) as tiff:
        for index, level in enumerate(_levels(rgb)):
            level_mpp = None if mpp is None else mpp * rgb.shape[1] / level.shape[1]
            tiff.write(
                _tiles(level),
                shape=level.shape,
                dtype=level.dtype,
                tile=(TILE_PX, TILE_PX),
                # "ycbcr" on RGB data would silently write wrong colours.
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY},
                subfiletype=1 if index else 0,
                resolution=None if level_mpp is None else (1e4 / level_mpp, 1e4 / level_mpp),
                resolutionunit=None if level_mpp is None else "CENTIMETER",
                metadata=None,
                software=False,  # no program, no date: the same picture is the same bytes
            )


def _levels(rgb: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield level 0 and the reduced levels, at least one of them."""
    from PIL import Image

    yield rgb
    image = Image.fromarray(rgb)
    while True:
        size = (-(-image.width // 4), -(-image.height // 4))
        whole = _extend(np.asarray(image), 4)  # else resizing would stretch the picture
        image = Image.fromarray(whole).resize(size, Image.Resampling.HAMMING)
        yield np.asarray(image)
        if max(size) <= SMALLEST_PX:
            return


def _tiles(level: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield whole tiles row by row; edge tiles repeat the last pixel (black would ring in JPEG)."""
    rows, cols = level.shape[:2]
    padded = _extend(level, TILE_PX)
    for row in range(0, rows, TILE_PX):
        for col in range(0, cols, TILE_PX):
            yield padded[row : row + TILE_PX, col : col + TILE_PX]


def _extend(rgb: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Repeat the last row and column until the sides are multiples of `factor`."""
    rows, cols = rgb.shape[:2]
    return np.pad(rgb, ((0, -rows % factor), (0, -cols % factor), (0, 0)), mode="edge")
