"""Tile a slide without milpath, as a plain script would: a baseline of bench_tile.py.

python scripts/script_tile.py SLIDE OUT PROCESSES
"""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import h5py
import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image
from skimage.filters import threshold_otsu

MPP, SIDE = 0.5, 256


def cut(path: Path, coords: NDArray[np.int64], side_l0: int, out: Path) -> int:
    """Read patches, resize them and write them to one HDF5 file; return their number."""
    slide = openslide.OpenSlide(path)
    with h5py.File(out, "w") as h5:
        shape = (SIDE, SIDE, 3)
        patches = h5.create_dataset("patches", (len(coords), *shape), np.uint8, chunks=(1, *shape))
        for row, (x, y) in enumerate(coords.tolist()):
            region = slide.read_region((x, y), 0, (side_l0, side_l0)).convert("RGB")
            patches[row] = np.asarray(region.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        h5["coords"] = coords
    slide.close()
    return len(coords)


def find_patches(path: Path) -> tuple[NDArray[np.int64], int]:
    """Return coordinates and side of the patches with tissue, by Otsu's threshold on saturation."""
    slide = openslide.OpenSlide(path)
    side = round(SIDE * MPP / float(slide.properties[openslide.PROPERTY_NAME_MPP_X]))
    width, height = slide.dimensions
    thumbnail = slide.get_thumbnail((width // 32, height // 32)).convert("HSV")
    saturation = np.asarray(thumbnail)[..., 1]
    tissue = saturation > threshold_otsu(saturation)
    kept = [
        (x, y)
        for y in range(0, height - side + 1, side)
        for x in range(0, width - side + 1, side)
        if tissue[y // 32 : (y + side) // 32, x // 32 : (x + side) // 32].mean() > 0.25
    ]
    return np.array(kept), side


def main() -> None:
    """Tile a slide with several processes, one output file each."""
    path, out, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    coords, side = find_patches(path)
    parts = np.array_split(coords, processes)
    work = [(path, part, side, out / f"{number}.h5") for number, part in enumerate(parts)]
    with multiprocessing.Pool(processes) as pool:
        pool.starmap(cut, work)


if __name__ == "__main__":
    main()
