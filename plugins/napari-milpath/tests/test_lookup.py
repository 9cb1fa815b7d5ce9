"""The patch at a point is the one whose square holds it, the nearest of overlapping ones."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import lattice
from support.counting import count_bytecodes, peak_bytes

from milpath.patches.grid import free_grid, unplaced_grid
from napari_milpath.lookup import PatchLookup


@pytest.mark.parametrize(("side", "stride"), [(10, 10), (20, 10), (23, 10), (10, 9), (64, 5)])
def test_agrees_with_a_search_of_all_patches(side: int, stride: int) -> None:
    rng = np.random.default_rng(side)
    grid = lattice(9, 7, side, stride, (13, 5))
    grid = grid.select(np.sort(rng.permutation(len(grid))[:30]))
    points = rng.uniform(-20, 200, (500, 2))
    found = PatchLookup(grid).find(points)
    for point, row in zip(points, found.tolist(), strict=True):
        away = np.abs(grid.coords + side / 2 - point).max(axis=1)
        if row < 0:
            assert (away > side / 2).all()
        else:
            assert away[row] == pytest.approx(away.min())


def test_agrees_with_a_search_of_all_patches_that_lie_anywhere_and_repeatedly() -> None:
    rng = np.random.default_rng(4)
    for count in (1, 2, 40, 300):
        coords = rng.integers(0, 700, (count, 2))
        coords[count // 2 :] = coords[: count - count // 2]  # each place twice
        grid = free_grid(coords, 16, 61, 0.5)
        centres = coords + 61 / 2
        points = np.concatenate([rng.uniform(-70, 770, (500, 2)), centres, coords, coords + 61])
        for point, row in zip(points, PatchLookup(grid).find(points).tolist(), strict=True):
            away = np.abs(centres - point).max(axis=1)
            assert row == (int(away.argmin()) if away.min() <= 61 / 2 else -1)


def test_many_points_among_many_overlapping_patches_need_little_memory() -> None:
    rng = np.random.default_rng(5)
    coords = rng.integers(0, 300, (5000, 2))
    lookup = PatchLookup(free_grid(coords, 16, 256, 0.5))
    points = rng.uniform(0, 500, (1000, 2))
    assert peak_bytes(lambda: lookup.find(points)) < 40 << 20  # not the 5 million pairs at once
    for point, row in zip(points[:50], lookup.find(points[:50]).tolist(), strict=True):
        away = np.abs(coords + 128 - point).max(axis=1)
        assert row == (int(away.argmin()) if away.min() <= 128 else -1)


def test_finds_nothing_where_the_places_of_patches_are_not_known() -> None:
    lookup = PatchLookup(unplaced_grid(5, 100, 0.5))
    assert lookup.find(np.array([[0.0, 0.0], [50.0, 50.0]])).tolist() == [-1, -1]


@pytest.mark.parametrize("stride", [100, 30])
def test_a_search_among_a_million_patches_costs_as_much_as_among_a_hundred(stride: int) -> None:
    few, many = (PatchLookup(lattice(n, n, 100, stride)) for n in (10, 1000))
    point = np.array([[210.0, 160.0]])
    assert few.find(point) >= 0
    assert many.find(point) >= 0
    assert count_bytecodes(lambda: many.find(point)) == count_bytecodes(lambda: few.find(point))
    assert peak_bytes(lambda: many.find(point)) < 20_000


def test_finds_nothing_in_an_empty_grid() -> None:
    empty = lattice(3, 3).select(np.zeros(0, np.int64))
    assert PatchLookup(empty).find(np.zeros((2, 2))).tolist() == [-1, -1]
