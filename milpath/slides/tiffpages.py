"""TiffPage: what the pages of a TIFF say about themselves, which OpenSlide reports only in part.

OpenSlide sorts the levels of a plain TIFF by size but takes the resolution of the first page,
ignores OME-XML, and turns tiles one by one where there is an Orientation tag.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # OpenSlide decides about damage

Size = tuple[int, int]
Mpp = tuple[float, float]

_UPRIGHT = 1
_PHOTOMETRIC = tifffile.PHOTOMETRIC
_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}  # of the tag ResolutionUnit: inch, centimetre
_MAX_PX_PER_JPEG_BYTE = 256  # a block of 64 pixels takes at least two bits
_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class TiffPage:
    """A page of a TIFF.

    Attributes
    ----------
    size : (width, height), pixels
    mpp : (x, y) µm per pixel by its resolution tag; None without one
    orientation : its tag, 1 = upright
    complete : whether the page lists all its tiles, or has enough bytes if it is one JPEG
    lengths : int64 array (rows, cols), bytes of each of its tiles; (1, n) for strips
    tile : (width, height) of a tile; (0, 0) for strips
    samples : (offset, length) of parts of its pixels' data, spread evenly
    cut_grey16 : whether it is grey of 16 bits and its last tiles reach beyond the picture; of these
        OpenSlide's libtiff places all rows but the first wrongly
    """

    size: Size
    mpp: Mpp | None
    orientation: int
    complete: bool
    lengths: NDArray[np.int64]
    tile: Size
    samples: tuple[tuple[int, int], ...]
    cut_grey16: bool = False


@dataclass(frozen=True)
class TiffPages:
    """The pages of a TIFF in the order of the file, and its description.

    Attributes
    ----------
    pages : none if the file is not a TIFF
    description : ImageDescription of the first page, which may hold OME-XML
    """

    pages: tuple[TiffPage, ...] = ()
    description: str = ""

    def find(self, size: Size) -> TiffPage | None:
        """Return the first page of a size; None if there is none."""
        return next((page for page in self.pages if page.size == size), None)


def read_tiff_pages(path: Path) -> TiffPages:
    """Read what the pages of a TIFF say; nothing if the file is not a TIFF."""
    for wide in (None, False):  # an NDPI file has offsets of 8 bytes, or of 4 like any TIFF
        with suppress(Exception), tifffile.TiffFile(path, is_ndpi=wide) as tiff:
            pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
            found = tuple(_read_page(page) for page in pages)
            return TiffPages(found, str(pages[0].description or "") if pages else "")
    return TiffPages()


def _read_page(page: tifffile.TiffPage) -> TiffPage:
    return TiffPage(
        size=(int(page.imagewidth), int(page.imagelength)),
        mpp=_read_mpp(page),
        orientation=_read_orientation(page),
        complete=_is_complete(page),
        lengths=_read_lengths(page),
        tile=(int(page.tilewidth), int(page.tilelength)) if page.is_tiled else (0, 0),
        samples=tuple(spread_samples(page.dataoffsets, page.databytecounts)),
        cut_grey16=_is_cut_grey16(page),
    )


def _tag(page: tifffile.TiffPage, name: str, default: Any) -> Any:
    tag = page.tags.get(name)
    return default if tag is None else tag.value


def _read_mpp(page: tifffile.TiffPage) -> Mpp | None:
    with suppress(LookupError, TypeError, ValueError, ArithmeticError):
        um = _UM_PER_UNIT[int(_tag(page, "ResolutionUnit", 2))]
        x, y = (_tag(page, f"{axis}Resolution", (0, 1)) for axis in "XY")
        mpp = um * x[1] / x[0], um * y[1] / y[0]
        return mpp if all(0 < each < math.inf for each in mpp) else None
    return None


def _read_orientation(page: tifffile.TiffPage) -> int:
    with suppress(TypeError, ValueError):
        return int(_tag(page, "Orientation", _UPRIGHT))
    return _UPRIGHT


def _read_lengths(page: tifffile.TiffPage) -> NDArray[np.int64]:
    lengths = np.asarray(page.databytecounts, np.int64)
    if page.is_tiled:
        across = -(-page.imagewidth // page.tilewidth)
        down = -(-page.imagelength // page.tilelength)
        if across * down == lengths.size:
            return lengths.reshape(down, across)
    return lengths.reshape(1, -1)


def _is_cut_grey16(page: tifffile.TiffPage) -> bool:
    grey = page.photometric in (_PHOTOMETRIC.MINISBLACK, _PHOTOMETRIC.MINISWHITE)
    wide = bool(np.max(page.bitspersample) == 16)
    return grey and wide and page.is_tiled and page.imagewidth % page.tilewidth != 0


def _is_complete(page: tifffile.TiffPage) -> bool:
    if page.is_tiled:
        return len(page.dataoffsets) >= math.prod(page.chunked)
    pixels = page.imagewidth * page.imagelength
    max_pixels = _MAX_PX_PER_JPEG_BYTE * sum(page.databytecounts)
    return page.compression != tifffile.COMPRESSION.JPEG or pixels <= max_pixels


def spread_samples(
    offsets: Sequence[int], counts: Sequence[int], most: int = 64
) -> list[tuple[int, int]]:
    """Return (offset, length) of parts of some data, spread evenly over it.

    Of many segments some are chosen, and the start and the middle of each; few are divided.

    Parameters
    ----------
    offsets, counts : where the segments of the data lie in the file, and their lengths
    most : number of parts
    """
    segments = [each for each in zip(offsets, counts, strict=False) if each[1] > 0]
    if not segments or most < 1:
        return []
    chosen = sorted({round(k) for k in np.linspace(0, len(segments) - 1, -(-most // 2))})
    parts = most // len(chosen)
    samples = []
    for number in chosen:
        offset, count = segments[number]
        starts = sorted({count * part // parts for part in range(parts)})
        samples += [(offset + start, min(_SAMPLE_BYTES, count - start)) for start in starts]
    return samples


def find_turned(pages: TiffPages, sizes: Sequence[Size]) -> int | None:
    """Return the Orientation tag of a level that is not upright; None if all are.

    Parameters
    ----------
    pages : of the file
    sizes : (width, height) of the levels
    """
    levels = (page for page in pages.pages if page.size in set(sizes))
    turned = (page.orientation for page in levels if 2 <= page.orientation <= 8)
    return next(turned, None)
