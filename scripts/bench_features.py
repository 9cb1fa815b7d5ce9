"""Measure how fast files of features are read: one of them, and an epoch over many.

python scripts/bench_features.py [--rows 20000] [--files 40] [--per-file 10000] [--dim 1024]

Prints JSON lines: milliseconds to read a file whole and 4,096 random rows of it, by layout; then
what an epoch of training reads by two threads, the default sample of each file and every row of
it, as a ratio to reading the bytes of the files and nothing else by two threads, from the file
cache and without it; and the memory that it takes for all files and for a quarter of them.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_tools import Spent, interleave, paired_ratio, say

from milpath.export_features import write_clam, write_stamp, write_trident
from milpath.formats.bag import Bag, encode_patch, write_bag
from milpath.formats.features import write_features
from milpath.formats.foreign import detect_features
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bags import Features, LabelledBag
from milpath.params import CodecParams, GridParams, TileParams, TrainParams
from milpath.patches.grid import PatchGrid
from milpath.slides.facts import SlideFacts

_SIDE = 16
_TILE = TileParams(grid=GridParams(patch_px=_SIDE), pixels=CodecParams())
_SAMPLE = TrainParams().features_per_bag
_THREADS = 2
_PIECE = 1 << 20  # bytes that are read at a time, where bytes alone are read


def main() -> None:
    """Measure single files, then an epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--per-file", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=Path, help="read this folder once and print the peak")
    options = parser.parse_args()
    if options.memory is not None:
        _read_epoch(_gather(options.memory))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ratios = read_layouts(folder / "one", options.rows, options.dim, options.repeats)
        many = folder / "many"
        draw(many, options.files, options.per_file, options.dim)
        ratios |= read_epoch(many, options.repeats)
        ratios |= compare_memory(many)
    say(ratios=ratios)


def draw(folder: Path, files: int, rows: int, dim: int) -> None:
    """Write files of drawn features, float16 (rows, dim); all but the first are copies."""
    folder.mkdir(parents=True)
    coords = np.stack([np.arange(rows) * _SIDE, np.zeros(rows)], axis=1).astype(np.int64)
    facts = SlideFacts("0", "made", rows * _SIDE, _SIDE, 0.5, 0.5, "slide", None, "made", "made")
    grid = PatchGrid(coords, _SIDE, _SIDE, _SIDE, (0, 0), 0.5, 0)
    patch = encode_patch(np.zeros((_SIDE, _SIDE, 3), np.uint8), _TILE.pixels)
    bag_file = folder.parent / "bag.h5"
    write_bag(bag_file, facts, grid, "bright", ((row, patch) for row in range(rows)), _TILE)
    features = np.random.default_rng(0).standard_normal((rows, dim), np.float32)
    encoder = EncoderSpec(name="made", patch_px=_SIDE, dim=dim, mpp=0.5, digest="made")
    with Bag(bag_file) as bag:
        write_features(folder / "0.h5", bag, [features], encoder)
    data = (folder / "0.h5").read_bytes()
    for number in range(1, files):
        (folder / f"{number}.h5").write_bytes(data)


def read_layouts(folder: Path, rows: int, dim: int, repeats: int) -> dict[str, float]:
    """Measure one file of features, as milpath, TRIDENT, CLAM and STAMP lay them out."""
    own = folder / "milpath"
    draw(own, 1, rows, dim)
    found = detect_features(own)
    with found.open("0", FeatureHints()) as slide:
        for name, write in (
            ("trident", write_trident),
            ("clam", write_clam),
            ("stamp", write_stamp),
        ):
            write(folder / name, own / "0.h5", slide)
    some = np.sort(np.random.default_rng(0).choice(rows, min(4096, rows), replace=False))
    runs: dict[str, Callable[[], object]] = {}
    places = {"milpath": own, "trident": folder / "trident" / "features_made"}
    places |= {"clam": folder / "clam", "stamp": folder / "stamp"}
    for name, place in places.items():
        layout = detect_features(place)
        for word, chosen in (("whole", slice(None)), ("some", some)):
            runs[f"{name}_{word}"] = partial(_read, layout.layout, layout.files["0"], chosen)
    spent = interleave(runs, repeats)
    figures = {
        f"{name}_ms": round(float(np.median(each.seconds)) * 1e3, 1) for name, each in spent.items()
    }
    say(figure="one file", rows=rows, dim=dim, some=len(some), **figures)
    return {
        f"{name}_to_milpath": paired_ratio(spent[f"{name}_whole"], spent["milpath_whole"])
        for name in places
        if name != "milpath"
    }


