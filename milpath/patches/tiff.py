"""TiffLevel: a pyramid level whose tiles are decoded straight from its TIFF file.

OpenSlide remains the reference: a level is read directly only after some of its tiles, those that
hold the most detail, have come out exactly as OpenSlide gives them (to two grey levels where a
downsample is no whole number, as OpenSlide then interpolates). What cannot be decoded here is for
OpenSlide to read or to refuse.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from simplejpeg import decode_jpeg
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from milpath.errors import SlideReadError
from milpath.slides.slide import Slide

log = logging.getLogger(__name__)

_RGB_MARKER = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # of Adobe's: no YCbCr
_COMPRESSIONS = (COMPRESSION.NONE, COMPRESSION.JPEG, COMPRESSION.ADOBE_DEFLATE)
_PROBES = 3  # tiles that are compared
_ALIGNED = 1 / 256  # of a level's pixel; OpenSlide interpolates what is further off the pixels

Pixels = NDArray[np.uint8]


class TiffLevel:
    """One level of a tiled RGB TIFF; may be read by several threads at a time.

    Attributes
    ----------
    size : (width, height) of the level
    tile : (width, height) of a tile
    counts : array (rows, cols), bytes of each tile in the file, 0 where a tile is missing
    """

    def __init__(self, path: Path, page: TiffPage) -> None:
        self.size = int(page.imagewidth), int(page.imagelength)
        self.tile = int(page.tilewidth), int(page.tilelength)
        across, down = (-(-size // tile) for size, tile in zip(self.size, self.tile, strict=True))
        self.counts = np.asarray(page.databytecounts, np.int64).reshape(down, across)
        self._offsets = page.dataoffsets
        self._decode = _choose_decoder(page)
        self._file = path.open("rb", buffering=0)
        self._turn = threading.Lock()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_tile(self, row: int, col: int) -> Pixels | None:
        """A tile (height, width, 3), uncut at the level's edge; None where it is not to be had."""
        index = row * self.counts.shape[1] + col
        count = int(self.counts[row, col])
        with self._turn:
            self._file.seek(self._offsets[index])
            data = self._file.read(count)
        if count == 0 or len(data) < count:
            return None
        try:
            pixels = self._decode(data)
        except Exception:  # every codec has its own
            return None
        return pixels if pixels.shape == (self.tile[1], self.tile[0], 3) else None


def _choose_decoder(page: TiffPage) -> Callable[[bytes], Pixels]:
    """From a tile's bytes to its pixels; the decoder raises where the bytes are damaged."""
    if page.compression != COMPRESSION.JPEG:
        decode = page.decode
        return lambda data: np.asarray(decode(data, 0, _fullsize=True)[0])[0]
    # an abbreviated stream: start of image, then the tables that all tiles share, then the tile
    head = b"\xff\xd8" + (_RGB_MARKER if page.photometric == PHOTOMETRIC.RGB else b"")
    head += (page.jpegtables or b"")[2:-2]
    # strict, as OpenSlide is: libjpeg only warns of most damage and goes on with invented pixels
    return lambda data: np.asarray(decode_jpeg(head + data[2:], strict=True))


def open_tiff_level(slide: Slide, level: int) -> TiffLevel | None:
    """A level to be read directly; None where only OpenSlide can be trusted with it."""
    try:
        with TiffFile(slide.path) as tiff:
            size = slide.level_dimensions[level]
            found = [
                page for page in tiff.pages if isinstance(page, TiffPage) and _fits(page, size)
            ]
            if len(found) != 1:
                return None
            native = TiffLevel(slide.path, found[0])
    except Exception:  # not a TIFF, or one that tifffile stumbles over in one of its many ways
        return None
    if _agrees(slide, level, native):
        return native
    native.close()
    log.info("%s: level %d is read through OpenSlide", slide.slide_id, level)
    return None


def _fits(page: TiffPage, size: tuple[int, int]) -> bool:
    """Whether a page is a level of this size and holds plain tiles of RGB."""
    return (
        page.is_tiled
        and (page.imagewidth, page.imagelength) == size
        and (page.samplesperpixel, page.planarconfig, page.tiledepth) == (3, 1, 1)
        and page.dtype == np.uint8
        and page.compression in _COMPRESSIONS
    )


def _agrees(slide: Slide, level: int, native: TiffLevel) -> bool:
    """Whether the tiles with the most detail are those that OpenSlide shows."""
    downsample = slide.level_downsamples[level]
    tolerance = 0 if downsample.is_integer() else 2
    starts = [_aligned(downsample, *each) for each in zip(native.size, native.tile, strict=True)]
    detail = native.counts * np.outer(starts[1] >= 0, starts[0] >= 0)
    compared = 0
    for index in np.argsort(detail, axis=None)[::-1][:_PROBES]:
        row, col = (int(each) for each in np.unravel_index(index, detail.shape))
        x, y = int(starts[0][col]), int(starts[1][row])
        tile = native.read_tile(row, col) if detail[row, col] else None
        if tile is None:
            continue  # damaged or missing: left to OpenSlide whenever a patch needs it
        own = _cut(tile, native, x, y)
        try:
            at = round(x * downsample), round(y * downsample)
            shown = slide.read_level(at, level, (own.shape[1], own.shape[0]))
        except SlideReadError:
            return False
        if np.abs(own.astype(np.int16) - shown).max() > tolerance:
            return False
        compared += 1
    return compared > 0


def _cut(tile: Pixels, native: TiffLevel, x: int, y: int) -> Pixels:
    """The part of a tile from a pixel of the level on, without what lies beyond the level."""
    (width, height), (across, down) = native.tile, native.size
    part = tile[y % height :, x % width :]
    return part[: down - y, : across - x]


def _aligned(downsample: float, size: int, tile: int) -> NDArray[np.int64]:
    """For each tile along an axis its first pixel that begins at a level-0 pixel; -1 for none."""
    pixels = np.arange(size)
    off = np.rint(pixels * downsample) / downsample - pixels
    good = pixels[(off > -1e-6) & (off < _ALIGNED)]
    first = np.full(-(-size // tile), -1)
    first[good[::-1] // tile] = good[::-1]
    return first
