"""The patches picked are the strongest ones that keep their distance."""

from __future__ import annotations

import numpy as np
import pytest
from bench_viewer import time_one
from conftest import lattice

from napari_milpath.picks import pick_patches


def test_without_overlap_they_are_the_strongest_in_order() -> None:
    scores = np.random.default_rng(1).permutation(63).astype(float)
    rows = pick_patches(lattice(9, 7), scores, 5)
    assert scores[rows].tolist() == [62, 61, 60, 59, 58]
    rows = pick_patches(lattice(9, 7), scores, 3, weakest=True)
    assert scores[rows].tolist() == [0, 1, 2]


@pytest.mark.parametrize("stride", [50, 25, 10])
def test_no_two_picks_overlap_and_none_could_take_the_place_of_another(stride: int) -> None:
    grid = lattice(20, 20, 100, stride)
    scores = np.random.default_rng(2).random(len(grid))
    rows = pick_patches(grid, scores, 8)
    for place, row in enumerate(rows.tolist()):
        before = grid.coords[rows[:place]]
        assert (np.abs(before - grid.coords[row]).max(axis=1) >= 100).all()
        better = np.flatnonzero(scores > scores[row])
        for other in better.tolist():
            near = np.abs(before - grid.coords[other]).max(axis=1) < 100
            assert near.any()


def test_a_patch_without_a_score_is_never_picked() -> None:
    scores = np.array([0.5, np.nan, 0.2, np.nan])
    assert pick_patches(lattice(2, 2), scores, 9).tolist() == [0, 2]
    assert pick_patches(lattice(2, 2), scores, 9, weakest=True).tolist() == [2, 0]


def test_fifty_of_a_million_overlapping_patches_are_picked_in_a_moment() -> None:
    grid = lattice(1000, 1000, 160, 10)
    x, y = np.meshgrid(np.arange(1000), np.arange(1000))
    scores = np.sin(x / 90) * np.cos(y / 70)
    assert len(pick_patches(grid, scores.ravel(), 50)) == 50
    assert min(time_one(lambda: pick_patches(grid, scores.ravel(), 50), 2).cpu) < 2.0
