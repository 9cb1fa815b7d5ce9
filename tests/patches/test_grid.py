"""Patches have their exact physical size and lie on a regular grid inside the slide."""

from __future__ import annotations

import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.drawing import noise, write_levels

from milpath.errors import ResolutionError, UnsupportedSlideError
from milpath.params import GridParams
from milpath.patches.grid import (
    PatchGrid,
    box_mean,
    free_grid,
    plan_grid,
    tissue_fraction,
    unplaced_grid,
)
from milpath.slides.lattice import Lattice
from milpath.slides.slide import Slide
from milpath.slides.tissue import TissueMask
from milpath.synthetic import SyntheticSlide


def slide_of(width: int, height: int, mpp: float, origin: tuple[int, int] = (0, 0)) -> Slide:
    """A stand-in with what `plan_grid` uses of a slide."""
    fake = SimpleNamespace(
        mpp_mean=mpp,
        bounds_l0=(*origin, width, height),
        level_for=lambda _: 0,
        name="fake.svs",
    )
    return cast(Slide, fake)


def tissue_over(slide: Slide, cells: NDArray[np.bool_]) -> TissueMask:
    x, y, width, height = slide.bounds_l0
    cell = (width / cells.shape[1], height / cells.shape[0])
    return TissueMask(cells, Lattice((x, y), cell), "bright", np.zeros_like(cells))


def all_tissue(slide: Slide, cells: tuple[int, int] = (37, 41)) -> TissueMask:
    return tissue_over(slide, np.ones(cells, np.bool_))


# -- laws ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mpp", [0.25, 0.2999, 0.30, 0.46])
def test_a_patch_has_its_physical_size_within_two_per_mille(mpp: float) -> None:
    slide = slide_of(9000, 7000, mpp)
    grid = plan_grid(slide, all_tissue(slide), GridParams(mpp=0.5, patch_px=256))
    assert grid.patch_size_l0 * mpp == pytest.approx(128, rel=0.002)
    assert grid.stride_l0 == grid.patch_size_l0
    assert grid.patch_mpp * grid.patch_px == pytest.approx(grid.patch_size_l0 * mpp)


def test_overlap_shortens_the_stride_and_not_the_patch() -> None:
    slide = slide_of(9000, 7000, 0.25)
    plain, overlapped = (
        plan_grid(slide, all_tissue(slide), GridParams(overlap_px=overlap)) for overlap in (0, 64)
    )
    assert (plain.patch_size_l0, plain.stride_l0) == (512, 512)
    assert (overlapped.patch_size_l0, overlapped.stride_l0) == (512, 384)
    assert len(overlapped) == (8488 // 384 + 1) * (6488 // 384 + 1)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(300, 4000), st.integers(300, 4000)),
    origin=st.tuples(st.integers(0, 999), st.integers(0, 999)),
    mpp=st.floats(0.4, 2),
    overlap=st.integers(0, 30),
    seed=st.integers(0, 99),
)
def test_patches_lie_inside_once_each_in_reading_order_on_the_grid(
    size: tuple[int, int], origin: tuple[int, int], mpp: float, overlap: int, seed: int
) -> None:
    slide = slide_of(*size, mpp, origin)
    cells = np.random.default_rng(seed).random((30, 20)) < 0.5
    params = GridParams(mpp=2.0, patch_px=32, overlap_px=overlap)
    grid = plan_grid(slide, tissue_over(slide, cells), params)
    low, high = np.array(origin), np.array(origin) + size
    assert grid.coords.dtype == np.int64
    assert grid.coords.shape == (len(grid), 2)
    assert (grid.coords >= low).all()
    assert (grid.coords + grid.patch_size_l0 <= high).all()
    assert not ((grid.coords - grid.origin_l0) % grid.stride_l0).any()
    order = [(int(y), int(x)) for x, y in grid.coords]
    assert order == sorted(set(order))


def test_the_margin_is_split_between_both_edges() -> None:
    slide = slide_of(1010, 2047, 0.5)
    grid = plan_grid(slide, all_tissue(slide), GridParams(patch_px=100))
    assert grid.origin_l0 == (5, 23)
    assert tuple(grid.coords.max(axis=0) + 100) == (1005, 2023)
    assert len(grid) == 10 * 20