def _read(layout: object, path: Path, rows: object) -> object:
    with layout.open(path, FeatureHints()) as slide:  # type: ignore[attr-defined]
        return slide.features[rows]


def read_epoch(folder: Path, repeats: int) -> dict[str, float]:
    """Measure an epoch over all files, against reading the bytes alone."""
    bags = _gather(folder)
    paths = [bag.source.path for bag in bags if isinstance(bag.source, Features)]
    ratios = {}
    for word, prepare in (("cached", None), ("not cached", partial(_forget, paths))):
        runs: dict[str, Callable[[], object]] = {
            "sample": partial(_after, prepare, partial(_read_epoch, bags, _SAMPLE)),
            "all": partial(_after, prepare, partial(_read_epoch, bags)),
            "bytes": partial(_after, prepare, partial(_read_bytes, paths)),
        }
        spent: dict[str, Spent] = interleave(runs, repeats)
        rates = {name: each.rates(len(paths)) for name, each in spent.items()}
        say(figure="epoch", files=len(paths), cache=word, **rates)
        for name in ("sample", "all"):
            key = f"bytes_to_{name}_{word.replace(' ', '_')}"
            ratios[key] = paired_ratio(spent["bytes"], spent[name])
    return ratios


def _gather(folder: Path) -> list[LabelledBag]:
    found = detect_features(folder)
    bags = []
    for number, (slide_id, path) in enumerate(found.files.items()):
        source = Features(found.layout, path, FeatureHints())
        with found.layout.open(path, FeatureHints()) as slide:
            size = len(slide)
        bags.append(LabelledBag(source, slide_id, slide_id, number % 2, size))
    return bags


def _read_epoch(bags: Sequence[LabelledBag], sample: int | None = None) -> None:
    """Read and scale what an epoch of training does, with a number of rows of each file, or all."""
    from milpath.nn.data import BagSequence
    from milpath.nn.scaling import Scaling, scale_bags

    dim = bags[0].read(np.arange(1)).shape[1]
    scaling = Scaling(np.zeros(dim, np.float32), np.ones(dim, np.float32))
    width = sample or max(bag.size for bag in bags)
    batches = BagSequence(scale_bags(bags, scaling), np.ones(2, np.float32), 4, width, seed=0)
    _in_threads(lambda index: len(batches[index][0]), range(len(batches)))


def _in_threads(task: Callable[[Any], object], items: Sequence[Any]) -> None:
    """Do a task for each item in as many threads as Keras reads batches with."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for at in range(0, len(items), 2 * _THREADS):  # so that few batches are held
            list(pool.map(task, items[at : at + 2 * _THREADS]))


def _read_bytes(paths: Sequence[Path]) -> None:
    def read(path: Path) -> None:
        buffer = bytearray(_PIECE)
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    _in_threads(read, paths)


def _after(prepare: Callable[[], object] | None, run: Callable[[], object]) -> None:
    if prepare is not None:
        prepare()
    run()


def _forget(paths: Sequence[Path]) -> None:
    """Remove files from the file cache, where the system allows it."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare_memory(folder: Path) -> dict[str, float]:
    """Measure the peak memory of an epoch over all files, and over a quarter of them."""
    few = folder.parent / "few"
    few.mkdir()
    paths = sorted(folder.glob("*.h5"))
    for path in paths[: max(4, len(paths) // 4)]:
        (few / path.name).hardlink_to(path)
    peaks = {}
    for word, place in (("all", folder), ("quarter", few)):
        command = [sys.executable, __file__, "--memory", str(place)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[word] = int(done.stdout.split()[-1])
    say(figure="memory", files=len(paths), **{f"{word}_mib": peak for word, peak in peaks.items()})
    return {"memory_all_to_quarter": round(peaks["all"] / peaks["quarter"], 3)}


if __name__ == "__main__":
    main()
