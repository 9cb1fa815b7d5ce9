"""Compare the vision transformers of the registry with timm's and transformers'.

    python scripts/check_encoders.py --reference-python PYTHON [--write FILE]

PYTHON is one with torch, timm and transformers, which need not be milpath's. Two things are
compared: names and shapes of all weights at the published configurations (built without memory for
the weights), and the features of small networks of drawn weights, of each variant, of patches of
other sizes too. Prints a line of JSON for each, and exits with 1 if one differs; then how far less
precise arithmetic changes features. `--write` keeps the reference's features, with which the tests
compare.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import support_path  # noqa: F401
from support.checkpoints import draw_patches, draw_weights, list_cases, shrink, write_checkpoint

from milpath.registry import ENCODERS
from milpath.registry.published import Precision, PublishedEncoder

TOLERANCE = 1e-5


class Shapes:
    """Weights without numbers."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def read(self, name: str) -> Any:
        raise NotImplementedError


def run_reference(python: str, folder: Path, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Do jobs in the other Python; see `reference_encoders.py`."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("reference_encoders.py")
    subprocess.run([python, str(script), str(folder)], check=True)
    results: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return results


def describe(encoder: PublishedEncoder) -> dict[str, Any]:
    return {"layout": encoder.layout, "network": asdict(encoder.network)}


def compare_shapes(python: str, folder: Path) -> bool:
    """Compare names and shapes of all weights at full size."""
    from milpath.nn.encoders.checkpoint import read_checkpoint

    jobs = [describe(encoder) | {"task": "shapes"} for encoder in ENCODERS.values()]
    results = run_reference(python, folder, jobs)
    good = True
    for encoder, found in zip(ENCODERS.values(), results, strict=True):
        shapes = {encoder.prefix + key: tuple(shape) for key, shape in found["shapes"].items()}
        # raises if a name is missing or left over, or a shape another one
        same = read_checkpoint("built", Shapes(shapes), encoder).network == encoder.network
        good &= same
        line = {
            "check": "shapes",
            "encoder": encoder.name,
            "library": found["library"],
            "weights": len(shapes),
            "parameters": sum(int(np.prod(shape)) for shape in shapes.values()),
            "same": same,
        }
        print(json.dumps(line))
    return good


def compare_features(python: str, folder: Path, kept: Path | None) -> bool:
    """Compare features of small networks with the reference's."""
    from milpath.nn.encoders.published import load_published

    cases = list_cases()
    jobs = []
    for number, case in enumerate(cases):
        encoder = shrink(ENCODERS[case.name])
        weights = draw_weights(encoder)
        place = folder / str(number)
        write_checkpoint(place / "model.safetensors", weights)
        plain = {name.removeprefix(encoder.prefix): value for name, value in weights.items()}
        write_checkpoint(place / "reference" / "model.safetensors", plain)
        np.save(place / "patches.npy", draw_patches(case.patch_px))
        jobs.append(
            describe(encoder)
            | {
                "task": "features",
                "folder": str(place),
                "pooling": encoder.variants[case.variant],
                "crop_px": encoder.crop_px if case.patch_px == encoder.patch_px else None,
                "mean": encoder.mean,
                "std": encoder.std,
            }
        )
    run_reference(python, folder, jobs)
    good, stored = True, {}
    for number, case in enumerate(cases):
        place = folder / str(number)
        ours = load_published(
            shrink(ENCODERS[case.name]),
            place / "model.safetensors",
            variant=case.variant,
            patch_px=case.patch_px,
        )
        expected = np.load(place / "features.npy")
        error = float(np.abs(ours.embed(np.load(place / "patches.npy")) - expected).max())
        good &= error <= TOLERANCE
        stored[str(case)] = [[round(float(x), 6) for x in row] for row in expected]
        line = {
            "check": "features",
            "case": str(case),
            "largest_difference": error,
            "same": error <= TOLERANCE,
        }
        print(json.dumps(line), flush=True)
    if kept is not None:
        kept.write_text(json.dumps(stored, separators=(",", ":")) + "\n")
    return good


def compare_precisions(folder: Path) -> None:
    """Compare features of less precise arithmetic with those of float32, by their cosine."""
    from milpath.nn.encoders.published import load_published

    precisions: tuple[Precision, ...] = ("float16", "bfloat16")
    for name in ("uni", "virchow2", "h-optimus-0"):
        encoder = shrink(ENCODERS[name])
        path = write_checkpoint(folder / name / "model.safetensors", draw_weights(encoder))
        patches = draw_patches(encoder.patch_px, 8)
        exact = load_published(encoder, path).embed(patches)
        for precision in precisions:
            rough = load_published(encoder, path, compute=precision).embed(patches)
            norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(rough, axis=1)
            cosine = float(((exact * rough).sum(axis=1) / norms).min())
            line = {"check": "precision", "encoder": name, "precision": precision}
            print(json.dumps(line | {"least_cosine": round(cosine, 6)}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference-python", default=sys.executable)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        good = compare_shapes(options.reference_python, Path(folder))
        good &= compare_features(options.reference_python, Path(folder), options.write)
        compare_precisions(Path(folder))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
