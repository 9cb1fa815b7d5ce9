"""Compare milpath's tiling speed with a plain script and with the decoder alone.

python scripts/bench_tile.py [--slide PATH]... [--side 40000] [--repeats 5] [--whole]

Prints one JSON line per figure, and a last line of ratios: medians over rounds in which each task
runs once, in rotating order. Baselines, all on the same patches:

script   a plain script: read_region, Pillow's bicubic, uint8 in HDF5
limit 1  decode each native tile once, and nothing else
limit 2  decode, area-resize, JPEG-encode and write to one HDF5 file in a plain loop
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import script_tile
from bench_tools import Pixels, draw_large, interleave, paired_ratio, peak_mb, say
from numpy.typing import NDArray
from PIL import Image
from simplejpeg import encode_jpeg

from milpath.formats.bag import encode_patch, write_bag
from milpath.params import GridParams, TileParams
from milpath.patches.grid import PatchGrid
from milpath.patches.reader import read_patch, stream_patches
from milpath.patches.tiff import TiffLevel, open_tiff_level
from milpath.patches.tilecache import TileCache
from milpath.slides.resample import Windows, frame_windows
from milpath.slides.slide import Slide
from milpath.tile import plan_slide

QUALITY = TileParams().pixels.quality


def main() -> None:
    """Measure each given slide, and a synthetic one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path, action="append", default=[])
    parser.add_argument("--side", type=int, default=40_000, help="of the synthetic slide; 0 = none")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patches", type=int, default=600, help="maximum, for the rates")
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--whole", action="store_true", help="also time whole commands")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch, ratios = Path(folder), {}
        slides = list(options.slide)
        if options.side:
            slides.append(draw_large(scratch / "drawn.tif", options.side, options.side))
        for path in slides:
            ratios[path.stem] = measure(path, scratch, options)
        if options.side and options.whole:
            path = draw_large(scratch / "twice.tif", 2 * options.side, options.side)
            ratios["drawn"] |= compare_memory(slides[-1], path, scratch, options.mpp)
    say(ratios=ratios)


