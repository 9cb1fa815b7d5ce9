"""Slides with a name in every place where scanners and hospitals put one, and a search for names.

A name is the word canary followed by its place: it is found in any encoding it was copied in.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from tifffile import TiffFile, TiffWriter

Pixels = NDArray[np.uint8]

APERIO = (
    "Title", "Barcode", "Filename", "User", "Date", "Time", "ScanScopeID", "Originalheight",
)  # fmt: skip
"""Keys of an Aperio ImageDescription, without their spaces."""

TAGS = {
    "DocumentName": 269, "Make": 271, "Model": 272, "PageName": 285, "Software": 305,
    "DateTime": 306, "Artist": 315, "HostComputer": 316, "TargetPrinter": 337, "XMP": 700,
    "ImageID": 32781, "Copyright": 33432, "IPTC": 33723, "Photoshop": 34377,
}  # fmt: skip
SEGMENTS = {"Comment": 0xFE, "Exif": 0xE1, "AppThirteen": 0xED}
"""Segments of a JPEG tile."""
INSIDE = (*APERIO, *TAGS, *SEGMENTS, "Header", "Profile")
"""All places in an SVS file, except the pixels of its label and macro images."""

_WORDS = tuple(
    re.compile(
        gap.join(re.escape(letter.encode()) for letter in "canary") + b"(?:" + gap + b"[a-z])*",
        re.I,
    )
    for gap in (b"", b"\0", b"\0\0\0")
)
_LABEL_COLOUR = (0, 255, 0)  # in no synthetic tissue and no colormap


def canary(place: str) -> str:
    return f"Canary{place}"


# -- writing names ---------------------------------------------------------------------------------


def write_svs(path: Path, rgb: Pixels, mpp: float = 1.0) -> Path:
    """Write an Aperio slide of two levels with names in all of `INSIDE`, a label and a macro."""
    fields = " |".join(f"{_spaced(key)} = {canary(key)}" for key in APERIO)
    size = f"{rgb.shape[1]}x{rgb.shape[0]}"
    head = f"Aperio Image Library v12.0.0 {canary('Header')}\r\n{size}"
    tags = [(code, 2, None, canary(name), True) for name, code in TAGS.items()]
    label: Pixels = np.full((120, 160, 3), _LABEL_COLOUR, np.uint8)
    with TiffWriter(path) as tiff:

        def write(pixels: Pixels, description: str, **options: Any) -> None:
            tiff.write(pixels, photometric="rgb", description=description, metadata=None, **options)

        for index, level in enumerate((rgb, np.ascontiguousarray(rgb[::4, ::4]))):
            tiff.write(
                _tiles(level), shape=level.shape, dtype=np.uint8, tile=(256, 256),
                photometric="ycbcr", compression="jpeg", subsampling=(1, 1), metadata=None,
                description=f"{head} (256x256) JPEG Q=90|AppMag = 10|MPP = {mpp}|{fields}",
                iccprofile=_profile(), extratags=tags, subfiletype=0, software=False,
            )  # fmt: skip
            if index == 0:
                write(np.ascontiguousarray(rgb[::8, ::8]), f"{head} -> 64x64", software=False)
        write(label, f"{head}\r\nlabel 160x120", subfiletype=1, software=False)
        write(label, f"{head}\r\nmacro 160x120", subfiletype=9, software=False)
    return path


def _spaced(key: str) -> str:
    return {"ScanScopeID": "ScanScope ID"}.get(key, key)


def _tiles(level: Pixels) -> Iterator[bytes]:
    rows, cols = level.shape[:2]
    padded = np.pad(level, ((0, -rows % 256), (0, -cols % 256), (0, 0)), mode="edge")
    names = b"".join(_segment(kind, canary(name)) for name, kind in SEGMENTS.items())
    for row in range(0, rows, 256):
        for col in range(0, cols, 256):
            tile = np.ascontiguousarray(padded[row : row + 256, col : col + 256])
            jpeg = imagecodecs.jpeg8_encode(tile, level=90, subsampling="444")
            yield jpeg[:2] + names + jpeg[2:]


def _segment(kind: int, text: str) -> bytes:
    data = {0xE1: b"Exif\0\0", 0xED: b"Photoshop 3.0\0"}.get(kind, b"") + text.encode()
    return struct.pack(">BBH", 0xFF, kind, len(data) + 2) + data


def _profile() -> bytes:
    """Return an ICC profile whose description is a name."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return plain.replace(_wide("sRGB built-in"), _wide(canary("Profile")))


def _wide(text: str) -> bytes:
    return text.encode("utf-16-be")


