"""Compare classification from a slide file with the bare network, in time and memory.

python scripts/bench_classify.py [--slide PATH]... [--side 8000] [--encoder small] [--repeats 5]

Prints one JSON line per figure, and a last line of ratios: medians over rounds in which each task
runs once, in rotating order.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from bench_tools import BLOCK, MPP, draw_large, interleave, paired_ratio, peak_mb, say
from numpy.typing import NDArray

from milpath.params import CodecParams, GridParams, HeadParams, TileParams
from milpath.patches.grid import PatchGrid
from milpath.patches.reader import stream_patches
from milpath.slides.slide import Slide
from milpath.tile import plan_slide

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

Floats = NDArray[np.float32]
SMALL_PX = 32
"""Side of patches where memory is measured: small, so that a small slide has many."""


def main() -> None:
    """Measure the stream, pooling and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path, action="append", default=[])
    parser.add_argument("--side", type=int, default=8_000, help="of the synthetic slide; 0 = none")
    parser.add_argument("--encoder", default="small", help="or one of keras.applications")
    parser.add_argument("--patches", type=int, default=512, help="maximum per slide")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000, help="number of pooled embeddings")
    parser.add_argument("--counts", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--classify", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.classify is not None:
        say(patches=classify(options.classify))
        return
    ratios: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if options.counts:
            ratios["peak_memory_most_to_least"] = compare_memory(scratch, options.counts)
        slides = list(options.slide)
        if options.side:
            slides.append(draw_large(scratch / "drawn.tif", options.side, options.side))
        for path in slides:
            ratios[path.stem] = compare_stream(path, options)
        if options.rows:
            ratios |= compare_pooling(options.rows, options.repeats)
    say(ratios=ratios)


# -- the stream against the bare network -----------------------------------------------------------


def build(encoder: str, side: int) -> object:
    """Return an evidence model with random weights."""
    from milpath.nn.encoders import SMALL, build_encoder
    from milpath.nn.mil import Member, build_evidence, build_head

    network = build_encoder(encoder, side)
    head = build_head(2, HeadParams(), projected=encoder != SMALL)
    head.build((None, None, network.output_shape[-1]))
    return build_evidence((side, side, 3), [Member(head)], network)


def compare_stream(path: Path, options: argparse.Namespace) -> dict[str, float]:
    """Compare patches per second from the file with the network on the same patches in memory."""
    from milpath.formats.bag import as_kept
    from milpath.nn.scoring import BATCH, collect_evidence

    params = TileParams()
    kept = partial(as_kept, params=params.pixels)
    model = build(options.encoder, params.grid.patch_px)
    with Slide(path) as slide:
        grid = plan_slide(slide, params).grid
        count = min(len(grid), options.patches) // BATCH * BATCH or len(grid)
        grid = grid.select(np.arange(count))
        pixels = np.stack([each for _, each in stream_patches(slide, grid, kept, 2)])
        answers = {}

        def stream(name: str, grid: PatchGrid) -> None:
            patches = stream_patches(slide, grid, kept, options.threads)
            answers[name] = collect_evidence(model, (each[None] for _, each in patches))

        def bare() -> None:
            for start in range(0, count, BATCH):
                model.predict_on_batch(pixels[start : start + BATCH])

        def read_only() -> None:
            for _ in stream_patches(slide, grid, kept, options.threads):
                pass

        runs: dict[str, Callable[[], object]] = {
            "stream": partial(stream, "stream", grid),
            "bare network": bare,
            "reading alone": read_only,
        }
        for batch in (16, 32, 128):
            runs[f"bare network, batch of {batch}"] = partial(
                lambda size: [
                    model.predict_on_batch(pixels[start : start + size])
                    for start in range(0, count, size)
                ],
                batch,
            )
        seconds = interleave(runs, options.repeats)
    for name, each in seconds.items():
        say(slide=path.stem, encoder=options.encoder, run=name, **each.rates(count))
    ratio = paired_ratio(seconds["bare network"], seconds["stream"])
    return {"stream_to_bare_network": ratio}


# -- pooling ---------------------------------------------------------------------------------------


def compare_pooling(rows: int, repeats: int) -> dict[str, float]:
    """Compare pooling of embeddings (rows, 512) in batches with NumPy on all of them at once."""
    from milpath.nn.mil import Member, build_evidence, build_head
    from milpath.nn.scoring import collect_evidence, pool_evidence

    head = build_head(2, HeadParams(), projected=False)
    head.build((None, None, 512))
    model = build_evidence((512,), [Member(head)])
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((rows, 512), dtype=np.float32)
    answers = {}

    def stream() -> None:
        parts = (embeddings[start : start + 10_000] for start in range(0, rows, 10_000))
        attention, contributions = pool_evidence(*collect_evidence(model, parts))
        answers["stream"] = attention[0], contributions[0].sum(axis=0)

    def at_once() -> None:
        weights = [np.asarray(each) for each in (head.attention.V, head.attention.U)]
        gate = 1 / (1 + np.exp(-(embeddings @ weights[1])))
        scores = (np.tanh(embeddings @ weights[0]) * gate) @ np.asarray(head.attention.w)[:, 0]
        attention = np.exp(scores - scores.max())
        attention /= attention.sum(dtype=np.float64)
        pooled = attention @ embeddings
        answers["NumPy"] = attention, pooled @ np.asarray(head.classifier.kernel)

    seconds = interleave({"stream": stream, "NumPy": at_once}, repeats)
    for name, each in seconds.items():
        say(figure="pooling", run=name, rows=rows, seconds=round(float(np.median(each.seconds)), 3))
    (ours, logits), (theirs, expected) = answers["stream"], answers["NumPy"]
    difference = max(float(np.abs(logits - expected).max()), float(np.abs(ours / theirs - 1).max()))
    say(figure="pooling", largest_difference=difference)
    return {
        "pooling_to_numpy": round(1 / paired_ratio(seconds["NumPy"], seconds["stream"]), 3),
        "pooling_difference": round(difference, 9),
    }


# -- memory ----------------------------------------------------------------------------------------


def compare_memory(scratch: Path, counts: list[int]) -> float:
    """Measure peak memory for slides of increasing numbers of patches, one process each."""
    peaks = []
    for count in counts:
        # a third of a synthetic slide is tissue
        side = math.ceil(math.sqrt(count * 3) * SMALL_PX * 0.5 / MPP / BLOCK) * BLOCK
        path = draw_large(scratch / f"{count}.tif", side, side)
        command = [sys.executable, __file__, "--classify", str(path)]
        seconds, peak, printed = peak_mb(command)
        say(figure="memory", side_px=side, seconds=seconds, peak_mb=peak, **json.loads(printed))
        peaks.append(peak)
        path.unlink()
    return round(max(peaks) / peaks[0], 3)


def classify(path: Path) -> int:
    """Classify one slide as `milpath classify` does; return its number of patches."""
    from milpath.cohort.cohort import SlideEntry
    from milpath.formats.model_spec import BundleSpec, EncoderSpec
    from milpath.nn.bundle import Bundle
    from milpath.nn.classify import Classifier
    from milpath.nn.encoders import SMALL, build_encoder
    from milpath.nn.mil import Member, build_head

    encoder = build_encoder(SMALL, SMALL_PX)
    head = build_head(2, HeadParams(), projected=False)
    head.build((None, None, encoder.output_shape[-1]))
    spec = BundleSpec(
        class_names=("normal", "tumour"),
        mode="pixels",
        encoder=EncoderSpec(
            name=SMALL, patch_px=SMALL_PX, dim=encoder.output_shape[-1], weights="random"
        ),
        head=HeadParams(),
        members=1,
        tile=TileParams(grid=GridParams(patch_px=SMALL_PX), pixels=CodecParams()),
        background="bright",
        fingerprint="0" * 32,
    )
    bundle = Bundle(spec, (Member(head, encoder),), None)
    outcome = Classifier(bundle, path.parent / "results")(SlideEntry(path, path.stem))
    return int(outcome.facts.prediction.patches)


if __name__ == "__main__":
    main()
