"""Untrusted files: HDF5, texts, models and slides that are malicious, malformed or damaged.

Prints one JSON line per figure, and one per file with a wrong result; then the exit code is 1. Each
file is read in a child process, with its processor time (`worst_seconds`) and the memory above that
before the file was read (`worst_mib`).

python scripts/bench_untrusted.py [--quick] [--only hdf5 texts bundles damage slides tile]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import support_path  # noqa: F401 (finds support)
from support.untrusted import hdf5, slides, texts
from support.untrusted.watch import Case, CaseResult, watch
from tifffile import TiffFile, TiffWriter

from milpath.cohort.cohort import SlideEntry
from milpath.errors import StoredFileError
from milpath.formats.bag import Bag
from milpath.params import CodecParams, GridParams, TileParams, TissueParams
from milpath.tile import tile_slide

HDF5_SECONDS, HDF5_MIB = 1.0, 300.0
SLIDE_SECONDS, SLIDE_MIB = 20.0, 1024.0


@dataclass(frozen=True)
class Sort:
    """Files of one sort, with their limits of processor time and memory."""

    cases: Callable[[], Iterable[Case]]
    seconds: float
    mib: float
    quick: int
    """A quick run reads every n-th file; none for 0."""


def _bundles() -> Iterable[Case]:
    from support.untrusted.bundles import bundle_cases  # imports TensorFlow

    return bundle_cases()


SORTS = {
    "hdf5": Sort(hdf5.hdf5_cases, HDF5_SECONDS, HDF5_MIB, 7),
    "foreign": Sort(hdf5.foreign_cases, HDF5_SECONDS, HDF5_MIB, 7),
    "texts": Sort(texts.text_cases, HDF5_SECONDS, HDF5_MIB, 3),
    "bundles": Sort(_bundles, HDF5_SECONDS, HDF5_MIB, 0),
    "slides": Sort(slides.slide_cases, SLIDE_SECONDS, SLIDE_MIB, 113),
}


def read_files(name: str, sort: Sort, every: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a line per file with a wrong result, then the figure."""
    begun = time.monotonic()
    results: list[CaseResult] = []
    bad = 0
    for result in watch(islice(sort.cases(), 0, None, every), folder):
        results.append(result)
        slow = result.seconds > sort.seconds or result.mib > sort.mib
        if result.ending not in ("accepted", "refused") or slow:
            bad += 1
            yield {"failed": result.name, **_rounded(vars(result) | {"name": name})}
        for each in folder.iterdir():
            shutil.rmtree(each)
    counts = Counter(result.ending for result in results)
    yield _rounded(
        {
            "figure": name,
            "files": len(results),
            "accepted": counts["accepted"],
            "refused": counts["refused"],
            "bad": bad,
            "worst_seconds": max(result.seconds for result in results),
            "worst_mib": max(result.mib for result in results),
            "seconds": time.monotonic() - begun,
        }
    )


def flip_every_byte(path: Path, read: Callable[[Path], None], every: int = 1) -> None:
    """Read a file once per byte, with this byte damaged."""
    data = path.read_bytes()
    wrong = 0
    with path.open("r+b", buffering=0) as file:
        for place in range(0, len(data), every):
            _put(file, place, data[place] ^ 1 << place % 8)
            with suppress(StoredFileError):
                read(path)
                wrong += 1
            _put(file, place, data[place])
    if wrong:
        raise AssertionError(f"{wrong} damaged files were read")


def _put(file: Any, place: int, value: int) -> None:
    file.seek(place)
    file.write(bytes([value]))


def flip(every: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Damage every byte of a bag, a prediction and weights in turn; each must be refused."""
    for kind, (write, read, _) in hdf5.KINDS.items():

        def place(where: Path, write: Callable[[Path], None] = write) -> Path:
            write(where / "x.h5")
            return where / "x.h5"

        case = Case(kind, place, partial(flip_every_byte, read=read, every=every), accepted=True)
        (result,) = watch([case], folder, seconds=600)
        size = (folder / "0" / "x.h5").stat().st_size
        shutil.rmtree(folder / "0")
        bad = int(result.ending != "accepted")
        line = {"figure": f"damage {kind}", "bytes": len(range(0, size, every)), "bad": bad}
        yield _rounded({**line, "message": result.message, "seconds": result.seconds})


def lose_a_tile(folder: Path) -> Iterator[dict[str, Any]]:
    """Damage one of a slide's 256 tiles, and count the patches that are lost or differ."""
    pixels = np.full((4096, 4096, 3), 240, np.uint8)  # background at the edge, tissue elsewhere
    tissue = np.random.default_rng(0).normal((180, 90, 150), 20, (3584, 3584, 3))
    pixels[256:-256, 256:-256] = tissue.clip(0, 255)
    params = TileParams(
        tissue=TissueParams(min_area_um2=0),
        grid=GridParams(mpp=1.0, patch_px=256, min_tissue=0.01),
        pixels=CodecParams(codec="raw"),
    )
    for compression in ("zlib", "jpeg"):
        kept = []
        for state in ("whole", "damaged"):
            path = folder / f"{compression}-{state}.tif"
            with TiffWriter(path) as tiff:
                tiff.write(
                    pixels, tile=(256, 256), photometric="rgb", compression=compression,
                    resolution=(1e4, 1e4), resolutionunit="CENTIMETER", metadata=None,
                )  # fmt: skip
            if state == "damaged":
                _damage(path, 137)
            tile_slide(SlideEntry(path, path.stem), folder, params)
            with Bag(folder / f"{path.stem}.h5") as bag:
                places = map(tuple, bag.grid.coords.tolist())
                kept.append(dict(zip(places, bag.read_patches(np.arange(len(bag))), strict=True)))
        whole, damaged = kept
        same = sum(np.array_equal(whole[at], each) for at, each in damaged.items())
        line = {"figure": f"tile {compression}", "patches": len(whole), "left": len(damaged)}
        yield {**line, "same": same, "bad": int(not len(whole) - 1 == len(damaged) == same)}


def _damage(path: Path, tile: int) -> None:
    with TiffFile(path) as tiff:
        page = tiff.pages.first
        start, length = page.dataoffsets[tile], page.databytecounts[tile]
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * length)


def _rounded(line: dict[str, Any]) -> dict[str, Any]:
    return {name: round(v, 3) if isinstance(v, float) else v for name, v in line.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="some files of each sort")
    names = [*SORTS, "damage", "tile"]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SORT")
    args = parser.parse_args()
    bad = 0
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # not slowed down by the disk
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        for line in _lines(args, Path(folder)):
            print(json.dumps(line, ensure_ascii=False), flush=True)
            bad += line.get("bad", 0)
    sys.exit(bool(bad))


def _lines(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    for name in args.only:
        if name in SORTS:
            every = SORTS[name].quick if args.quick else 1
            if every:
                yield from read_files(name, SORTS[name], every, folder)
        elif name == "damage":
            yield from flip(61 if args.quick else 1, folder)
        else:
            yield from lose_a_tile(folder)


if __name__ == "__main__":
    main()
