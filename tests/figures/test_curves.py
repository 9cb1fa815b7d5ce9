"""Curves are drawn for any training history, and follow their points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from milpath.figures.curves import write_curves, write_learning_curve


def pixels(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as image:
        assert not image.info
        return np.asarray(image.convert("RGB")).astype(np.int64)


def history(epochs: int, *names: str) -> dict[str, list[float]]:
    return {name: list(np.linspace(1, 0.5, epochs)) for name in names}


@pytest.mark.parametrize(
    "histories",
    [
        [],
        [history(1, "loss", "val_loss")],
        [history(30, "loss", "val_loss", "accuracy", "val_accuracy")],
        [history(5 + k, "loss", "val_loss", "val_accuracy") for k in range(50)],
        [{"loss": [1.0, float("nan")], "val_loss": [float("nan"), float("nan")]}],
        [{"loss": [1.0, 0.5]}],
        [{"val_loss": [1.0, 0.5], "val_accuracy": [0.5]}],
    ],
)
def test_curves_of_any_history_are_drawn_with_the_same_bytes_each_time(
    tmp_path: Path, histories: list[dict[str, list[float]]]
) -> None:
    for name in ("a.png", "b.png"):
        write_curves(tmp_path / name, histories, "model <1>")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (pixels(tmp_path / "a.png") < 100).any()


@pytest.mark.parametrize("aucs", [(0.7, 0.8, 0.95), (0.95, 0.8, 0.7)])
def test_a_learning_curve_rises_and_falls_with_its_points(
    tmp_path: Path, aucs: tuple[float, ...]
) -> None:
    points = {
        bags: [auc - 0.01, auc + 0.01] for bags, auc in zip((50, 100, 500), aucs, strict=True)
    }
    write_learning_curve(tmp_path / "c.png", points, "AUC", "bags")
    picture = pixels(tmp_path / "c.png")
    rows, cols = np.nonzero(picture[..., 2] > picture[..., 0] + 60)
    left, right = rows[cols < np.quantile(cols, 0.1)], rows[cols > np.quantile(cols, 0.9)]
    assert (left.mean() > right.mean()) == (aucs[0] < aucs[-1])  # rows run downwards


def test_a_learning_curve_of_a_single_model_is_drawn(tmp_path: Path) -> None:
    write_learning_curve(tmp_path / "c.png", {50: [0.9]}, "AUC", "bags")
    assert (pixels(tmp_path / "c.png")[..., 2] > pixels(tmp_path / "c.png")[..., 0] + 60).any()


def test_long_tick_labels_keep_the_axis_label_in_the_picture(tmp_path: Path) -> None:
    margins = []
    for aucs in ([0.9, 0.8], [0.99859, 0.99998], [0.9985901, 0.9985902]):
        write_learning_curve(tmp_path / "c.png", {1000: aucs}, "AUC on unseen bags", "")
        drawn = np.flatnonzero((pixels(tmp_path / "c.png") < 200).any(axis=(0, 2)))
        margins.append(drawn[0])
    assert min(margins) >= margins[0] - 1 > 5
