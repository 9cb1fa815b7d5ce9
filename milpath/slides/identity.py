"""Identity: a digest by which a slide is recognised, wherever it lies.

OpenSlide's own hash takes in the smallest level and the metadata only. This one takes in the sizes
of all files of a slide and some of their bytes, of level 0 where the file says where it lies. It
reads at most 256 KiB, in 64 parts, and from the bytes of the files, not from decoded pixels, so
that it is the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from milpath.slides.reader import FileProperties
from milpath.slides.tiffpages import TiffPage, spread_samples

_HEAD_BYTES = 1 << 16  # of a DICOM file, in which the number of its series lies
_SERIES_TAG = b"\x20\x00\x0e\x00UI"
_MAX_TEXT_BYTES = 1 << 20  # of a file that names the files of the slide


def hash_contents(path: Path, properties: FileProperties, level_0: TiffPage | None) -> str:
    """Return a digest of a slide's size in bytes and of a sample of its level 0.

    Parameters
    ----------
    path : the slide's file, for DICOM any of them: all give the same digest
    properties : what the file says about itself
    level_0 : its page, if the file is a TIFF

    Raises
    ------
    OSError : a file cannot be read
    """
    files = list(_find_files(path, properties))
    sizes = [file.stat().st_size for file in files]
    if len(files) == 1 and level_0 is not None and level_0.samples:
        digests = [
            _digest(files[0], sizes[0], level_0.samples, level_0.lengths.astype("<i8").tobytes())
        ]
    else:
        shares = _share_out(sizes)
        digests = [
            _digest(file, size, spread_samples([0], [size], share))
            for file, size, share in zip(files, sizes, shares, strict=True)
        ]
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _digest(
    path: Path, size: int, samples: Iterable[tuple[int, int]], lengths: bytes = b""
) -> bytes:
    digest = hashlib.sha256(f"{size} ".encode() + lengths)
    with path.open("rb", buffering=0) as file:
        for offset, length in samples:
            file.seek(offset)
            digest.update(file.read(length))
    return digest.digest()


def _share_out(sizes: Sequence[int]) -> list[int]:
    """Return how many samples to take of each file, by its size; of small ones none."""
    total = max(1, sum(sizes))
    return [64 * size // total for size in sizes]


def _find_files(path: Path, properties: FileProperties) -> Iterator[Path]:
    """Yield the files of a slide."""
    yield path
    if properties.vendor == "mirax":
        yield from _list(path.with_suffix(""), (".dat", ".ini"))
    elif properties.series is not None:
        mark = _SERIES_TAG, properties.series.encode()
        yield from (each for each in _list(path.parent) if each != path and _contains(each, mark))
    elif path.suffix.lower() in (".vms", ".vmu"):
        text = _read_head(path, _MAX_TEXT_BYTES)
        yield from (
            each for each in _list(path.parent) if each != path and each.name.encode() in text
        )


def _list(folder: Path, suffixes: tuple[str, ...] = ()) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (each for each in folder.iterdir() if each.is_file())
    return sorted(each for each in files if not suffixes or each.suffix.lower() in suffixes)


def _read_head(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def _contains(path: Path, mark: tuple[bytes, bytes]) -> bool:
    """Return whether a DICOM file is of a series, given as its tag and its value."""
    with suppress(OSError):  # not a file of the slide if it cannot be read
        head = _read_head(path, _HEAD_BYTES)
        tag, value = mark
        start = head.find(tag)
        while start >= 0:
            length = int.from_bytes(head[start + 6 : start + 8], "little")
            if head[start + 8 : start + 8 + length].rstrip(b"\0 ") == value:
                return True
            start = head.find(tag, start + 1)
    return False
