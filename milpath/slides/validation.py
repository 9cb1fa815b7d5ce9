"""Validation: checks of a slide file's claims about itself, before OpenSlide acts on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

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
