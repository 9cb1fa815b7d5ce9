"""The patch under a point is the one whose square it lies in, the nearest where they overlap."""

from __future__ import annotations

import numpy as np
import pytest
from bench_viewer import time_one
from conftest import lattice

from napari_milpath.lookup import PatchLookup


@pytest.mark.parametrize(("side", "stride"), [(10, 10), (20, 10), (23, 10), (10, 9), (64, 5)])
def test_it_agrees_with_looking_at_every_patch(side: int, stride: int) -> None:
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


def test_among_a_million_patches_it_takes_under_a_millisecond() -> None:
    lookup = PatchLookup(lattice(1000, 1000))
    points = np.random.default_rng(0).uniform(0, 100_000, (200, 1, 2))
    found = time_one(lambda: [lookup.find(point) for point in points], 5)
    assert min(found.cpu) / 200 < 1e-3


def test_where_there_are_no_patches_none_is_found() -> None:
    empty = lattice(3, 3).select(np.zeros(0, np.int64))
    assert PatchLookup(empty).find(np.zeros((2, 2))).tolist() == [-1, -1]
