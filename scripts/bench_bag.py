"""Measure how a bag stores pixels: size, write and random-read speed, fidelity.

python scripts/bench_bag.py [--slide PATH] [--patches 500] [--repeats 5]

Prints one JSON line per codec, and a last line of ratios.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
from bench_tools import Pixels, draw_large, interleave, say

from milpath.params import TileParams
from milpath.patches.reader import stream_patches
from milpath.slides.slide import Slide
from milpath.tile import plan_slide

Codec = tuple[Callable[[Pixels], bytes], Callable[[bytes], Pixels]]


def main() -> None:
    """Measure the codecs on patches of a slide."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path, help="default: a synthetic slide")
    parser.add_argument("--patches", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        path = options.slide or draw_large(scratch / "drawn.tif", 16_000, 16_000)
        ratios = compare_codecs(path, options.patches, options.repeats)
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


if __name__ == "__main__":
    main()
