"""Shared by the benchmarks: a large synthetic slide, interleaved repeats, and JSON lines."""

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
"""Side in pixels of the piece of tissue that a slide repeats."""
TILE = 256
MPP = 0.25

Pixels = NDArray[np.uint8]


def say(**figures: object) -> None:
    """Print a JSON line."""
    print(json.dumps(figures), flush=True)


@dataclass
class Spent:
    """Time of each round of one task."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """CPU seconds of all threads: varies less than wall time on a shared machine."""

    def rates(self, count: int) -> dict[str, float]:
        """Return the median, least and greatest rate per second, and CPU milliseconds per item."""
        return {
            "per_s": round(count / statistics.median(self.seconds), 1),
            "least": round(count / max(self.seconds), 1),
            "most": round(count / min(self.seconds), 1),
            "cpu_ms": round(statistics.median(self.cpu) / count * 1e3, 3),
        }


def interleave(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Spent]:
    """Time several tasks, each once per round, with the order rotated every round.

    An uncounted round before the others fills the file cache.
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
    """Return the median over the rounds of slow time / fast time."""
    pairs = zip(slow.seconds, fast.seconds, strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


def peak_mb(command: Sequence[str]) -> tuple[float, float, str]:
    """Run a command; return (seconds, peak resident MB, stdout)."""
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


# Runs between this process and the measured one: Linux counts the memory of the process that a
# child was forked from as the child's, and this process may be the larger one.
_LAUNCH = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def draw_large(path: Path, width: int, height: int) -> Path:
    """Write a JPEG pyramid that repeats one synthetic piece of tissue inside an ellipse.

    Each different tile is encoded only once, so that 40,000 x 40,000 px take seconds.

    Parameters
    ----------
    path : the TIFF
    width, height : of level 0, rounded up to whole blocks
    """
    across, down = -(-width // BLOCK), -(-height // BLOCK)
    tissue = _draw_block()
    background = np.full_like(tissue, np.median(tissue[:64, :64], axis=(0, 1)).astype(np.uint8))
    rows, cols = np.mgrid[0:down, 0:across]
    # the ellipse of tissue covers about half of the slide
    filled = np.hypot((rows + 0.5) / down - 0.5, (cols + 0.5) / across - 0.5) < 0.4
    with TiffWriter(path, bigtiff=True) as tiff:
        for level in range(4):
            side = BLOCK >> (2 * level)
            blocks = [_shrink(each, side) for each in (background, tissue)]
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
    """Yield the tiles of a level whose blocks are whole tiles, in row-major order."""
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
