"""Patches come in order, the same from any number of threads, and few may be missing."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
from drawing import damage_tile, noise, write_levels
from numpy.typing import NDArray

from milpath.errors import SlideReadError
from milpath.grid import PatchGrid
from milpath.patches import read_patch, stream_patches
from milpath.slide import Slide

SIDE = 64
FULL = noise(1024, 1024)


def grid_over(count: int) -> PatchGrid:
    row, col = np.divmod(np.arange(count), 16)
    coords = np.stack([col * SIDE, row * SIDE], axis=1)
    return PatchGrid(coords, SIDE, SIDE, SIDE, (0, 0), 0.5, 0)


def cut(row: int) -> NDArray[np.uint8]:
    x, y = grid_over(256).coords[row]
    return FULL[y : y + SIDE, x : x + SIDE]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_levels(tmp_path / "n.tif", [FULL])  # 4 x 4 tiles, each of 4 x 4 patches


def reading_threads() -> int:
    return sum(thread.name.startswith("read") for thread in threading.enumerate())


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("count", [0, 1, 16, 17, 256])
def test_every_patch_comes_once_and_in_order(path: Path, threads: int, count: int) -> None:
    with Slide(path) as slide:
        found = list(stream_patches(slide, grid_over(count), np.array, threads))
    assert [row for row, _ in found] == list(range(count))
    assert all(np.array_equal(pixels, cut(row)) for row, pixels in found)


def test_a_patch_is_resampled_to_its_side(path: Path) -> None:
    grid = PatchGrid(np.array([[10, 20]]), 32, 96, 96, (10, 20), 1.5, 0)
    with Slide(path) as slide:
        found = read_patch(slide, grid, 0)
        expected = slide.read_region((10, 20), (96, 96), (32, 32), 0)
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, expected)


def test_a_few_unreadable_patches_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wide = write_levels(tmp_path / "w.tif", [noise(1024, 4096)])  # 64 patches a row
    damage_tile(wide, 17)  # x 256 to 511, y 256 to 511
    coords = np.array([(x, y) for y in range(0, 1024, SIDE) for x in range(0, 4096, SIDE)])
    touched = ((coords >= 192) & (coords <= 512)).all(axis=1)  # the filter reaches 2 px further
    kept = coords[~touched | (coords == 256).all(axis=1)]
    grid = PatchGrid(kept, SIDE, SIDE, SIDE, (0, 0), 0.5, 0)
    bad = int((kept == 256).all(axis=1).argmax())
    with Slide(wide) as slide, caplog.at_level(logging.WARNING):
        rows = [row for row, _ in stream_patches(slide, grid, np.array, 2)]
    assert set(range(len(grid))) - set(rows) == {bad}
    assert "1 of" in caplog.text
    assert "unreadable, left out" in caplog.text


@pytest.mark.parametrize("threads", [1, 4])
def test_more_than_one_percent_unreadable_fails_the_slide(path: Path, threads: int) -> None:
    damage_tile(path, 5)
    with (
        Slide(path) as slide,
        pytest.raises(SlideReadError, match=r"n\.tif: cannot be read .*at most 1% of 256 may be"),
    ):
        list(stream_patches(slide, grid_over(256), np.array, threads))
    assert reading_threads() == 0


def test_a_consumer_that_stops_early_ends_the_threads(path: Path) -> None:
    with Slide(path) as slide:
        stream = stream_patches(slide, grid_over(256), np.array, 3)
        next(stream)
        assert reading_threads() > 0
        stream.close()  # type: ignore[attr-defined]
        assert reading_threads() == 0
        assert slide.read_region((0, 0), (9, 9), (9, 9), 0).shape == (9, 9, 3)
