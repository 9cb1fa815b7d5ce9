"""Montages frame marked instances, and draw bars as long as the attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from milpath.figures.montage import MontageBag, write_montage

FRAME, BAR = (0xD1, 0x49, 0x5B), (0x31, 0x68, 0x8E)


def bag(attention: list[float], marked: list[int], channels: int = 1) -> MontageBag:
    count = len(attention)
    pictures = np.full((count, 28, 28, channels), 90, np.uint8)
    frames = np.isin(np.arange(count), marked)
    return MontageBag(pictures, np.array(attention), frames, "p = 0.5")


def pixels(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as image:
        assert not image.info
        return np.asarray(image.convert("RGB")).astype(np.int64)


def count_of(rgb: NDArray[np.int64], colour: tuple[int, int, int]) -> int:
    return int((np.abs(rgb - colour).max(axis=-1) < 12).sum())


def test_the_bars_are_as_long_as_the_attention(tmp_path: Path) -> None:
    lengths = []
    for attention in ([1.0, 0.0], [0.5, 0.0], [0.5, 0.5]):
        write_montage(tmp_path / "g.png", [bag(attention, [])], "bags")
        lengths.append(count_of(pixels(tmp_path / "g.png"), BAR))
    assert lengths[1] == pytest.approx(lengths[0] / 2, rel=0.05)
    assert lengths[2] == pytest.approx(lengths[0], rel=0.05)


def test_only_marked_instances_are_framed(tmp_path: Path) -> None:
    framed = []
    for marked in ([], [0], [0, 1]):
        write_montage(tmp_path / "g.png", [bag([0.6, 0.4], marked)], "bags")
        framed.append(count_of(pixels(tmp_path / "g.png"), FRAME))
    assert framed[0] == 0
    assert framed[2] == pytest.approx(2 * framed[1], rel=0.1)


def test_a_large_bag_shows_the_instances_with_the_highest_attention(tmp_path: Path) -> None:
    attention = np.arange(100) / np.arange(100).sum()
    write_montage(tmp_path / "g.png", [bag(list(attention), list(range(86)))], "bags")
    assert count_of(pixels(tmp_path / "g.png"), FRAME) == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_bags_of_any_size_are_drawn(tmp_path: Path, channels: int) -> None:
    bags = [bag([1 / n] * n, [0], channels) for n in (1, 5, 40)]
    write_montage(tmp_path / "g.png", bags, "three bags\nexplained")
    rows, cols, _ = pixels(tmp_path / "g.png").shape
    assert 300 < rows < 600
    assert 640 < cols < 1400


def test_the_same_bags_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_montage(tmp_path / name, [bag([0.7, 0.3], [1])], "bags")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
