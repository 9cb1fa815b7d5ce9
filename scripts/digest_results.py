"""Digest every result that milpath writes for some slides, to compare two versions of it.

Runs tile, train, classify, heatmap and export with the milpath that Python finds, and prints one
JSON line for each part of each result: dataset, attribute, picture, file. Run it on two commits
(PYTHONPATH names the checkout) and compare the two outputs:

    PYTHONPATH=old python scripts/digest_results.py SLIDES... --out a > a.jsonl
    PYTHONPATH=new python scripts/digest_results.py SLIDES... --out b > b.jsonl
    diff a.jsonl b.jsonl

Left out is what names a version or depends on the names of parameters: versions, `params`,
fingerprints, run logs, times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

VERSIONED = {"format", "format_version", "milpath_version", "milpath", "params", "fingerprint"}
VERSIONED |= {"model", "encoder_fingerprint"}
SUFFIXES = {".tif", ".tiff", ".svs", ".ndpi", ".mrxs"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("slides", nargs="+", type=Path, help="slides, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder for the results")
    given = parser.parse_args()
    make_results(find_slides(given.slides), given.out)
    for line in digest_folder(given.out):
        print(json.dumps(line, ensure_ascii=False))


def find_slides(places: list[Path]) -> list[Path]:
    found = [
        path
        for place in places
        for path in (sorted(place.iterdir()) if place.is_dir() else [place])
        if path.suffix.lower() in SUFFIXES
    ]
    return [path.resolve() for path in found]


def make_results(slides: list[Path], out: Path) -> None:
    """Everything in `out`; every second slide is labelled `a`, the others `b`."""
    out.mkdir(parents=True)
    rows = [f"{path},{'ab'[number % 2]}" for number, path in enumerate(slides)]
    (out / "cohort.csv").write_text("\n".join(["slide,label", *rows]))
    run(out, "tile", "cohort.csv", "--out", "bags", "--mpp", "2.2", "--patch-size", "64")
    words = ["--epochs", "2", "--patches-per-bag", "16", "--seed", "3", "--members", "2"]
    run(out, "train", "cohort.csv", "--bags", "bags", "--out", "model", *words)
    run(out, "classify", "cohort.csv", "--model", "model", "--out", "results")
    for path in slides:
        prediction = f"results/{path.stem}.prediction.h5"
        picture = f"results/{path.stem}-b.png"
        words = ["--slide", str(path), "--out", picture, "--score", "contribution", "--class", "b"]
        run(out, "heatmap", prediction, *words)
        for kind, suffix in (("geojson", "geojson"), ("csv", "csv"), ("ome-tiff", "ome.tif")):
            run(out, "export", prediction, "--to", kind, "--out", f"results/{path.stem}.{suffix}")


def run(folder: Path, *words: str) -> None:
    """A command; one thread computes, so that the network's sums are made in one order."""
    one = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-m", "milpath", *words],
        cwd=folder, env={**os.environ, **one}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        print(f"{' '.join(words)}: {done.returncode}\n{done.stderr}", file=sys.stderr)


def digest_folder(out: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        if path.parent.name in {"journal", "runlog"} or path.suffix == ".part":
            continue
        if path.suffix == ".h5":
            name = name.rpartition("-")[0] if name.startswith("model/") else name
            yield from ({"file": name, **part} for part in digest_h5(path))
        elif path.suffix == ".png":
            with Image.open(path) as image:
                yield {"file": name, "pixels": digest(np.asarray(image.convert("RGBA")).tobytes())}
        elif path.suffix in {".csv", ".geojson"}:
            yield {"file": name, "bytes": digest(path.read_bytes())}
        elif path.name == "metrics.json":
            yield {"file": name, "metrics": json.loads(path.read_text())["metrics"]}
        elif path.suffix == ".tif":
            yield {"file": name, "bytes": digest(path.read_bytes())}


def digest_h5(path: Path) -> Iterator[dict[str, Any]]:
    with h5py.File(path) as file:
        yield from ({"attribute": each} for each in attributes(file))
        for name, dataset in sorted(file.items()):
            kind = f"{dataset.dtype} {dataset.shape}"
            yield {"dataset": name, "kind": kind, "bytes": digest(dataset[()].tobytes())}
            yield from ({"dataset": name, "attribute": each} for each in attributes(dataset))


def attributes(holder: Any) -> list[list[str]]:
    return [
        [name, str(value)] for name, value in sorted(holder.attrs.items()) if name not in VERSIONED
    ]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    main()
