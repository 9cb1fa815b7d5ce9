"""Patches arrive in order, the same with any number of threads, and few may be missing."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from support.drawing import Pixels, damage_tile, lose_tile, noise, write_levels
from tifffile import TiffFile

from milpath.errors import SlideReadError
from milpath.patches.grid import PatchGrid
from milpath.patches.reader import read_patch, stream_patches
from milpath.patches.tiff import TiffLevel
from milpath.slides.slide import Slide
from milpath.synthetic import SyntheticSlide

SIDE = 64
FULL = noise(1024, 1024)


def grid_over(count: int) -> PatchGrid:
    row, col = np.divmod(np.arange(count), 16)
    coords = np.stack([col * SIDE, row * SIDE], axis=1)
    return PatchGrid(coords, SIDE, SIDE, SIDE, (0, 0), 0.5, 0)


def crop(row: int) -> NDArray[np.uint8]:
    x, y = grid_over(256).coords[row]
    return FULL[y : y + SIDE, x : x + SIDE]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_levels(tmp_path / "n.tif", [FULL])  # 4 x 4 tiles, each of 4 x 4 patches


def reading_threads() -> int:
    return sum(thread.name.startswith("read") for thread in threading.enumerate())


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("count", [0, 1, 16, 17, 256])
def test_every_patch_is_read_once_and_in_order(path: Path, threads: int, count: int) -> None:
    with Slide(path) as slide:
        found = list(stream_patches(slide, grid_over(count), np.array, threads))
    assert [row for row, _ in found] == list(range(count))
    assert all(np.array_equal(pixels, crop(row)) for row, pixels in found)


def test_a_patch_is_resampled_to_its_size(path: Path) -> None:
    grid = PatchGrid(np.array([[10, 20]]), 32, 96, 96, (10, 20), 1.5, 0)
    with Slide(path) as slide:
        found = read_patch(slide, grid, 0)
        expected = slide.read_region((10, 20), (96, 96), (32, 32), 0)
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, expected)


# -- directly from the file ------------------------------------------------------------------------


def blurred(rows: int, cols: int) -> Pixels:
    return np.asarray(Image.fromarray(noise(rows, cols)).filter(ImageFilter.GaussianBlur(2)))


def plan(slide: Slide, side: int, level: int, patch_px: int = 64) -> PatchGrid:
    """Plan patches side by side over the whole slide, some reaching beyond it."""
    width, height = slide.dimensions
    places = np.meshgrid(np.arange(-7, width, side), np.arange(-3, height, side))
    coords = np.stack(places, axis=-1).reshape(-1, 2)
    return PatchGrid(coords, patch_px, side, side, (-7, -3), 0.5, level)


@contextmanager
def decodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[tuple[int, int]]]:
    counted: Counter[tuple[int, int]] = Counter()
    read_tile = TiffLevel.read_tile

    def count(level: TiffLevel, row: int, col: int) -> Pixels | None:
        counted[row, col] += 1
        return read_tile(level, row, col)

    with monkeypatch.context() as patch:
        patch.setattr(TiffLevel, "read_tile", count)
        yield counted


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("side", "level"), [(64, 0), (97, 0), (122, 0), (256, 1), (301, 1)])
@pytest.mark.parametrize("subsampling", [None, (2, 2)])
def test_patches_equal_openslides_exactly_and_tiles_are_decoded_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    subsampling: tuple[int, int] | None,
    side: int,
    level: int,
    threads: int,
) -> None:
    levels = [blurred(1000, 1300), blurred(500, 650)]
    path = write_levels(tmp_path / "s.tif", levels, compression="jpeg", subsampling=subsampling)
    with Slide(path) as slide, decodes(monkeypatch) as counted:
        grid = plan(slide, side, level)
        for row, pixels in stream_patches(slide, grid, np.array, threads):
            assert np.array_equal(pixels, read_patch(slide, grid, row))
    # three more are compared with OpenSlide's first
    assert sum(counted.values()) <= len(counted) + 3
    assert len(counted) == (24 if level == 0 else 6)


def test_at_a_fractional_downsample_patches_differ_by_openslides_interpolation(
    drawn: SyntheticSlide,
) -> None:
    with Slide(drawn.path) as slide:
        assert slide.level_downsamples[1] % 1 > 0.001
        grid = plan(slide, 256, 1)
        found = [
            np.abs(pixels.astype(int) - read_patch(slide, grid, row))
            for row, pixels in stream_patches(slide, grid, np.array)
        ]
    assert np.mean(found) < 1
    assert np.max(found) <= 40


def test_a_tile_that_was_never_scanned_is_background(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "s.tif", [blurred(1024, 1024)], compression="jpeg")
    lose_tile(path, 5)  # of 4 x 4: x 256 to 511, y 256 to 511
    with Slide(path) as slide:
        grid = plan(slide, 97, 0)
        found = dict(stream_patches(slide, grid, np.array, 2))
        assert len(found) == len(grid)
        for row, pixels in found.items():
            assert np.array_equal(pixels, read_patch(slide, grid, row))
        inside = int((grid.coords == [284, 288]).all(axis=1).argmax())
        assert (found[inside][8:-8, 8:-8] == 255).all()


@pytest.mark.parametrize("direct", [True, False])
def test_damage_loses_only_the_patches_that_touch_it_with_either_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    path = write_levels(tmp_path / "s.tif", [blurred(1024, 1024)], compression="jpeg")
    with TiffFile(path) as tiff:
        middle = tiff.pages[0].dataoffsets[5] + tiff.pages[0].databytecounts[5] // 2
    with path.open("r+b") as file:
        file.seek(middle)
        file.write(b"\xff\xd9" * 9)  # end of image too early: libjpeg only warns
    monkeypatch.setattr("milpath.patches.reader.MAX_UNREADABLE", 1.0)
    if not direct:
        monkeypatch.setattr("milpath.patches.reader.open_tiff_level", lambda *_: None)
    with Slide(path) as slide:
        grid = plan(slide, 64, 0)
        rows = {row for row, _ in stream_patches(slide, grid, np.array, 2)}
    low, high = grid.coords, grid.coords + 64
    touched = ((low < 512) & (high > 256)).all(axis=1)
    assert rows == set(np.flatnonzero(~touched).tolist())


# -- damage ----------------------------------------------------------------------------------------


def test_a_few_unreadable_patches_are_left_out_with_a_warning(
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
        pytest.raises(SlideReadError, match=r"n\.tif: cannot be read .*expected at most 1% of 256"),
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


# -- real slides -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "side", "level"),
    [
        ("slides/lscc_HE3.svs", 487, 0),
        ("slides/CMU-1-Small-Region.svs", 257, 0),
        ("cohort/BS10_HE1.tif", 301, 0),
    ],
)
def test_patches_of_real_slides_equal_openslides_exactly(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, name: str, side: int, level: int
) -> None:
    with Slide(shared_data / name) as slide, decodes(monkeypatch) as counted:
        grid = plan(slide, side, level, 128)
        middle = int(np.abs(grid.coords - np.array(slide.dimensions) // 2).sum(axis=1).argmin())
        near = np.abs(grid.coords - grid.coords[middle]).max(axis=1) < 4 * side
        grid = grid.select(np.flatnonzero(near))
        for row, pixels in stream_patches(slide, grid, np.array, 2):
            assert np.array_equal(pixels, read_patch(slide, grid, row))
    assert sum(counted.values()) <= len(counted) + 3