def test_exactly_the_patches_with_enough_tissue_are_kept() -> None:
    slide = slide_of(400, 200, 0.5)
    cells = np.zeros((8, 16), np.bool_)  # 4 x 4 cells per patch
    cells[:4, 0] = True  # a quarter of the first patch
    cells[:, 4:8] = True  # all of the second, above and below
    cells[:3, 8] = True  # less of the third
    grid = plan_grid(slide, tissue_over(slide, cells), GridParams(patch_px=100, min_tissue=0.25))
    assert grid.coords.tolist() == [[0, 0], [100, 0], [100, 100]]


@pytest.mark.parametrize("cells", [(37, 41), (211, 307), (977, 1009)])
def test_a_patch_full_of_tissue_is_kept_if_all_of_it_must_be_tissue(cells: tuple[int, int]) -> None:
    slide = slide_of(9973, 7919, 0.3)
    strict = GridParams(patch_px=64, min_tissue=1.0)
    grid = plan_grid(slide, all_tissue(slide, cells), strict)
    assert len(grid) == (9973 // grid.stride_l0) * (7919 // grid.stride_l0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    origin=st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    cell=st.tuples(st.floats(0.7, 6), st.floats(0.7, 6)),
    size=st.integers(1, 15),
)
def test_box_mean_equals_the_area_mean_of_a_slow_loop(
    seed: int, origin: tuple[float, float], cell: tuple[float, float], size: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((5, 7)) < 0.5
    coords = rng.integers(-30, 50, (6, 2))
    slow = []
    for x, y in coords:
        area = 0.0
        for row, col in zip(*np.nonzero(mask), strict=True):
            left, top = origin[0] + col * cell[0], origin[1] + row * cell[1]
            width = min(x + size, left + cell[0]) - max(x, left)
            height = min(y + size, top + cell[1]) - max(y, top)
            area += max(width, 0) * max(height, 0)
        slow.append(area / size**2)
    assert box_mean(mask, Lattice(origin, cell), coords, size) == pytest.approx(slow, abs=1e-9)


def test_x_and_y_are_not_swapped() -> None:
    cells = np.zeros((2, 4), np.bool_)
    cells[0, 3] = True  # the top right
    lattice = Lattice((1000, 500), (10.0, 10.0))
    tissue = TissueMask(cells, lattice, "bright", np.zeros_like(cells))
    coords = np.array([[1030, 500], [1000, 510], [1030, 510], [500, 1030]])
    assert tissue_fraction(tissue, coords, 10).tolist() == [1, 0, 0, 0]


def test_a_selection_keeps_the_lattice() -> None:
    slide = slide_of(1000, 1000, 0.5)
    grid = plan_grid(slide, all_tissue(slide), GridParams(patch_px=100))
    some = grid.select(np.array([3, 7]))
    assert some.coords.tolist() == grid.coords[[3, 7]].tolist()
    assert some.lattice == grid.lattice
    assert isinstance(some, PatchGrid)
    assert len(some) == 2


# -- patches that another tool placed --------------------------------------------------------------

points = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), min_size=1, max_size=12)


@given(points, st.integers(1, 400), st.integers(1, 90))
def test_a_free_grid_keeps_the_coordinates_and_its_lattice_holds_them_if_it_says_so(
    where: list[tuple[int, int]], side: int, step: int
) -> None:
    coords = np.array(where, np.int64) // step * step + 7
    grid = free_grid(coords, 224, side, 0.5)
    assert np.array_equal(grid.coords, coords)
    assert grid.origin_l0 == tuple(coords.min(axis=0).tolist())
    assert side / 16 <= grid.stride_l0 <= side
    on_lattice = not ((coords - grid.origin_l0) % grid.stride_l0).any()
    assert on_lattice or grid.places == "free"
    if side / 16 <= step <= side:
        assert grid.places == "grid"


@pytest.mark.parametrize(
    ("coords", "places", "stride"),
    [
        ([[5, 9], [261, 9], [5, 521]], "grid", 256),  # side by side
        ([[5, 9], [133, 9], [5, 265]], "grid", 128),  # overlapping
        ([[0, 0], [16, 0]], "grid", 16),  # a 16th of a patch
        ([[0, 0], [15, 0]], "free", 16),  # finer
        ([[0, 0], [1024, 0]], "grid", 256),  # with gaps of whole patches
        ([[0, 0], [300, 0]], "grid", 150),  # with other gaps
        ([[0, 0], [1021, 0]], "free", 16),  # 1021 has no divisors
        ([[0, 0], [256, 0], [0, 257]], "free", 16),
        ([[7, 3]], "grid", 256),
        ([[7, 3], [7, 3]], "grid", 256),
        (np.empty((0, 2), int), "grid", 256),
        ([[0, 0], [199_999, 150_001]], "free", 176),  # else 10⁸ cells for two patches
        ([[0, 0], [16, 16], [200_000, 160_000]], "free", 176),  # and so on a fine lattice
        ([[0, 0], [1_000_003, 1_000_001]], "free", 1040),  # a cell holds whole patches
    ],
)
def test_patches_on_one_lattice_have_its_step_and_others_a_16th_of_a_patch(
    coords: object, places: str, stride: int
) -> None:
    grid = free_grid(np.array(coords), 224, 256, 0.5, 2)
    assert (grid.places, grid.stride_l0, grid.level) == (places, stride, 2)


