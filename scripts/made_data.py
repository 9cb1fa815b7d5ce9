"""Small generated data sets in the formats that the benchmarks on public data read."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

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
"""Stands for Keras' own example: bench_mnist.py uses its functions and never runs the module."""


def draw_colon(folder: Path, images: int = 8) -> Path:
    """Write a folder as bench_colon.py reads it: every second image has violet nuclei."""
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


def write_classic(path: Path) -> Path:
    """Write 20 bags of four instances as bench_classic_mil.py reads them."""
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 2
    features = rng.normal(0, 1, (80, 5)).astype(np.float32)
    features[::4][labels == 1] += 4
    bag_id = np.repeat(np.arange(20), 4)
    np.savez(path, features=features, bag_id=bag_id, bag_ids=np.arange(20), bag_label=labels)
    return path


def write_digits(folder: Path) -> tuple[Path, Path]:
    """Write scikit-learn's digits as an mnist.npz, and a Keras example beside it."""
    found = load_digits()
    images = np.pad(found.images.repeat(3, axis=1).repeat(3, axis=2) * 15, [(0, 0), (2, 2), (2, 2)])
    halves = {"x_train": images[:1200], "x_test": images[1200:]}
    digits = {"y_train": found.target[:1200], "y_test": found.target[1200:]}
    arrays = {name: each.astype(np.uint8) for name, each in (halves | digits).items()}
    np.savez(folder / "mnist.npz", **arrays)
    (folder / "example.py").write_text(EXAMPLE)
    return folder / "mnist.npz", folder / "example.py"
