"""The benchmarks run, small, on data drawn here, and print the lines they promise."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


def run(script: str, *words: object) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def draw_colon(folder: Path, images: int = 8) -> Path:
    """Pink pictures with grey nuclei, every other picture with some large violet ones too."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows, cols = np.indices((120, 120))
    labels, nuclei = [["image", "label"]], [["image", "x", "y", "type"]]
    for number in range(images):
        name, label = f"img{number}.png", number % 2
        rgb = rng.normal((225, 170, 200), 6, (120, 120, 3))
        for place in range(12):
            x, y = rng.uniform(5, 115, 2)
            kind = "epithelial" if label and place < 5 else "fibroblast"
            radius, colour = (8, (110, 60, 160)) if kind == "epithelial" else (4, (120, 120, 130))
            rgb[(rows - y) ** 2 + (cols - x) ** 2 < radius**2] = colour
            nuclei.append([name, f"{x:.2f}", f"{y:.2f}", kind])
        Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
        labels.append([name, str(label)])
    for name, table in (("labels.csv", labels), ("nuclei.csv", nuclei)):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(table)
    return folder


@pytest.mark.parametrize("kind", ["nuclei", "grid"])
def test_the_colon_benchmark_judges_every_image_once_a_repeat(tmp_path: Path, kind: str) -> None:
    folder = draw_colon(tmp_path / "colon")
    words = ["--data", folder, "--kind", kind, "--repeats", 1, "--folds", 2, "--epochs", 2]
    *repeats, summary = run("bench_colon.py", *words, "--members", 1)
    assert [line["repeat"] for line in repeats] == [0]
    assert summary["images"] == 8
    for figure in (*summary["milpath"].values(), *summary["colour_statistics"].values()):
        assert 0 <= figure["low"] <= figure["high"] <= 1
    assert 0 <= summary["attention_auc"] <= 1
    assert summary["colour_statistics"]["auc"]["mean"] > 0.9  # violet is easily told


def test_the_classic_benchmark_reads_its_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 2
    bag_id = np.repeat(np.arange(20), 4)
    features = rng.normal(0, 1, (80, 5)).astype(np.float32)
    features[::4][labels == 1] += 4
    path = tmp_path / "made.npz"
    np.savez(path, features=features, bag_id=bag_id, bag_ids=np.arange(20), bag_label=labels)
    *_, summary = run("bench_classic_mil.py", path, "--repeats", 1, "--folds", 2, "--epochs", 8)
    assert (summary["set"], summary["bags"]) == ("made", 20)
    assert summary["auc"]["mean"] > 0.7


EXAMPLE = """
import keras
import no_such_package_of_an_example

BAG_SIZE = 3


def create_model(shape):
    inputs = [keras.Input(shape) for _ in range(BAG_SIZE)]
    flat = [keras.layers.Flatten()(one) for one in inputs]
    joined = keras.layers.concatenate(flat)
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(joined))


def train(data, labels, val_data, val_labels, model):
    model.compile(loss="sparse_categorical_crossentropy")
    model.fit(data, labels, epochs=1, verbose=0)
    return model


raise RuntimeError("the example itself must not run")
"""


def test_the_digit_benchmark_sets_an_example_beside_ours(tmp_path: Path) -> None:
    found = load_digits()
    images = np.pad(found.images.repeat(3, axis=1).repeat(3, axis=2) * 15, [(0, 0), (2, 2), (2, 2)])
    halves = {"x_train": images[:1200], "x_test": images[1200:]}
    digits = {"y_train": found.target[:1200], "y_test": found.target[1200:]}
    np.savez(
        tmp_path / "mnist.npz",
        **{name: each.astype(np.uint8) for name, each in (halves | digits).items()},
    )
    (tmp_path / "example.py").write_text(EXAMPLE)
    lines = run(
        "bench_mnist.py", "--data", tmp_path / "mnist.npz", "--keras-example",
        tmp_path / "example.py", "--seeds", 1, "--epochs", 1, "--test-bags", 40,
    )  # fmt: skip
    assert [line["who"] for line in lines[:3]] == [
        "keras example", "milpath", "milpath, hurried",
    ]  # fmt: skip
    assert lines[-1]["median"] > 0
