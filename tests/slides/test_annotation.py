"""Annotations keep the mask they were traced from; files are read as they were written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import points_in_poly

from milpath.errors import AnnotationError
from milpath.slides.annotation import (
    Annotation,
    Polygon,
    nest_rings,
    rasterize_annotation,
    read_annotation,
    trace_tissue,
    write_annotation,
)
from milpath.slides.lattice import Lattice
from milpath.slides.thumbnail import Thumbnail
from milpath.slides.tissue import TissueMask


def make_tissue(mask: NDArray[np.bool_]) -> tuple[Thumbnail, TissueMask]:
    """A mask and a thumbnail of the same shape: cells of 16 x 16.5 px from (100, 40)."""
    lattice = Lattice((100, 40), (16.0, 16.5))
    rgb = np.full((*mask.shape, 3), 240, np.uint8)
    thumbnail = Thumbnail(rgb, lattice, 8.0, np.zeros(mask.shape, np.bool_))
    return thumbnail, TissueMask(mask, lattice, "bright", np.zeros(mask.shape, np.bool_))


def blobs(seed: int) -> NDArray[np.bool_]:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(120, 150)), 6)
    return np.asarray(field > 0)


@pytest.mark.parametrize("seed", range(5))
def test_a_traced_mask_is_rasterized_to_itself_except_at_its_border(seed: int) -> None:
    mask = blobs(seed)
    thumbnail, tissue = make_tissue(mask)
    annotation = trace_tissue(tissue)
    again = rasterize_annotation(thumbnail, tissue, Annotation(tuple(annotation), "a")).mask
    rim = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)
    assert not (again ^ mask)[~rim].any()
    assert (again ^ mask).mean() < 0.02


def test_a_rectangle_is_traced_at_the_edges_of_its_cells() -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[5:10, 8:20] = True
    _, tissue = make_tissue(mask)
    (piece,) = trace_tissue(tissue)
    assert piece.ring.min(axis=0) == pytest.approx((100 + 8 * 16, 40 + 5 * 16.5), abs=8.5)
    assert piece.ring.max(axis=0) == pytest.approx((100 + 20 * 16, 40 + 10 * 16.5), abs=8.5)


def square(low: float, high: float) -> NDArray[np.float64]:
    return np.array([[low, low], [high, low], [high, high], [low, high]])


def test_a_ring_in_a_ring_is_a_hole_and_a_ring_in_a_hole_a_polygon() -> None:
    pieces = nest_rings([square(40, 60), square(0, 100), square(20, 80), square(200, 300)])
    assert sorted(len(piece.holes) for piece in pieces) == [0, 0, 1]


def test_rings_that_cross_or_touch_are_separate_polygons() -> None:
    pieces = nest_rings([square(0, 100), square(50, 150)])
    assert [len(piece.holes) for piece in pieces] == [0, 0]
    assert len(nest_rings([square(0, 100), square(100, 150)])) == 2
    assert len(nest_rings([square(0, 100), square(0, 100)])) == 2


def test_rings_that_enclose_nothing_are_dropped() -> None:
    assert nest_rings([square(0, 100)[:2]]) == nest_rings([]) == []


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9)), max_size=9))
def test_rings_are_nested_as_by_comparing_all_pairs(places: list[tuple[int, int, int]]) -> None:
    boxes = [((x, y), (x + side, y + side)) for x, y, side in places]
    rings = [np.array([[x, y], [u, y], [u, v], [x, v]], float) for (x, y), (u, v) in boxes]

    def depth(index: int) -> int:
        (x, y), (u, v) = boxes[index]
        return sum(a < x and b < y and u < c and v < d for (a, b), (c, d) in boxes)

    polygons = nest_rings(rings)
    assert len(polygons) == sum(depth(index) % 2 == 0 for index in range(len(rings)))
    assert sum(len(each.holes) + 1 for each in polygons) == len(rings)


def test_a_written_annotation_is_read_again(tmp_path: Path) -> None:
    _, tissue = make_tissue(blobs(7))
    annotation = trace_tissue(tissue)
    write_annotation(tmp_path / "o.geojson", annotation)
    again = read_annotation(tmp_path / "o.geojson").polygons
    assert len(again) == len(annotation)
    for one, other in zip(annotation, again, strict=True):
        np.testing.assert_allclose(one.ring, other.ring, atol=0.006)
        assert len(one.holes) == len(other.holes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2",
        "{}",
        "[]",
        '{"type": "FeatureCollection", "features": []}',
        '{"type": "Polygon", "coordinates": []}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [1, 0]]]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [NaN, 0], [1, 1], [0, 0]]]}',
        '{"type": "Polygon", "coordinates": [[["a", 0], [1, 0], [1, 1], [0, 0]]]}',
        '{"type": "Feature", "geometry": null}',
        '{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}',
        "[" * 100_000,
    ],
)
def test_a_file_that_is_no_annotation_raises_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "o.geojson").write_text(text)
    with pytest.raises(AnnotationError, match=r"^o\.geojson: ") as caught:
        read_annotation(tmp_path / "o.geojson")
    assert "\n" not in str(caught.value)


def test_multipolygons_and_lists_of_features_are_read(tmp_path: Path) -> None:
    rings = [[[0, 0], [9, 0], [9, 9], [0, 0]]]
    for geometry in (
        {"type": "MultiPolygon", "coordinates": [rings, rings]},
        [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}}] * 2,
    ):
        (tmp_path / "o.json").write_text(json.dumps(geometry))
        assert len(read_annotation(tmp_path / "o.json").polygons) == 2


def test_unreadable_cells_are_never_tissue() -> None:
    thumbnail, tissue = make_tissue(np.ones((20, 30), np.bool_))
    thumbnail.unreadable[:, :10] = True
    everything = Polygon(np.array([[0, 0], [1e4, 0], [1e4, 1e4], [0, 1e4]]))
    assert (
        not rasterize_annotation(thumbnail, tissue, Annotation((everything,), "a"))
        .mask[:, :10]
        .any()
    )


# -- untrusted files -----------------------------------------------------------------------------


def read_text(folder: Path, text: str | bytes) -> list[Polygon]:
    (folder / "o.geojson").write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_annotation(folder / "o.geojson").polygons)


@pytest.mark.parametrize(
    "value", ["9" * 400, "1e400", "NaN", "Infinity", "1e308", '"x"', "null", "[1]", "9" * 9999]
)
def test_coordinates_that_are_not_finite_numbers_raise(tmp_path: Path, value: str) -> None:
    text = f'{{"type":"Polygon","coordinates":[[[0,{value}],[9,0],[9,9],[0,9]]]}}'
    with pytest.raises(AnnotationError, match=r"^o\.geojson: not an annotation"):
        read_text(tmp_path, text)


def test_an_annotation_in_geographic_coordinates_raises(tmp_path: Path) -> None:
    ring = [[0, 0], [9, 0], [9, 9], [0, 9]]
    found = {"type": "Polygon", "coordinates": [ring], "crs": {"type": "name"}}
    with pytest.raises(AnnotationError, match="pixels"):
        read_text(tmp_path, json.dumps(found))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 100_000, "not an annotation"),
        (b"[1,2]," * 300_000, "more than 250,000 vertices"),
        (b"{}," * 1_100_000, "more than 250,000 vertices"),
        (bytes((1 << 25) + 1), "larger than 32 MB"),
    ],
)
def test_files_that_are_too_large_raise(tmp_path: Path, text: bytes, words: str) -> None:
    with pytest.raises(AnnotationError, match=words):
        read_text(tmp_path, text)


def test_too_many_rings_raise(tmp_path: Path) -> None:
    ring = [[0, 0], [9, 0], [9, 9], [0, 9]]
    found = {"type": "Polygon", "coordinates": [ring] * 10_001}
    with pytest.raises(AnnotationError, match="10,000 rings"):
        read_text(tmp_path, json.dumps(found))


def test_an_annotation_outside_the_slide_raises_with_its_coordinates() -> None:
    thumbnail, tissue = make_tissue(np.zeros((20, 30), np.bool_))
    ring = np.array([[9e5, 0], [9e5 + 99, 0], [9e5 + 99, 99], [9e5, 99]])
    with pytest.raises(
        AnnotationError, match="not overlap the slide: its smallest coordinates are x 900000, y 0"
    ):
        rasterize_annotation(thumbnail, tissue, Annotation((Polygon(ring),), "a"))


@given(data=st.data())
def test_polygons_are_rasterized_as_by_testing_each_point(data: st.DataObject) -> None:
    corner = st.tuples(st.floats(-5, 35), st.floats(-5, 25))
    rings = [np.array(data.draw(st.lists(corner, min_size=3, max_size=9))) for _ in range(2)]
    thumbnail, tissue = make_tissue(np.zeros((20, 30), np.bool_))
    places = [thumbnail.lattice.from_index(ring[:, ::-1]) for ring in rings]
    cols, rows = np.meshgrid(np.arange(30), np.arange(20))
    points = np.stack([cols.ravel(), rows.ravel()], axis=1)
    outer, hole = (points_in_poly(points, ring).reshape(20, 30) for ring in rings)
    try:
        drawn = Annotation((Polygon(places[0], (places[1],)),), "a")
        mask = rasterize_annotation(thumbnail, tissue, drawn).mask
    except AnnotationError:
        mask = np.zeros((20, 30), np.bool_)
    assert (mask != (outer & ~hole)).sum() <= _on_edges(points, rings)


def _on_edges(points: NDArray[np.int64], rings: list[NDArray[np.float64]]) -> int:
    """Number of points so close to an edge that rounding decides."""
    count = 0
    for ring in rings:
        for start, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            along, length = end - start, float(np.hypot(*(end - start)))
            off = points - start
            if length == 0:
                continue
            apart = np.abs(along[0] * off[:, 1] - along[1] * off[:, 0]) / length
            count += int((apart < 1e-6).sum())
    return count
