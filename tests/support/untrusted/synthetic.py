"""Small valid synthetic slides of four formats, from which the malformed ones are made."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import TiffWriter, imread

from milpath.synthetic import draw_slide

SIDE = 768
"""Width and height, in pixels at `MPP`."""
MPP = 1.0

Pixels = NDArray[np.uint8]


@cache
def picture() -> Pixels:
    """Draw tissue on a bright background, uint8 (768, 768, 3)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        draw_slide(path, seed=3, tumour=True, size_px=(SIDE, SIDE), mpp=MPP, artefacts=False)
        return np.asarray(imread(path, key=0))


def write_tiff(path: Path, compression: str, subsampling: tuple[int, int] | None = None) -> Path:
    """Write a generic tiled pyramid."""
    return _write_tiled(path, compression, subsampling, None)


def write_svs(path: Path) -> Path:
    """Write an Aperio slide: tiles, a striped thumbnail, the resolution in the description."""
    description = (
        f"Aperio Image Library v12\r\n{SIDE}x{SIDE} [0,0 {SIDE}x{SIDE}] (256x256) JPEG/RGB Q=80"
        f"|AppMag = 10|MPP = {MPP}"
    )
    return _write_tiled(path, "jpeg", (2, 2), description)


def _write_tiled(
    path: Path, compression: str, subsampling: tuple[int, int] | None, description: str | None
) -> Path:
    whole = picture()
    with TiffWriter(path) as tiff:
        for index, down in enumerate((1, 4)):
            level = np.ascontiguousarray(whole[::down, ::down])
            if subsampling is not None:
                level = np.asarray(Image.fromarray(level).convert("YCbCr"))
            if index and description is not None:  # Aperio's thumbnail is its second page
                tiff.write(
                    whole[::8, ::8], photometric="rgb", metadata=None, software=False,
                    description="Aperio Image Library v12\r\nthumbnail",
                )  # fmt: skip
            tiff.write(
                level
                if subsampling is None
                else np.asarray(Image.fromarray(level).convert("YCbCr")),
                tile=(256, 256),
                photometric="rgb" if subsampling is None else "ycbcr",
                compression=compression,
                subsampling=subsampling,
                subfiletype=1 if index else 0,
                resolution=(1e4 / MPP / down, 1e4 / MPP / down),
                resolutionunit="CENTIMETER",
                description=None if index else description,
                metadata=None,
                software=False,
            )
    return path


def write_ndpi(path: Path) -> Path:
    """Write a Hamamatsu slide: each level is one JPEG in one strip, with restart markers."""
    whole = picture()
    with TiffWriter(path) as tiff:
        for down in (1, 4):
            level = np.ascontiguousarray(whole[::down, ::down])
            data = io.BytesIO()
            Image.fromarray(level).save(
                data, "JPEG", quality=80, subsampling=1, restart_marker_blocks=4
            )
            lens = 10.0 / down
            tiff.write(
                iter([data.getvalue()]),
                shape=level.shape,
                dtype=np.uint8,
                photometric="ycbcr",
                subsampling=(2, 1),
                compression="jpeg",
                rowsperstrip=level.shape[0],
                resolution=(1e4 / MPP / down, 1e4 / MPP / down),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
                extratags=[
                    (271, "s", 0, "Hamamatsu", True),
                    (65420, "I", 1, 1, True),  # marks NDPI
                    (65421, "f", 1, lens, True),  # objective
                    (65422, "i", 1, 0, True),
                    (65423, "i", 1, 0, True),
                    (65424, "i", 1, 0, True),  # focal plane
                ],
            )
    return path


def write_dicom(path: Path) -> Path:
    """Write one level of a DICOM slide: JPEG frames, explicit little endian."""
    whole, tile = picture(), 256
    frames = []
    for row in range(0, SIDE, tile):
        for col in range(0, SIDE, tile):
            data = io.BytesIO()
            Image.fromarray(whole[row : row + tile, col : col + tile]).save(data, "JPEG")
            frames.append(data.getvalue() + b"\0" * (len(data.getvalue()) % 2))
    uid = "1.2.826.0.1.3680043.8.498.1"
    sop = "1.2.840.10008.5.1.4.1.1.77.1.6"
    spacing = _sequence(0x0028, 0x9110, _element(0x0028, 0x0030, "DS", f"{MPP / 1e3}\\{MPP / 1e3}"))
    meta = b"".join(
        (
            _element(0x0002, 0x0001, "OB", b"\0\1"),
            _element(0x0002, 0x0002, "UI", sop),
            _element(0x0002, 0x0003, "UI", uid + ".3"),
            _element(0x0002, 0x0010, "UI", "1.2.840.10008.1.2.4.50"),
            _element(0x0002, 0x0012, "UI", uid),
        )
    )
    body = b"".join(
        (
            _element(0x0008, 0x0008, "CS", "ORIGINAL\\PRIMARY\\VOLUME\\NONE"),
            _element(0x0008, 0x0016, "UI", sop),
            _element(0x0008, 0x0018, "UI", uid + ".3"),
            _element(0x0008, 0x0060, "CS", "SM"),
            _element(0x0020, 0x000D, "UI", uid + ".1"),
            _element(0x0020, 0x000E, "UI", uid + ".2"),
            _element(0x0028, 0x0002, "US", 3),
            _element(0x0028, 0x0004, "CS", "YBR_FULL_422"),
            _element(0x0028, 0x0006, "US", 0),
            _element(0x0028, 0x0008, "IS", str(len(frames))),
            _element(0x0028, 0x0010, "US", tile),
            _element(0x0028, 0x0011, "US", tile),
            _element(0x0028, 0x0100, "US", 8),
            _element(0x0028, 0x0101, "US", 8),
            _element(0x0028, 0x0102, "US", 7),
            _element(0x0028, 0x0103, "US", 0),
            _element(0x0048, 0x0006, "UL", SIDE),
            _element(0x0048, 0x0007, "UL", SIDE),
            _sequence(0x5200, 0x9229, spacing),
            _frames(frames),
        )
    )
    length = _element(0x0002, 0x0000, "UL", len(meta))
    path.write_bytes(b"\0" * 128 + b"DICM" + length + meta + body)
    return path


def _element(group: int, number: int, kind: str, value: str | int | bytes) -> bytes:
    if isinstance(value, int):
        data = struct.pack({"US": "<H", "UL": "<I"}[kind], value)
    else:
        data = value.encode() if isinstance(value, str) else value
        data += (b"\0" if kind in ("UI", "OB") else b" ") * (len(data) % 2)
    head = struct.pack("<HH2s", group, number, kind.encode())
    wide = kind in ("OB", "SQ")
    return (
        head
        + struct.pack("<HI" if wide else "<H", *((0, len(data)) if wide else (len(data),)))
        + data
    )


def _sequence(group: int, number: int, item: bytes) -> bytes:
    data = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    return struct.pack("<HH2sHI", group, number, b"SQ", 0, len(data)) + data


def _frames(frames: Iterable[bytes]) -> bytes:
    """Encode pixel data of undefined length: an empty offset table, the frames, a delimiter."""
    parts = [struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)]
    for data in (b"", *frames):
        parts.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data)
    return b"".join((*parts, struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)))