@pytest.mark.parametrize(
    "coords", [np.array([[-1, 0]]), np.array([[0.5, 0]]), np.array([1, 2]), np.zeros((2, 3), int)]
)
def test_coordinates_that_cannot_be_raise(coords: NDArray[np.int64]) -> None:
    with pytest.raises(ValueError, match="coordinate"):
        free_grid(coords, 224, 256, 0.5)


def test_patches_without_places_are_counted_and_have_their_size() -> None:
    grid = unplaced_grid(5, 224, 0.5)
    assert (len(grid), grid.places, grid.patch_px, grid.patch_mpp) == (5, "unknown", 224, 0.5)
    assert not grid.coords.any()


# -- examples and faults ---------------------------------------------------------------------------


def test_no_tissue_gives_an_empty_grid() -> None:
    slide = slide_of(1000, 1000, 0.5)
    grid = plan_grid(slide, tissue_over(slide, np.zeros((9, 9), np.bool_)), GridParams())
    assert len(grid) == 0
    assert grid.coords.shape == (0, 2)


def test_a_slide_as_large_as_a_patch_has_one_and_a_smaller_slide_raises() -> None:
    slide = slide_of(256, 256, 0.5)
    assert plan_grid(slide, all_tissue(slide), GridParams()).coords.tolist() == [[0, 0]]
    small = slide_of(256, 255, 0.5)
    with pytest.raises(UnsupportedSlideError, match="smaller than one patch of 256 px"):
        plan_grid(small, all_tissue(small), GridParams())


def test_a_slide_too_coarse_raises(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "coarse.tif", [noise(300, 300)], mpp=(2, 2))
    with (
        Slide(path) as slide,
        pytest.raises(ResolutionError, match=r"coarser than the requested 0\.5"),
    ):
        plan_grid(slide, all_tissue(slide), GridParams())


def test_the_patches_of_a_synthetic_slide_are_on_its_tissue(
    drawn: SyntheticSlide, drawn_bag: Path
) -> None:
    from milpath.formats.bag import Bag

    with Bag(drawn_bag) as bag:
        share = drawn.tissue_fraction(bag.grid.coords, bag.grid.patch_size_l0)
        tumour = drawn.tumour_fraction(bag.grid.coords, bag.grid.patch_size_l0)
    assert (share > 0.2).mean() > 0.97
    assert (tumour > 0.5).any()


def test_the_number_of_calls_that_plan_a_grid_does_not_grow_with_the_slide() -> None:
    calls, found = [], []
    for side in (1_000, 100_000):
        slide = slide_of(side, side, 0.25)
        cells = np.random.default_rng(0).random((side // 32, side // 32)) < 0.9
        tissue = tissue_over(slide, cells)
        events: Counter[str] = Counter()
        before = sys.getprofile()
        sys.setprofile(lambda frame, event, arg, events=events: events.update((event,)))
        try:
            grid = plan_grid(slide, tissue, GridParams(mpp=0.5, patch_px=128))
        finally:
            sys.setprofile(before)
        calls.append(events["call"] + events["c_call"])
        found.append(len(grid))
    assert found == [(1_000 // 256) ** 2, (100_000 // 256) ** 2]
    assert calls[1] <= calls[0] + 10


def test_a_slide_of_ten_gigapixels_needs_memory_in_proportion_to_its_thumbnail() -> None:
    slide = slide_of(100_000, 100_000, 0.25)
    cells = np.random.default_rng(0).random((3125, 3125)) < 0.9
    tissue = tissue_over(slide, cells)
    tracemalloc.start()
    try:
        grid = plan_grid(slide, tissue, GridParams(mpp=0.5, patch_px=128))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(grid) == (100_000 // 256) ** 2
    assert peak < 32 * cells.size  # bytes: three tables of float64
