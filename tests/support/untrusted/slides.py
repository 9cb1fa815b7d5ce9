"""Table of malformed slides: cut, with flipped bits, spliced, or with edited tags."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np

from milpath.cohort.cohort import SlideEntry
from milpath.formats.bag import Bag
from milpath.params import GridParams, TileParams
from milpath.tile import tile_slide
from support.untrusted.synthetic import SIDE, write_dicom, write_ndpi, write_svs, write_tiff
from support.untrusted.watch import Case

PARAMS = TileParams(grid=GridParams(mpp=1.0, patch_px=128))

Change = Callable[[bytearray], bytes | bytearray]

BASES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "deflate": ("s.tif", partial(write_tiff, compression="zlib")),
    "jpeg": ("s.tif", partial(write_tiff, compression="jpeg")),
    "ycbcr": ("s.tif", partial(write_tiff, compression="jpeg", subsampling=(2, 2))),
    "svs": ("s.svs", write_svs),
    "ndpi": ("s.ndpi", write_ndpi),
    "dicom": ("s.dcm", write_dicom),
}


def tile(path: Path) -> None:
    """Tile a slide and read its bag."""
    tile_slide(SlideEntry(path, "s"), path.parent / "bags", PARAMS, threads=2)
    with Bag(path.parent / "bags" / "s.h5") as bag:
        for _ in bag.iter_patches(16):
            pass


def slide_cases() -> Iterator[Case]:
    """Yield every malformed slide, and the valid ones."""
    for base in BASES:
        yield _case(base, "valid", bytes, accepted=True)
        for family, changes in _changes(base).items():
            for number, change in enumerate(changes):
                yield _case(base, f"{family} {number}", change)


def _case(base: str, name: str, change: Change, accepted: bool | None = None) -> Case:
    return Case(f"{base} {name}", partial(_write, base, change), tile, accepted)


def _write(base: str, change: Change, folder: Path) -> Path:
    path = folder / BASES[base][0]
    path.write_bytes(bytes(change(bytearray(valid_bytes(base)))))
    return path


@cache
def valid_bytes(base: str) -> bytes:
    """Return the bytes of a valid slide."""
    name, write = BASES[base]
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder) / name).read_bytes()


def _changes(base: str) -> dict[str, list[Change]]:
    seeds = range(24)
    families: dict[str, list[Change]] = {
        "cut": [partial(_cut, share=share / 16) for share in range(16)],
        "flip": [partial(_flip, seed=seed) for seed in seeds],
        "flip head": [partial(_flip, seed=seed, head=True) for seed in seeds],
        "splice": [partial(_splice, seed=seed) for seed in seeds],
    }
    if base == "dicom":
        families["element"] = [
            partial(_edit_element, element=element, value=value)
            for element in DICOM_ELEMENTS
            for value in (0, 1, 0x7FFF, 0xFFFF)
        ]
        return families
    families["tag"] = [
        partial(_edit_tag, tag=tag, value=value, page=page)
        for tag, values in TAGS.items()
        for value in values
        for page in (0, -1)
    ]
    families["kind"] = [partial(_edit_kind, tag=tag) for tag in TAGS]
    families["pages"] = [partial(_link_pages, to=to) for to in ("self", "first", "end", "head")]
    if base == "svs":
        families["description"] = [partial(_describe, text=text) for text in DESCRIPTIONS]
    return families


# -- bytes -----------------------------------------------------------------------------------------


def _cut(data: bytearray, share: float) -> bytearray:
    return data[: int(len(data) * share)]


def _flip(data: bytearray, seed: int, head: bool = False) -> bytearray:
    """Flip some bits anywhere, or in the first or last bytes, where the structure is stored."""
    rng = np.random.default_rng(seed)
    reach = min(len(data), 1 << 10) if head else len(data)
    for place in rng.integers(0, reach, 1 << int(rng.integers(0, 7))):
        data[int(place) * (-1 if seed % 2 else 1)] ^= 1 << int(rng.integers(0, 8))
    return data


def _splice(data: bytearray, seed: int) -> bytearray:
    """Blank, duplicate, remove or move a piece."""
    rng = np.random.default_rng(seed)
    start, other = (int(place) for place in rng.integers(0, len(data), 2))
    length = 1 << int(rng.integers(2, 16))
    piece = data[start : start + length]
    kind = seed % 5
    if kind == 0:
        data[start : start + length] = bytes(len(piece))
    elif kind == 1:
        data[start : start + length] = b"\xff" * len(piece)
    elif kind == 2:
        data[start:start] = piece
    elif kind == 3:
        del data[start : start + length]
    else:
        data[other : other + len(piece)] = piece
    return data


# -- TIFF ------------------------------------------------------------------------------------------

_BIG = (1 << 32) - 1
TAGS: dict[int, tuple[int, ...]] = {
    254: (4, _BIG),  # page type
    256: (0, 1, SIDE + 1, 1 << 20, _BIG),  # width
    257: (0, 1, SIDE + 1, 1 << 20, _BIG),  # height
    258: (0, 1, 16),  # bits per sample
    259: (0, 1, 5, 7, 8, 33003, 33005, 34712, 50000, 65000),  # compression
    262: (0, 2, 3, 6, 8, 99),  # colour space
    277: (0, 1, 4, 65535),  # samples per pixel
    282: (0, 1, _BIG),  # pixels per unit, horizontally
    283: (0, 1, _BIG),
    284: (0, 2, 9),  # planar configuration
    296: (0, 1, 2, 9),  # unit
    317: (2, 3),  # predictor
    322: (0, 1, 15, 16, 512, 1 << 16, 1 << 30),  # width of a tile
    323: (0, 1, 15, 16, 512, 1 << 16, 1 << 30),
    324: (0, 1, 8, 1 << 20, _BIG),  # offsets of tiles
    325: (0, 1, 1 << 30, _BIG),  # byte counts of tiles
    339: (2, 3, 6),  # sample format
    347: (0, 8, _BIG),  # JPEG tables
    530: (0, 1, 4, 255),  # subsampling
    65421: (0, 1),  # NDPI: objective
    65426: (0, 1),
}
"""Tags, and the values that replace their (first) value."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}


