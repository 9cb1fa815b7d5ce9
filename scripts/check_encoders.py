"""Compare the vision transformers of the registry with timm's and transformers'.

    python scripts/check_encoders.py --reference-python PYTHON

PYTHON is one with torch, timm and transformers, which need not be milpath's. Two things are
compared: names and shapes of all weights at the published configurations (built without memory for
the weights), and the features of small networks of random weights, for each variant, for patches
of other sizes too. Prints a line of JSON for each, and exits with 1 if one differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from milpath.registry import ENCODERS
from milpath.registry.published import PublishedEncoder

TOLERANCE = 1e-5


def reference_script() -> Path:
    return Path(__file__).with_name("reference_encoders.py")


def shrink(encoder: PublishedEncoder) -> PublishedEncoder:
    """Make an encoder small: two blocks, two heads; everything else stays as it is."""
    network = encoder.network
    small = replace(network, dim=48, heads=2, depth=2, hidden=128 if network.gated else 192)
    return replace(encoder, network=small)


def run_reference(python: str, folder: Path, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Build the networks of `jobs` in the other Python; see `reference_encoders.py`."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    subprocess.run([python, str(reference_script()), str(folder)], check=True)
    return json.loads((folder / "results.json").read_text())


def describe(encoder: PublishedEncoder) -> dict[str, Any]:
    return {"name": encoder.name, "layout": encoder.layout, "network": asdict(encoder.network)}


def compare_shapes(python: str, folder: Path) -> bool:
    """Compare names and shapes of all weights at full size."""
    from milpath.nn.encoders.checkpoint import read_checkpoint

    jobs = [describe(encoder) | {"task": "shapes"} for encoder in ENCODERS.values()]
    good = True
    for encoder, found in zip(ENCODERS.values(), run_reference(python, folder, jobs), strict=True):
        shapes = {encoder.prefix + key: tuple(shape) for key, shape in found["shapes"].items()}
        weights = _Shapes(shapes)
        checkpoint = read_checkpoint("built", weights, encoder)
        same = checkpoint.network == encoder.network
        good &= same
        parameters = sum(int(np.prod(shape)) for shape in shapes.values())
        print(
            json.dumps(
                {
                    "check": "shapes",
                    "encoder": encoder.name,
                    "library": found["library"],
                    "weights": len(shapes),
                    "parameters": parameters,
                    "same": same,
                }
            )
        )
    return good


class _Shapes:
    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def read(self, name: str) -> Any:
        raise NotImplementedError


def sizes_of(encoder: PublishedEncoder) -> list[int]:
    """Sizes of patches to compare at: its own, a larger and a smaller one, all with resampling."""
    edge = encoder.network.token_px
    own = encoder.patch_px
    return [own, edge * (encoder.network.grid + 3), edge * max(2, encoder.network.grid // 2 - 1)]


def compare_features(python: str, folder: Path) -> bool:
    """Compare features of small networks of the reference's random weights."""
    from milpath.nn.encoders.published import load_published

    cases = [
        (shrink(encoder), variant, side)
        for encoder in ENCODERS.values()
        for variant in encoder.variants
        for side in sizes_of(encoder)
    ]
    jobs = []
    for number, (encoder, variant, side) in enumerate(cases):
        generator = np.random.default_rng(number)
        patches = generator.integers(0, 256, (3, side, side, 3), dtype=np.uint8)
        np.save(folder / f"{number}.patches.npy", patches)
        jobs.append(
            describe(encoder)
            | {
                "task": "features",
                "number": number,
                "seed": number,
                "pooling": encoder.variants[variant],
                "crop_px": encoder.crop_px if side == encoder.patch_px else None,
                "mean": encoder.mean,
                "std": encoder.std,
                "prefix": encoder.prefix,
            }
        )
    results = run_reference(python, folder, jobs)
    good = True
    for number, (encoder, variant, side) in enumerate(cases):
        ours = load_published(
            encoder,
            folder / f"{number}.{results[number]['format']}",
            variant=variant,
            patch_px=side,
        )
        patches = np.load(folder / f"{number}.patches.npy")
        expected = np.load(folder / f"{number}.features.npy")
        error = float(np.abs(ours.embed(patches) - expected).max())
        same = error <= TOLERANCE
        good &= same
        print(
            json.dumps(
                {
                    "check": "features",
                    "encoder": encoder.name,
                    "variant": variant,
                    "patch_px": side,
                    "largest_difference": error,
                    "same": same,
                }
            ),
            flush=True,
        )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference-python", default=sys.executable)
    python = parser.parse_args().reference_python
    with tempfile.TemporaryDirectory() as folder:
        good = compare_shapes(python, Path(folder))
        good &= compare_features(python, Path(folder))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
