"""Header: what a slide's file says of itself, doubted before OpenSlide acts on it."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from pathlib import Path

import openslide
from tifffile import COMPRESSION, TiffFile, TiffPage

from milpath.errors import UnsupportedSlideError

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # OpenSlide has the word on damage

MAX_TILE_PX = 1 << 26
"""Of a file's tiles: OpenSlide holds one as 256 MB, and takes the process down if it cannot."""

_JPEG_LEAST = 256  # pixels that a byte of JPEG can hold: a block of 64 takes two bits at least


def check_tile_size(handle: openslide.OpenSlide, name: str) -> None:
    """Raise `UnsupportedSlideError` where a level's tiles, as far as OpenSlide tells, are huge."""
    said = handle.properties
    for level in range(handle.level_count):
        width, height = (
            int(said.get(f"openslide.level[{level}].tile-{side}", 0))
            for side in ("width", "height")
        )
        if width * height > MAX_TILE_PX:
            raise UnsupportedSlideError(
                f"{name}: its tiles are {width} x {height} px, which no scanner writes; "
                "copy it again or convert it"
            )


def check_pixel_count(path: Path, name: str) -> None:
    """Raise `UnsupportedSlideError` for a TIFF that tells of more pixels than it holds.

    It is cut, or lies about its size, and OpenSlide would go and look for each of them.
    """
    for wide in (None, False):  # an NDPI file may have offsets as long as it should, or as a TIFF's
        with suppress(Exception), TiffFile(path, is_ndpi=wide) as tiff:  # many others are no TIFF
            pages = [page for page in tiff.pages if isinstance(page, TiffPage)]
            short = [page for page in pages if not _is_whole(page)]
            break
    else:
        return
    if short:
        raise UnsupportedSlideError(
            f"{name}: says it is {short[0].imagewidth} x {short[0].imagelength} px, but holds "
            "fewer; copy it again"
        )


def _is_whole(page: TiffPage) -> bool:
    """Whether a page lists all its tiles, or has bytes enough for the one JPEG that it is."""
    if page.is_tiled:
        return len(page.dataoffsets) >= math.prod(page.chunked)
    pixels = page.imagewidth * page.imagelength
    return page.compression != COMPRESSION.JPEG or pixels <= _JPEG_LEAST * sum(page.databytecounts)


def guess_content(path: Path) -> str:
    """In a word or two, what a file that is no slide seems to be."""
    with path.open("rb") as file:
        head = file.read(256)
    known = (
        (b"version https://git-lfs", "a git-lfs pointer: fetch the file itself"),
        (b"<", "a web page or XML text"),
        (b"II*\0", "a TIFF that is cut short, or not a tiled one"),
        (b"MM\0*", "a TIFF that is cut short, or not a tiled one"),
        (b"II+\0", "a BigTIFF that is cut short, or not a tiled one"),
        (b"\x89PNG", "a PNG picture"),
        (b"\xff\xd8", "a JPEG picture"),
    )
    for magic, guess in known:
        if head.lstrip().startswith(magic) or head.startswith(magic):
            return guess
    if head.isascii() and not any(byte < 9 for byte in head):
        return "plain text"
    return "contents unknown"