def _pages(data: bytearray) -> list[int]:
    """Return the offsets of the directories of a small little-endian TIFF."""
    found: list[int] = []
    (place,) = struct.unpack_from("<I", data, 4)
    while place and place not in found:
        found.append(place)
        (count,) = struct.unpack_from("<H", data, place)
        (place,) = struct.unpack_from("<I", data, place + 2 + 12 * count)
    return found


def _entry(data: bytearray, page: int, tag: int) -> int | None:
    """Return the offset of a tag's entry, None if there is none."""
    start = _pages(data)[page]
    (count,) = struct.unpack_from("<H", data, start)
    entries = range(start + 2, start + 2 + 12 * count, 12)
    return next((at for at in entries if struct.unpack_from("<H", data, at)[0] == tag), None)


def _edit_tag(data: bytearray, tag: int, value: int, page: int) -> bytearray:
    """Change the first value of a tag; a missing tag replaces the last one of the page."""
    at = _entry(data, page, tag)
    if at is None:
        start = _pages(data)[page]
        (count,) = struct.unpack_from("<H", data, start)
        struct.pack_into("<HHII", data, start + 2 + 12 * (count - 1), tag, 4, 1, value)
        return data
    kind, count = struct.unpack_from("<HI", data, at + 2)
    size = _SIZES[kind]
    place = at + 8 if size * count <= 4 else struct.unpack_from("<I", data, at + 8)[0]
    width = min(size, 4)
    data[place : place + width] = value.to_bytes(8, "little")[:width]
    return data


def _edit_kind(data: bytearray, tag: int) -> bytearray:
    """Change the type of a tag, and its count to a very large one."""
    at = _entry(data, 0, tag)
    if at is not None:
        struct.pack_into("<HI", data, at + 2, tag % 14, 1 << (tag % 32))
    return data


def _link_pages(data: bytearray, to: str) -> bytearray:
    """Link the last page to an earlier page, or to a place without a page."""
    pages = _pages(data)
    places = {"self": pages[-1], "first": pages[0], "end": len(data) - 1, "head": 0x4949}
    (count,) = struct.unpack_from("<H", data, pages[-1])
    struct.pack_into("<I", data, pages[-1] + 2 + 12 * count, places[to])
    return data


DESCRIPTIONS = (
    "MPP = 0", "MPP = -1", "MPP = nan", "MPP = 1e400", "MPP = x", "MPP = ", "MPP", "|||",
    "MPP = 1e-9", "AppMag = inf|MPP = 1", "MPP = 1|MPP = 2", "MPP = 1,0", "\x1b[31mMPP = x",
    "MPP = 1|" + "=" * 200,
)  # fmt: skip
"""Texts that replace the resolution of an SVS."""


def _describe(data: bytearray, text: str) -> bytearray:
    at = data.index(b"|AppMag")
    end = data.index(b"\0", at)
    data[at:end] = ("|" + text).encode()[: end - at].ljust(end - at)
    return data


# -- DICOM -----------------------------------------------------------------------------------------

DICOM_ELEMENTS = (
    (0x0028, 0x0002), (0x0028, 0x0006), (0x0028, 0x0010), (0x0028, 0x0011), (0x0028, 0x0100),
    (0x0028, 0x0101), (0x0028, 0x0103), (0x0048, 0x0006), (0x0048, 0x0007), (0x5200, 0x9229),
    (0x0028, 0x9110), (0x0028, 0x0030), (0x0028, 0x0008), (0x0002, 0x0000), (0x7FE0, 0x0010),
    (0x0008, 0x0008), (0x0002, 0x0010),
)  # fmt: skip
"""Samples, layout, rows, columns, bits, sign, size of the whole, sequences, frames, pixels."""


def _edit_element(data: bytearray, element: tuple[int, int], value: int) -> bytearray:
    """Change the value of an element, or its length if the value is longer than two bytes."""
    at = data.index(struct.pack("<HH", *element))
    short = data[at + 4 : at + 6] in (b"US", b"UL")
    place = at + 8 if short or data[at + 4 : at + 6] in (b"OB", b"SQ") else at + 6
    struct.pack_into("<H", data, place, value)
    return data
