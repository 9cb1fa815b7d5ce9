"""Validation: checks of a slide file's claims about itself, before OpenSlide acts on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from tifffile import TiffFile, TiffPage

from milpath.errors import UnsupportedSlideError
from milpath.slides.tiffpages import TiffPages, find_turned

MAX_TILE_PX = 1 << 26
"""Pixels of a tile: OpenSlide allocates 256 MB for one, and aborts the process if it cannot."""


def check_tile_size(tile_sizes: Iterable[tuple[int, int]], name: str) -> None:
    """Raise `UnsupportedSlideError` if the tiles of a level are larger than `MAX_TILE_PX`.

    Parameters
    ----------
    tile_sizes : (width, height) of the tiles of each level, pixels
    name : what messages call the slide
    """
    for width, height in tile_sizes:
        if width * height > MAX_TILE_PX:
            raise UnsupportedSlideError(
                f"{name}: its tiles are {width} x {height} px; expected at most "
                f"{MAX_TILE_PX:,} px; copy it again or convert it"
            )


def check_pixel_count(pages: TiffPages, name: str) -> None:
    """Raise `UnsupportedSlideError` for a TIFF that declares more pixels than it contains.

    It is truncated or its header is wrong, and OpenSlide would try to read each of them.
    """
    short = next((page for page in pages.pages if not page.complete), None)
    if short is not None:
        raise UnsupportedSlideError(
            f"{name}: the header declares {short.size[0]} x {short.size[1]} px, but "
            "the file contains fewer; copy it again"
        )


def check_orientation(pages: TiffPages, sizes: Sequence[tuple[int, int]], name: str) -> None:
    """Raise `UnsupportedSlideError` if a TIFF is to be turned or mirrored before it is shown.

    Readers differ in what they make of the tag: OpenSlide turns each tile on its spot, or nothing.

    Parameters
    ----------
    pages : of the file
    sizes : (width, height) of the levels
    name : what messages call the slide
    """
    turned = find_turned(pages, sizes)
    if turned is not None:
        raise UnsupportedSlideError(
            f"{name}: its Orientation tag is {turned}, that is, it is to be turned or mirrored, "
            "which OpenSlide does not do; expected 1 or no tag; write it again upright"
        )


def check_columns(pages: TiffPages, size: tuple[int, int], name: str) -> None:
    """Raise `UnsupportedSlideError` if the last tiles of level 0 are shown wrongly.

    Parameters
    ----------
    pages : of the file
    size : (width, height) of level 0
    name : what messages call the slide
    """
    page = pages.find(size)
    if page is not None and page.cut_grey16:
        raise UnsupportedSlideError(
            f"{name}: its grey samples have 16 bits and its last column of tiles is not full, "
            "which OpenSlide shows wrongly; convert it to 8 bits"
        )


_PROBED_TILES = 24  # of a level: those with the most bytes, and some spread over the level
_MIN_SAMPLE_BITS = 15  # of 16, used by unsigned samples; dim fluorescence leaves the last one


def check_samples(path: Path, name: str) -> None:
    """Raise `UnsupportedSlideError` for a TIFF whose samples OpenSlide would show wrongly.

    OpenSlide keeps the upper 8 of 16 bits, whatever range the numbers have: of 12 bits in 16, as
    cameras give, 4 remain; of signed numbers 7. It reads no samples of more than 16 bits.
    """
    size, bits, sign = 8, 8, ""
    with suppress(Exception), TiffFile(path) as tiff:
        page = max((each for each in tiff.pages if isinstance(each, TiffPage)), key=_pixels)
        size = bits = 0 if page.dtype is None else 8 * page.dtype.itemsize
        if size == 16:
            sign = "signed " if page.dtype == np.int16 else ""
            bits = _count_used_bits(page)
    if size == 16 and (sign or bits < _MIN_SAMPLE_BITS):
        raise UnsupportedSlideError(
            f"{name}: its {sign}samples have 16 bits and use {bits}, so that it would be shown "
            "too dark; expected 8 bits, or 16 that are all used; convert it to 8 bits"
        )
    if size > 16:
        raise UnsupportedSlideError(
            f"{name}: its samples have {size} bits; expected 8, or 16; convert it to 8 bits"
        )


def _pixels(page: TiffPage) -> int:
    return page.imagewidth * page.imagelength


def _count_used_bits(page: TiffPage) -> int:
    """Count the bits of the largest sample: as the page declares it, or in some of its tiles."""
    declared = page.tags.get("MaxSampleValue")
    if declared is not None:
        return int(np.max(declared.value)).bit_length()
    counts = np.asarray(page.databytecounts)
    spread = np.linspace(0, len(counts) - 1, _PROBED_TILES).astype(int)
    chosen = {*np.argsort(counts)[::-1][:_PROBED_TILES].tolist(), *spread.tolist()}
    largest = 0
    for index in sorted(chosen):
        page.parent.filehandle.seek(page.dataoffsets[index])
        data = page.parent.filehandle.read(int(counts[index]))
        tile = page.decode(data, index, jpegtables=page.jpegtables)[0] if data else None
        if tile is not None:
            largest = max(largest, int(tile.max()))
    return largest.bit_length()


def guess_content(path: Path) -> str:
    """Return in a few words what a file that is not a slide seems to be."""
    with path.open("rb") as file:
        head = file.read(256)
    known = (
        (b"version https://git-lfs", "a git-lfs pointer: fetch the file itself"),
        (b"<", "a web page or XML text"),
        (b"II*\0", "a TIFF that is truncated or not tiled"),
        (b"MM\0*", "a TIFF that is truncated or not tiled"),
        (b"II+\0", "a BigTIFF that is truncated or not tiled"),
        (b"\x89PNG", "a PNG picture"),
        (b"\xff\xd8", "a JPEG picture"),
    )
    for magic, guess in known:
        if head.lstrip().startswith(magic) or head.startswith(magic):
            return guess
    if head.isascii() and not any(byte < 9 for byte in head):
        return "plain text"
    return "contents unknown"
