"""A lattice converts between level-0 pixels, cells, µm and napari's world without a shift."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milpath.slides.lattice import LEVEL_0, Lattice, from_world, to_um, to_world

Pair = tuple[float, float]

origins = st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5))
cells = st.tuples(st.floats(0.05, 5000), st.floats(0.05, 5000))
lattices = st.builds(Lattice, origins, cells)
whole = st.builds(
    Lattice,
    st.tuples(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6)),
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
points = st.lists(
    st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)), min_size=1, max_size=8
).map(np.array)
mpps = st.tuples(st.floats(0.05, 20), st.floats(0.05, 20))

lattice_law = settings(max_examples=200, deadline=None)


# -- laws ------------------------------------------------------------------------------------------


@lattice_law
@given(lattice=lattices, places=points)
def test_cells_and_indices_convert_back_to_the_same_points(
    lattice: Lattice, places: np.ndarray
) -> None:
    scale = np.abs(places).max() + np.abs(lattice.origin_l0).max() + max(lattice.cell_l0)
    for there, back in (
        (lattice.to_cells, lattice.to_l0),
        (lattice.to_index, lattice.from_index),
    ):
        assert back(there(places)) == pytest.approx(places, abs=1e-12 * scale)


@lattice_law
@given(lattice=lattices, places=points)
def test_rows_follow_y_alone_and_columns_x_alone(lattice: Lattice, places: np.ndarray) -> None:
    for point, (row, col) in zip(places, lattice.to_cells(places), strict=True):
        assert row == (point[1] - lattice.origin_l0[1]) / lattice.cell_l0[1]
        assert col == (point[0] - lattice.origin_l0[0]) / lattice.cell_l0[0]
    rows, cols = lattice.axes_to_cells(places[:, 1], places[:, 0])
    assert np.array_equal(np.stack([rows, cols], axis=1), lattice.to_cells(places))


@lattice_law
@given(lattice=lattices, shape=shapes)
def test_edges_are_corners_and_centres_lie_half_a_cell_further(
    lattice: Lattice, shape: tuple[int, int]
) -> None:
    (edge_y, edge_x), (y, x) = lattice.edges(shape), lattice.centres(shape)
    assert (len(edge_y), len(edge_x)) == (shape[0] + 1, shape[1] + 1)
    assert (edge_x[0], edge_y[0]) == lattice.origin_l0
    assert lattice.to_l0(shape).tolist() == [edge_x[-1], edge_y[-1]]
    scale = np.abs(lattice.origin_l0).max() + 41 * max(lattice.cell_l0)
    assert y == pytest.approx((edge_y[:-1] + edge_y[1:]) / 2, abs=1e-12 * scale)
    assert x == pytest.approx((edge_x[:-1] + edge_x[1:]) / 2, abs=1e-12 * scale)
    row, col = shape[0] - 1, shape[1] - 1
    assert lattice.from_index((row, col)).tolist() == [x[-1], y[-1]]


@lattice_law
@given(lattice=lattices, shape=shapes)
def test_the_centre_of_each_cell_lies_in_that_cell(
    lattice: Lattice, shape: tuple[int, int]
) -> None:
    y, x = lattice.centres(shape)
    places = np.stack(np.meshgrid(x, y), axis=-1)  # (rows, cols, 2)
    index = np.stack(np.indices(shape), axis=-1)
    assert np.array_equal(lattice.index_of(places), index)
    assert lattice.contains(places, shape).all()
    beyond = lattice.from_index([(-1, 0), (0, -1), (shape[0], 0), (0, shape[1])])
    assert not lattice.contains(beyond, shape).any()


@lattice_law
@given(lattice=whole, index=st.tuples(st.integers(-999, 999), st.integers(-999, 999)))
def test_whole_numbers_are_exact_to_the_pixel(lattice: Lattice, index: tuple[int, int]) -> None:
    corner = lattice.to_l0(index)
    assert corner.dtype == np.int64
    assert lattice.to_cells(corner).tolist() == list(index)
    last = corner + np.array(lattice.cell_l0) - 1
    for point in (corner, last):
        found, offset = lattice.locate(point)
        assert tuple(found.tolist()) == index
        assert offset.tolist() == (point - corner)[::-1].tolist()
    assert (lattice.index_of(last + 1) == np.array(index) + 1).all()
    assert (lattice.index_of(corner - 1) == np.array(index) - 1).all()


@lattice_law
@given(lattice=lattices, shape=shapes, new_shape=shapes)
def test_a_resized_lattice_covers_the_same_area(
    lattice: Lattice, shape: tuple[int, int], new_shape: tuple[int, int]
) -> None:
    resized = lattice.resized(shape, new_shape)
    assert resized.to_l0(new_shape) == pytest.approx(lattice.to_l0(shape), rel=1e-12, abs=1e-6)
    assert resized.size_to_l0(new_shape) == pytest.approx(lattice.size_to_l0(shape), rel=1e-12)
    assert lattice.resized(shape, shape).cell_l0 == pytest.approx(lattice.cell_l0, rel=1e-15)


@lattice_law
@given(lattice=lattices, size=st.tuples(st.floats(0.1, 1e4), st.floats(0.1, 1e4)))
def test_a_size_is_the_difference_of_two_points(lattice: Lattice, size: Pair) -> None:
    rows, cols = lattice.size_to_cells(size)
    assert (rows, cols) == (size[1] / lattice.cell_l0[1], size[0] / lattice.cell_l0[0])
    assert lattice.size_to_l0((rows, cols)) == pytest.approx(size, rel=1e-12)
    assert lattice.cell_area_l0 == pytest.approx(np.prod(lattice.size_to_l0((1, 1))))
    side = lattice.size_to_cells(size[0])
    assert side.tolist() == lattice.size_to_cells((size[0], size[0])).tolist()


# -- napari ----------------------------------------------------------------------------------------


@lattice_law
@given(lattice=lattices, mpp=mpps, index=st.tuples(st.floats(-50, 50), st.floats(-50, 50)))
def test_napari_shows_each_cell_where_its_pixels_are(
    lattice: Lattice, mpp: Pair, index: Pair
) -> None:
    scale, translate = lattice.napari_transform(mpp)
    shown = np.array(index) * scale + translate  # napari's own rule
    size = (np.abs(lattice.origin_l0).max() + 50 * max(lattice.cell_l0)) * max(mpp)
    assert shown == pytest.approx(to_world(lattice.from_index(index), mpp), abs=1e-12 * size)


@lattice_law
@given(places=points, mpp=mpps)
def test_world_and_micrometres_differ_by_half_a_pixel(places: np.ndarray, mpp: Pair) -> None:
    world = to_world(places, mpp)
    scale = np.abs(places).max() * max(mpp) + 20
    half = np.array(mpp) / 2
    assert world[:, ::-1] == pytest.approx(to_um(places, mpp) - half, abs=1e-12 * scale)
    assert from_world(world, mpp) == pytest.approx(places, abs=1e-12 * (scale / min(mpp)))


def test_the_slide_itself_is_shown_at_the_origin() -> None:
    assert LEVEL_0.napari_transform((0.5, 0.25)) == ((0.25, 0.5), (0.0, 0.0))
    assert LEVEL_0.napari_transform(None) == ((1.0, 1.0), (0.0, 0.0))
    assert to_world((0.5, 0.5), (0.25, 0.5)).tolist() == [0.0, 0.0]


# -- examples and faults ---------------------------------------------------------------------------


def test_an_example_by_hand() -> None:
    lattice = Lattice((100, 200), (10, 20))
    assert lattice.to_cells((125, 210)).tolist() == [0.5, 2.5]
    assert lattice.to_index((125, 210)).tolist() == [0.0, 2.0]
    assert lattice.index_of((129, 219)).tolist() == [0, 2]
    assert lattice.to_l0((1, 2)).tolist() == [120, 220]
    assert lattice.napari_transform((0.5, 1.0)) == ((20.0, 5.0), (209.5, 52.25))


@pytest.mark.parametrize("cell", [(0, 1), (1, 0), (-1, 1), (1, float("nan")), (float("inf"), 1)])
def test_a_cell_without_a_size_raises(cell: Pair) -> None:
    with pytest.raises(ValueError, match="expected two sizes above 0"):
        Lattice((0, 0), cell)


def test_a_lattice_is_an_immutable_value() -> None:
    one, two = Lattice((1, 2), (3.0, 4.0)), Lattice((1.0, 2.0), (3, 4))
    assert one == two
    assert hash(one) == hash(two)
    with pytest.raises(FrozenInstanceError):
        one.cell_l0 = (5, 5)  # type: ignore[misc]
