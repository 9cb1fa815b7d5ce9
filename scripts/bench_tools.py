"""What the benchmarks share: a large drawn slide, interleaved repeats, and JSON lines."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import TiffFile, TiffWriter

from milpath.synthetic import draw_slide

BLOCK = 2048
"""Pixels: a drawn slide repeats one piece of tissue of this side."""
TILE = 256
MPP = 0.25

Pixels = NDArray[np.uint8]


def say(**figures: object) -> None:
    """One JSON line."""
    print(json.dumps(figures), flush=True)


@dataclass
class Spent:
    """What the rounds of one piece of work took."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of all threads, in seconds: steadier than the clock on a machine that others use."""

    def rates(self, count: int) -> dict[str, float]:
        """Median, least and greatest per second, and processor milliseconds of each."""
        return {
            "per_s": round(count / statistics.median(self.seconds), 1),
            "least": round(count / max(self.seconds), 1),
            "most": round(count / min(self.seconds), 1),
            "cpu_ms": round(statistics.median(self.cpu) / count * 1e3, 3),
        }


def interleave(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Spent]:
    """Several pieces of work, all of them once a round, in turning order.

    A round before the counted ones warms the files' cache.
    """
    spent = {name: Spent() for name in runs}
    names = list(runs)
    for number in range(-1, repeats):
        turn = max(number, 0) % len(names)
        for name in names[turn:] + names[:turn]:
            start, used = time.perf_counter(), time.process_time()
            runs[name]()
            if number >= 0:
                spent[name].seconds.append(time.perf_counter() - start)
                spent[name].cpu.append(time.process_time() - used)
    return spent


def paired_ratio(slow: Spent, fast: Spent) -> float:
    """Median over the rounds of how many times faster the second one was."""
    pairs = zip(slow.seconds, fast.seconds, strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


def peak_mb(command: Sequence[str]) -> tuple[float, float, str]:
    """(seconds, peak resident MB, what it printed) of a process of its own."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        launched = [sys.executable, "-S", "-c", _LAUNCH, *command]
        done = subprocess.run(launched, stdout=out, stderr=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - start
        out.seek(0)
        printed = out.read().decode()
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}")
    unit = 1 << 20 if sys.platform == "darwin" else 1024
    return round(seconds, 2), round(int(done.stderr) / unit), printed


# Between this process and the one that is measured: Linux counts what a process was forked from as
# its own, and this one may be the larger of the two.
_LAUNCH = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def draw_large(path: Path, width: int, height: int) -> Path:
    """A slide of one drawn piece of tissue over and over, glass between, a JPEG pyramid.

    Tiles are encoded once and written many times, so that 40,000 px square take seconds.

    Parameters
    ----------
    path : the TIFF
    width, height : of level 0, rounded up to whole blocks
    """
    across, down = -(-width // BLOCK), -(-height // BLOCK)
    tissue = _draw_block()
    glass = np.full_like(tissue, np.median(tissue[:64, :64], axis=(0, 1)).astype(np.uint8))
    rows, cols = np.mgrid[0:down, 0:across]
    # an ellipse of tissue that fills about half of the slide
    filled = np.hypot((rows + 0.5) / down - 0.5, (cols + 0.5) / across - 0.5) < 0.4
    with TiffWriter(path, bigtiff=True) as tiff:
        for level in range(4):
            side = BLOCK >> (2 * level)
            blocks = [_shrink(each, side) for each in (glass, tissue)]
            shape = (down * side, across * side, 3)
            tiff.write(
                _tiles(blocks, filled) if side >= TILE else _tiles_of(_paste(blocks, filled)),
                shape=shape,
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subfiletype=1 if level else 0,
                resolution=(1e4 / MPP / 4**level,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
            )
    return path


def _draw_block() -> Pixels:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block.tif"
        draw_slide(path, seed=3, tumour=True, size_px=(BLOCK, BLOCK), mpp=0.5, artefacts=False)
        with TiffFile(path) as tiff:
            return np.array(tiff.pages[0].asarray())


def _shrink(block: Pixels, side: int) -> Pixels:
    return np.asarray(Image.fromarray(block).resize((side, side), Image.Resampling.BOX))


def _paste(blocks: Sequence[Pixels], filled: NDArray[np.bool_]) -> Pixels:
    return np.concatenate(
        [np.concatenate([blocks[int(each)] for each in row], axis=1) for row in filled]
    )


def _encode(tile: Pixels) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(tile, level=80, subsampling="420"))


def _tiles(blocks: Sequence[Pixels], filled: NDArray[np.bool_]) -> Iterator[bytes]:
    """The tiles of a level whose blocks are whole tiles, in reading order."""
    count = len(blocks[0]) // TILE
    encoded = [
        [
            _encode(np.ascontiguousarray(row[:, x : x + TILE]))
            for row in np.split(block, count)
            for x in _starts(block)
        ]
        for block in blocks
    ]
    for row in filled:
        for inner in range(count):
            for each in row:
                yield from encoded[int(each)][inner * count : (inner + 1) * count]


def _starts(picture: Pixels) -> range:
    return range(0, picture.shape[1], TILE)


def _tiles_of(picture: Pixels) -> Iterator[bytes]:
    padding = [(0, -size % TILE) for size in picture.shape[:2]]
    whole = np.pad(picture, [*padding, (0, 0)], mode="edge")
    for y in range(0, len(whole), TILE):
        for x in _starts(whole):
            yield _encode(np.ascontiguousarray(whole[y : y + TILE, x : x + TILE]))
