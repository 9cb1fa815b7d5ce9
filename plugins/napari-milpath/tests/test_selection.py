"""The selected patches are the strongest ones that keep the minimum distance."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import lattice
from numpy.typing import NDArray

from napari_milpath.selection import select_patches


def test_selects_the_strongest_in_order_if_none_overlap() -> None:
    scores = np.random.default_rng(1).permutation(63).astype(float)
    rows = select_patches(lattice(9, 7), scores, 5)
    assert scores[rows].tolist() == [62, 61, 60, 59, 58]
    rows = select_patches(lattice(9, 7), scores, 3, weakest=True)
    assert scores[rows].tolist() == [0, 1, 2]


@pytest.mark.parametrize("stride", [50, 25, 10])
def test_selected_patches_do_not_overlap_and_only_overlapping_ones_are_left_out(
    stride: int,
) -> None:
    grid = lattice(20, 20, 100, stride)
    scores = np.random.default_rng(2).random(len(grid))
    rows = select_patches(grid, scores, 8)
    for index, row in enumerate(rows.tolist()):
        before = grid.coords[rows[:index]]
        assert (np.abs(before - grid.coords[row]).max(axis=1) >= 100).all()
        better = np.flatnonzero(scores > scores[row])
        for other in better.tolist():
            near = np.abs(before - grid.coords[other]).max(axis=1) < 100
            assert near.any()


def test_ignores_patches_without_a_score() -> None:
    scores = np.array([0.5, np.nan, 0.2, np.nan])
    assert select_patches(lattice(2, 2), scores, 9).tolist() == [0, 2]
    assert select_patches(lattice(2, 2), scores, 9, weakest=True).tolist() == [2, 0]


class CountedScores(np.ndarray):
    """Scores that count how often a single one is read."""

    reads = 0

    def __getitem__(self, key: object) -> object:
        CountedScores.reads += isinstance(key, int)
        return super().__getitem__(key)  # type: ignore[index]


def test_reads_no_patch_beyond_those_that_the_selected_ones_overlap() -> None:
    grid = lattice(1000, 1000, 160, 10)
    x, y = np.meshgrid(np.arange(1000), np.arange(1000))
    scores: NDArray[np.float64] = np.sin(x / 90) * np.cos(y / 70)
    CountedScores.reads = 0
    assert len(select_patches(grid, scores.ravel().view(CountedScores), 50)) == 50
    # each of the 49 before the last overlaps 31 x 31 patches, itself included
    assert 50 <= CountedScores.reads <= 49 * 31**2 + 1