def measure(path: Path, scratch: Path, options: argparse.Namespace) -> dict[str, float]:
    """Print all figures of one slide; return its ratios."""
    params = TileParams(grid=GridParams(mpp=options.mpp))
    with Slide(path) as slide:
        plan = plan_slide(slide, params)
        start = time.perf_counter()
        plan_slide(slide, params)
        seconds = round(time.perf_counter() - start, 3)
        thumbnail = int(np.prod(plan.thumbnail.rgb.shape[:2]))
        say(slide=path.stem, figure="tissue and grid", seconds=seconds, overview_px=thumbnail)
        first = max(0, (len(plan.grid) - options.patches) // 2)
        grid = plan.grid.select(np.arange(first, min(len(plan.grid), first + options.patches)))
        ratios = {"tissue_and_grid_s": seconds}
        ratios |= compare_pixels(slide, grid) | count_decodes(slide, grid)
        ratios |= compare_rates(slide, grid, params, scratch, options.repeats)
    if options.whole:
        ratios |= compare_commands(path, scratch, options.mpp, min(options.repeats, 3))
    return ratios


def compare_pixels(slide: Slide, grid: PatchGrid) -> dict[str, float]:
    """Compare every fifth patch with OpenSlide's pixels after the same resampling."""
    differences = [
        int(np.abs(pixels.astype(int) - read_patch(slide, grid, row)).max())
        for row, pixels in stream_patches(slide, grid, np.array, 2)
        if row % 5 == 0
    ]
    say(slide=slide.slide_id, figure="pixels", compared=len(differences), largest=max(differences))
    return {"largest_difference": max(differences)}


def count_decodes(slide: Slide, grid: PatchGrid) -> dict[str, float]:
    """Count how often a native tile is decoded on average."""
    read_tile, decoded = TiffLevel.read_tile, []

    def counted(level: TiffLevel, row: int, col: int) -> Pixels | None:
        decoded.append((row, col))
        return read_tile(level, row, col)

    level = open_tiff_level(slide, grid.level)
    if level is None:
        return {}
    level.close()
    TiffLevel.read_tile = counted  # type: ignore[method-assign]
    try:
        for _ in stream_patches(slide, grid, np.array, 2):
            pass
    finally:
        TiffLevel.read_tile = read_tile  # type: ignore[method-assign]
    del decoded[:3]  # read to compare them with OpenSlide's
    mean = round(len(decoded) / len(set(decoded)), 4)
    say(slide=slide.slide_id, figure="decodes a tile", tiles=len(set(decoded)), mean=mean)
    return {"decodes_a_tile": mean}


def compare_rates(
    slide: Slide, grid: PatchGrid, params: TileParams, scratch: Path, repeats: int
) -> dict[str, float]:
    """Measure patches per second of milpath and the baselines, without start-up and tissue."""
    out = scratch / "rate.h5"

    def ours(threads: int) -> None:
        encode = partial(encode_patch, params=params.pixels)
        patches = stream_patches(slide, grid, encode, threads)
        write_bag(out, slide.facts, grid, "bright", patches, params)

    runs: dict[str, Callable[[], object]] = {
        "milpath 1": partial(ours, 1),
        "milpath 2": partial(ours, 2),
        "script": partial(script_tile.cut, slide.path, grid.coords, grid.patch_size_l0, out),
    }
    level = open_tiff_level(slide, grid.level)
    if level is not None:
        for threads in (1, 2):
            runs[f"limit 1, {threads}"] = partial(decode_only, level, grid, slide, threads)
            runs[f"limit 2, {threads}"] = partial(plain_loop, level, grid, slide, out, threads)
    seconds = interleave(runs, repeats)
    for name, each in seconds.items():
        say(slide=slide.slide_id, run=name, patches=len(grid), **each.rates(len(grid)))
    ratios = {"2_threads_to_script": paired_ratio(seconds["script"], seconds["milpath 2"])}
    for threads in (1, 2) if level is not None else ():
        for limit in (1, 2):
            key = f"{threads}_threads_to_limit_{limit}"
            reference = seconds[f"limit {limit}, {threads}"]
            ratios[key] = paired_ratio(reference, seconds[f"milpath {threads}"])
    if level is not None:
        level.close()
    return ratios


# -- limits ----------------------------------------------------------------------------------------


def frame(grid: PatchGrid, slide: Slide) -> Windows:
    side = float(grid.patch_size_l0)
    size = grid.patch_px, grid.patch_px
    return frame_windows(grid.coords, (side, side), size, slide.level_factors[grid.level])


def decode_only(level: TiffLevel, grid: PatchGrid, slide: Slide, threads: int) -> None:
    """Limit 1: decode every tile that a patch touches, once, with simplejpeg alone."""
    windows = frame(grid, slide)
    low = (windows.first // level.tile).clip(0)
    high = -(-(windows.first + windows.extent) // level.tile)
    shape = level.counts.shape
    touched = sorted(
        {
            (row, col)
            for (x0, y0), (x1, y1) in zip(low.tolist(), high.tolist(), strict=True)
            for row in range(y0, min(y1, shape[0]))
            for col in range(x0, min(x1, shape[1]))
        }
    )

    def some(number: int) -> None:
        for row, col in touched[number::threads]:
            level.read_tile(row, col)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(some, range(threads)))


def plain_loop(level: TiffLevel, grid: PatchGrid, slide: Slide, out: Path, threads: int) -> None:
    """Limit 2: each thread processes its part of the patches in order.

    Threads share a tile cache; Pillow's box filter takes the place of the area resize.
    """
    windows = frame(grid, slide)
    cache = TileCache(level, windows, slide.background)
    size = grid.patch_px, grid.patch_px

    def encoded(rows: NDArray[np.int64]) -> list[bytes]:
        made = []
        for row in rows.tolist():
            window = cache.read(row)
            assert window is not None
            box = windows.box(row)
            small = Image.fromarray(window).resize(size, Image.Resampling.BOX, box=box)
            made.append(encode_jpeg(np.asarray(small), QUALITY, "rgb", "444"))
            cache.release([row])
        return made

    shares = np.array_split(np.arange(len(grid)), max(1, len(grid) // 32))
    with h5py.File(out, "w") as h5, ThreadPoolExecutor(threads) as pool:
        patches = h5.create_dataset("patches", (0,), np.uint8, maxshape=(None,), chunks=(1 << 20,))
        for share in pool.map(encoded, shares) if threads > 1 else map(encoded, shares):
            data = np.frombuffer(b"".join(share), np.uint8)
            patches.resize(len(patches) + len(data), axis=0)
            patches[len(patches) - len(data) :] = data


# -- whole commands --------------------------------------------------------------------------------


def compare_commands(path: Path, scratch: Path, mpp: float, repeats: int) -> dict[str, float]:
    """Compare `milpath tile` with the script in two processes, start-up included."""
    folder = scratch / "bags"
    tile = [sys.executable, "-m", "milpath", "tile", str(path), "--out", str(folder)]
    tile += ["--mpp", str(mpp)]
    script = [sys.executable, script_tile.__file__, str(path), str(scratch / "script"), "2"]
    peaks: dict[str, float] = {}

    def run(name: str, command: list[str]) -> None:
        for each in folder.rglob("*.*"):
            each.unlink()  # otherwise milpath skips the slide as already done
        peaks[name] = peak_mb(command)[1]

    runs = {"milpath": partial(run, "milpath", tile), "script": partial(run, "script", script)}
    seconds = interleave(runs, repeats)
    for name, each in seconds.items():
        say(
            slide=path.stem,
            command=name,
            seconds=round(float(np.median(each.seconds)), 2),
            peak_mb=peaks[name],
        )
    return {
        "command_to_two_process_script": round(
            1 / paired_ratio(seconds["script"], seconds["milpath"]), 3
        ),
        "peak_mb": peaks["milpath"],
    }


def compare_memory(one: Path, two: Path, scratch: Path, mpp: float) -> dict[str, float]:
    """Measure peak memory on a slide and on one twice as large."""
    found = []
    for path in (one, two):
        command = [sys.executable, "-m", "milpath", "tile", str(path), "--mpp", str(mpp)]
        seconds, peak, _ = peak_mb([*command, "--out", str(scratch / "memory")])
        say(slide=path.stem, figure="memory", seconds=seconds, peak_mb=peak)
        found.append(peak)
    return {"peak_mb_of_twice_as_large": found[1]}


if __name__ == "__main__":
    main()
