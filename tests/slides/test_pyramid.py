"""Each axis of a level has its own true factor, whatever a writer made of its last pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.drawing import Pixels, write_levels

from milpath.patches.grid import PatchGrid
from milpath.patches.reader import read_patch, stream_patches
from milpath.slides.pyramid import find_factors
from milpath.slides.slide import Slide
from milpath.slides.thumbnail import read_thumbnail

NARROW = (604, 9600)
LINE = 8990.0  # middle of a dark line across a narrow slide, level-0 px
MPP = 0.25


def halve(size: int, cut: Callable[[float], int], times: int) -> int:
    for _ in range(times):
        size = cut(size / 2)
    return size


@pytest.mark.parametrize("cut", [math.floor, round, math.ceil])
@pytest.mark.parametrize("full", [NARROW, NARROW[::-1], (57768, 26230), (100_003, 9_999)])
def test_repeated_halving_gives_powers_of_two_however_it_rounds(
    full: tuple[int, int], cut: Callable[[float], int]
) -> None:
    sizes = [(halve(full[0], cut, k), halve(full[1], cut, k)) for k in range(7)]
    assert find_factors(sizes) == tuple((2.0**k, 2.0**k) for k in range(7))


def test_a_level_reduced_by_no_whole_number_has_the_ratio_of_each_axis() -> None:
    sizes = [(1000, 3000), (333, 1000), (400, 1201), (500, 3000)]
    assert find_factors(sizes)[1] == (3, 3)
    assert find_factors(sizes)[2:] == ((2.5, 3000 / 1201), (2, 1))


def cut_in_half(rgb: Pixels) -> Pixels:
    rows, cols = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
    whole = rgb[:rows, :cols].reshape(rows // 2, 2, cols // 2, 2, 3)
    return whole.mean(axis=(1, 3)).round().astype(np.uint8)


@pytest.fixture(scope="module", params=["narrow in x", "narrow in y"])
def narrow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 16 to 1 with a dark line across its far end, levels cut to whole pixels."""
    width, height = NARROW
    rgb = np.full((height, width, 3), 240, np.uint8)
    rgb[int(LINE) - 8 : int(LINE) + 8, 50:550] = (60, 20, 100)
    if request.param == "narrow in y":
        rgb = np.ascontiguousarray(rgb.swapaxes(0, 1))
    levels = [rgb]
    for _ in range(5):
        levels.append(cut_in_half(levels[-1]))
    path = tmp_path_factory.mktemp("narrow") / f"{request.param}.tif"
    return write_levels(path, levels, (MPP, MPP))


def line_position(rgb: Pixels, axis: int) -> float:
    """Where the middle of the line lies in a picture, pixels."""
    dark = np.clip(238 - rgb[..., 1].astype(float), 0, None).sum(axis=1 - axis)
    return float((dark * (np.arange(len(dark)) + 0.5)).sum() / dark.sum())


@pytest.mark.parametrize("mpp", [1.0, 2.0, 4.0])
def test_patches_of_a_narrow_slide_lie_where_they_say(narrow: Path, mpp: float) -> None:
    axis = int(narrow.stem == "narrow in y")
    with Slide(narrow) as slide:
        assert slide.level_downsamples[-1] > 32.2
        side = round(64 * mpp / MPP)
        corner = (20, round(LINE) - side // 2)[:: -1 if axis else 1]
        level = slide.level_for(mpp)
        grid = PatchGrid(np.array([corner]), 64, side, side, corner, mpp, level)
        for read in (read_patch(slide, grid, 0), next(stream_patches(slide, grid, np.array))[1]):
            assert isinstance(read, np.ndarray)
            found = line_position(read, axis)
            assert found == pytest.approx((LINE - corner[1 - axis]) / side * 64, abs=0.2)


def test_the_thumbnail_of_a_narrow_slide_lies_where_it_says(narrow: Path) -> None:
    axis = int(narrow.stem == "narrow in y")
    with Slide(narrow) as slide:
        thumbnail = read_thumbnail(slide, 8.0)
        cell = thumbnail.lattice.cell_l0[1 - axis]
    assert line_position(thumbnail.rgb, axis) * cell == pytest.approx(LINE, abs=0.2 * cell)