def copy_dicom(source: Path, target: Path) -> dict[str, str]:
    """Copy a DICOM slide, with a patient in every file; return the names by place."""
    before = {
        b"\x08\x00\x60\x00CS": ((0x50, b"SH", "Accession"), (0x80, b"LO", "Institution")),
        b"\x20\x00\x0d\x00UI": ((0x10, b"PN", "Patient"), (0x20, b"LO", "PatientID")),
        b"\x48\x00\x01\x00FL": ((0x512, b"LO", "Container"),),
    }
    groups = (0x08, 0x10, 0x40)
    target.mkdir(parents=True)
    for file in source.glob("*.dcm"):
        data = file.read_bytes()
        for group, (mark, elements) in zip(groups, before.items(), strict=True):
            added = b"".join(_element(group, *each) for each in elements)
            assert data.count(mark) == 1
            data = data.replace(mark, added + mark)
        (target / f"{canary('File')}{file.stem}.dcm").write_bytes(data)
    return {name: canary(name) for each in before.values() for *_, name in each}


def _element(group: int, element: int, kind: bytes, name: str) -> bytes:
    value = canary(name).encode()
    value += b" " * (len(value) % 2)
    return struct.pack("<HH2sH", group, element, kind, len(value)) + value


# -- searching -------------------------------------------------------------------------------------


def find_names(data: bytes) -> set[str]:
    """Return the names in some bytes, in any case, as UTF-8, UTF-16 or UTF-32."""
    return {
        found.replace(b"\0", b"").decode().lower()
        for words in _WORDS
        for found in words.findall(data)
    }


def names_in(folder: Path) -> dict[str, set[str]]:
    """Return the names in the contents and paths of a folder's files, by file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        names = find_names(str(path.relative_to(folder)).encode("utf-8", "surrogateescape"))
        for part in unpack(path) if path.is_file() else ():
            names |= find_names(part)
        if names:
            found[str(path.relative_to(folder))] = names
    return found


def unpack(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, and everything that is encoded in them."""
    data = path.read_bytes()
    yield data
    if data.startswith(b"\x89HDF"):
        yield from _unpack_h5(path)
    elif data.startswith(b"\x89PNG"):
        yield from (part for _, part in png_chunks(data))
    elif data[:2] in (b"II", b"MM"):
        yield from _unpack_tiff(path)
    elif path.suffix in {".json", ".geojson"}:  # without escapes
        yield json.dumps(json.loads(data), ensure_ascii=False).encode()


def _unpack_h5(path: Path) -> Iterator[bytes]:
    with h5py.File(path) as h5:
        found: list[Any] = [h5]
        h5.visititems(lambda _, item: found.append(item))
        for item in found:
            yield str(item.name).encode()
            for name, value in item.attrs.items():
                yield f"{name} {value}".encode()
            if isinstance(item, h5py.Dataset):
                yield np.asarray(item[()]).tobytes()


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and contents of a PNG's chunks, with text and profiles decompressed."""
    at = 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        at += 12 + length
        if kind in (b"zTXt", b"iCCP", b"iTXt"):
            start = body.find(b"x")
            body = zlib.decompress(body[start:]) if start >= 0 else body
        yield kind, body


def _unpack_tiff(path: Path) -> Iterator[bytes]:
    with TiffFile(path) as tiff:
        for page in tiff.pages:
            for tag in page.tags:  # type: ignore[union-attr]
                yield str(tag.value).encode()


def jpeg_segments(data: bytes) -> Iterator[int]:
    """Yield the markers of a JPEG's segments before its pixels."""
    at = 2
    while data[at + 1] != 0xDA:
        yield data[at + 1]
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]


def pictures_in(path: Path) -> Iterator[Pixels]:
    """Yield every picture in a file."""
    if path.suffix == ".png":
        yield np.asarray(Image.open(path).convert("RGB"))
    elif path.suffix in {".tif", ".tiff"}:
        with TiffFile(path) as tiff:
            yield from (page.asarray() for page in tiff.pages if page.samplesperpixel == 3)  # type: ignore[union-attr]
    elif path.suffix == ".h5":
        for jpeg in patches_in(path):
            yield np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def patches_in(path: Path) -> Iterator[bytes]:
    """Yield the JPEGs of a bag; nothing for any other file."""
    with h5py.File(path) as h5:
        if "patch_offsets" in h5:
            data, ends = h5["patches"][()].tobytes(), h5["patch_offsets"][()].tolist()
            yield from (data[a:b] for a, b in itertools.pairwise(ends))


def shows_label(rgb: Pixels) -> bool:
    """Return whether a picture contains pixels of a label or macro image."""
    return bool((np.abs(rgb.astype(int) - _LABEL_COLOUR).max(axis=-1) < 60).any())


def copy_damaged(path: Path, target: Path, share: float) -> Path:
    """Copy a file and cut it short."""
    shutil.copy(path, target)
    with target.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    return target


def rows_of(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a CSV table."""
    return "\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n"
