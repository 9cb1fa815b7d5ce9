"""TiffLevel: a pyramid level whose tiles are decoded directly from its TIFF file.

OpenSlide remains the reference: a level is read directly only if some of its tiles, those with the
most detail, decode to exactly what OpenSlide returns (within two grey levels if the downsample is
not a whole number, as OpenSlide then interpolates). What cannot be decoded here is left to
OpenSlide.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from simplejpeg import decode_jpeg
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from milpath.errors import SlideReadError
from milpath.slides.closing import Closing
from milpath.slides.slide import Slide

log = logging.getLogger(__name__)

_RGB_MARKER = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # Adobe segment: RGB, not YCbCr
_COMPRESSIONS = (COMPRESSION.NONE, COMPRESSION.JPEG, COMPRESSION.ADOBE_DEFLATE)
_PROBES = 3  # number of tiles that are compared
_OTHER_PICTURE = 16  # grey levels; decoders that round differently have at most 2 on average
_ALIGNED = 1 / 256  # of a level's pixel; OpenSlide interpolates at larger offsets

Pixels = NDArray[np.uint8]


class TiffLevel(Closing):
    """One level of a tiled RGB TIFF; several threads may read it at the same time.

    Attributes
    ----------
    size : (width, height) of the level
    tile : (width, height) of a tile
    counts : array (rows, cols), bytes of each tile in the file, 0 if the tile is missing
    """

    def __init__(self, path: Path, page: TiffPage) -> None:
        self.size = int(page.imagewidth), int(page.imagelength)
        self.tile = int(page.tilewidth), int(page.tilelength)
        across, down = (-(-size // tile) for size, tile in zip(self.size, self.tile, strict=True))
        self.counts = np.asarray(page.databytecounts, np.int64).reshape(down, across)
        self._offsets = page.dataoffsets
        self._decode = _choose_decoder(page)
        self._file = path.open("rb", buffering=0)
        self._file_lock = threading.Lock()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read_tile(self, row: int, col: int) -> Pixels | None:
        """Read a tile (height, width, 3), complete at the level's edge; None if not available."""
        index = row * self.counts.shape[1] + col
        count = int(self.counts[row, col])
        try:
            with self._file_lock:
                self._file.seek(self._offsets[index])
                data = self._file.read(count)
        except OSError:  # the file is gone; OpenSlide's reader waits for it
            return None
        if count == 0 or len(data) < count:
            return None
        try:
            pixels = self._decode(data)
        except Exception:  # every codec raises its own
            return None
        return pixels if pixels.shape == (self.tile[1], self.tile[0], 3) else None


def _choose_decoder(page: TiffPage) -> Callable[[bytes], Pixels]:
    """Return a function from a tile's bytes to its pixels that raises if they are damaged."""
    if page.compression != COMPRESSION.JPEG:
        decode = page.decode
        return lambda data: np.asarray(decode(data, 0, _fullsize=True)[0])[0]
    # an abbreviated stream: start of image, the tables that all tiles share, then the tile
    head = b"\xff\xd8" + (_RGB_MARKER if page.photometric == PHOTOMETRIC.RGB else b"")
    head += (page.jpegtables or b"")[2:-2]
    # strict like OpenSlide: libjpeg only warns about most damage and returns made-up pixels
    return lambda data: np.asarray(decode_jpeg(head + data[2:], strict=True))


def open_tiff_level(slide: Slide, level: int) -> TiffLevel | None:
    """Open a level for direct reading; None if only OpenSlide reads it reliably."""
    try:
        with TiffFile(slide.path) as tiff:
            size = slide.level_dimensions[level]
            found = [
                page for page in tiff.pages if isinstance(page, TiffPage) and _fits(page, size)
            ]
            if len(found) != 1:
                return None
            tiff_level = TiffLevel(slide.path, found[0])
    except Exception:  # not a TIFF, or one that tifffile cannot read
        return None
    if _agrees(slide, level, tiff_level):
        return tiff_level
    tiff_level.close()
    log.info("%s: level %d is read through OpenSlide", slide.slide_id, level)
    return None


def _fits(page: TiffPage, size: tuple[int, int]) -> bool:
    """Return whether a page is a level of this size with plain RGB tiles."""
    return (
        page.is_tiled
        and (page.imagewidth, page.imagelength) == size
        and (page.samplesperpixel, page.planarconfig, page.tiledepth) == (3, 1, 1)
        and page.dtype == np.uint8
        and page.compression in _COMPRESSIONS
    )


def _agrees(slide: Slide, level: int, tiff_level: TiffLevel) -> bool:
    """Return whether the tiles with the most detail are the same as OpenSlide's."""
    downsample = slide.level_downsamples[level]
    tolerance = 0 if downsample.is_integer() else 2
    starts = [
        _find_aligned(downsample, *each)
        for each in zip(tiff_level.size, tiff_level.tile, strict=True)
    ]
    detail = tiff_level.counts * np.outer(starts[1] >= 0, starts[0] >= 0)
    compared = 0
    for index in np.argsort(detail, axis=None)[::-1][:_PROBES]:
        row, col = (int(each) for each in np.unravel_index(index, detail.shape))
        x, y = int(starts[0][col]), int(starts[1][row])
        tile = tiff_level.read_tile(row, col) if detail[row, col] else None
        if tile is None:
            continue  # damaged or missing: OpenSlide reads it if a patch needs it
        own = _crop(tile, tiff_level, x, y)
        try:
            at = round(x * downsample), round(y * downsample)
            shown = slide.read_level(at, level, (own.shape[1], own.shape[0]))
        except SlideReadError:
            return False
        difference = np.abs(own.astype(np.int16) - shown)
        if difference.max() > tolerance:
            if difference.mean() > _OTHER_PICTURE:
                log.warning(
                    "%s: level %d: its tiles and what OpenSlide shows of them differ by %.0f grey "
                    "levels on average; OpenSlide's pixels are used, look at the pictures in qc",
                    *(slide.slide_id, level, difference.mean()),
                )
            return False
        compared += 1
    return compared > 0


def _crop(tile: Pixels, tiff_level: TiffLevel, x: int, y: int) -> Pixels:
    """Crop a tile to start at a pixel (x, y) of the level and to end at the level's edge."""
    (width, height), (across, down) = tiff_level.tile, tiff_level.size
    part = tile[y % height :, x % width :]
    return part[: down - y, : across - x]


def _find_aligned(downsample: float, size: int, tile: int) -> NDArray[np.int64]:
    """Return for each tile along an axis its first pixel aligned with level 0; -1 for none."""
    pixels = np.arange(size)
    off = np.rint(pixels * downsample) / downsample - pixels
    good = pixels[(off > -1e-6) & (off < _ALIGNED)]
    first = np.full(-(-size // tile), -1)
    first[good[::-1] // tile] = good[::-1]
    return first
