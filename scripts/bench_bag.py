"""Measure how a bag stores pixels and features: size, write and random-read speed, fidelity.

python scripts/bench_bag.py [--slide PATH] [--patches 500] [--rows 20000] [--repeats 5]

Prints one JSON line per codec, one for the features, and a last line of ratios.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
from bench_tools import Pixels, draw_large, interleave, paired_ratio, say

from milpath.formats.bag import Bag, encode_patch, write_bag, write_features
from milpath.params import CodecParams, TileParams
from milpath.patches.grid import PatchGrid
from milpath.patches.reader import stream_patches
from milpath.slides.facts import SlideFacts
from milpath.slides.slide import Slide
from milpath.tile import plan_slide

Codec = tuple[Callable[[Pixels], bytes], Callable[[bytes], Pixels]]


def main() -> None:
    """Measure the codecs on patches of a slide, then the features."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path, help="default: a synthetic slide")
    parser.add_argument("--patches", type=int, default=500)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        path = options.slide or draw_large(scratch / "drawn.tif", 16_000, 16_000)
        ratios = compare_codecs(path, options.patches, options.repeats)
        ratios |= read_features(scratch / "features.h5", options.rows, options.repeats)
    say(ratios=ratios)


def codecs() -> dict[str, Codec]:
    """Return candidate codecs for patches: name to (encode, decode)."""

    def jpeg(quality: int, subsampling: str) -> Codec:
        encode = partial(imagecodecs.jpeg8_encode, level=quality, subsampling=subsampling)
        return encode, imagecodecs.jpeg8_decode

    found: dict[str, Codec] = {
        f"jpeg {quality} {'4:2:0' if subsampling == '420' else '4:4:4'}": jpeg(quality, subsampling)
        for quality, subsampling in ((80, "420"), (90, "420"), (90, "444"), (95, "444"))
    }
    found["png"] = partial(imagecodecs.png_encode, level=1), imagecodecs.png_decode
    found["webp lossless"] = (
        partial(imagecodecs.webp_encode, lossless=True, level=0),
        imagecodecs.webp_decode,
    )
    found["raw"] = np.ndarray.tobytes, partial(np.frombuffer, dtype=np.uint8)
    return found


def compare_codecs(path: Path, count: int, repeats: int) -> dict[str, float]:
    """Measure size, speed and fidelity of each codec on the same patches."""
    with Slide(path) as slide:
        grid = plan_slide(slide, TileParams()).grid
        grid = grid.select(np.arange(min(count, len(grid))))
        patches = [pixels for _, pixels in stream_patches(slide, grid, np.array, 2)]
    order = np.random.default_rng(0).permutation(len(patches))
    encoded = {name: [encode(each) for each in patches] for name, (encode, _) in codecs().items()}
    runs: dict[str, Callable[[], object]] = {}
    for name, (encode, decode) in codecs().items():
        runs[f"write {name}"] = partial(lambda how: [how(each) for each in patches], encode)
        runs[f"read {name}"] = partial(
            lambda how, kept: [how(kept[row]) for row in order], decode, encoded[name]
        )
    seconds = interleave(runs, repeats)
    for name, (_, decode) in codecs().items():
        errors = [
            np.square(decode(kept).reshape(each.shape).astype(float) - each).mean()
            for kept, each in zip(encoded[name], patches, strict=True)
        ]
        worst = max(errors)
        say(
            codec=name,
            bytes_a_patch=round(sum(map(len, encoded[name])) / len(patches)),
            write=seconds[f"write {name}"].rates(len(patches)),
            read=seconds[f"read {name}"].rates(len(patches)),
            db=None if worst == 0 else round(10 * np.log10(255**2 / np.mean(errors)), 1),
            worst_db=None if worst == 0 else round(10 * np.log10(255**2 / worst), 1),
        )
    default, raw = encoded["jpeg 90 4:4:4"], encoded["raw"]
    return {"raw_to_default_size": round(sum(map(len, raw)) / sum(map(len, default)), 2)}


def read_features(path: Path, rows: int, repeats: int) -> dict[str, float]:
    """Measure how long a bag's features (rows, 1024) take to read: all, and 4096 random rows."""
    rng = np.random.default_rng(0)
    side = 16
    coords = np.stack([np.arange(rows) * side, np.zeros(rows)], axis=1).astype(np.int64)
    facts = SlideFacts("made", "made", rows * side, side, 0.5, 0.5, "slide", None, "made")
    grid = PatchGrid(coords, side, side, side, (0, 0), 0.5, 0)
    params = TileParams(pixels=CodecParams())
    patch = encode_patch(np.zeros((side, side, 3), np.uint8), params.pixels)
    write_bag(path, facts, grid, "bright", ((row, patch) for row in range(rows)), params)
    features = rng.standard_normal((rows, 1024), dtype=np.float32).astype(np.float16)
    with Bag(path) as bag:
        write_features(bag, [features], "made", "made", 1024)
    some = np.sort(rng.choice(rows, min(4096, rows), replace=False))
    with Bag(path) as bag:
        assert np.array_equal(bag.read_features(some), features[some])
        runs = {"all": bag.read_features, "some": partial(bag.read_features, some)}
        spent = interleave(runs, repeats)
    found = {
        f"features_{name}_ms": round(float(np.median(each.seconds)) * 1e3, 1)
        for name, each in spent.items()
    }
    say(figure="features", rows=rows, dim=1024, some=len(some), **found)
    return found | {"all_to_some": paired_ratio(spent["all"], spent["some"])}


if __name__ == "__main__":
    main()
