"""An outline is the mask it was traced from, and a file of it is read as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from milpath.errors import UsageError
from milpath.outline import (
    Polygon,
    fill_outline,
    nest_rings,
    read_outline,
    trace_tissue,
    write_outline,
)
from milpath.overview import Overview
from milpath.tissue import TissueMask


def frame(mask: NDArray[np.bool_]) -> tuple[Overview, TissueMask]:
    """A mask, and an overview it could be of: cells of 16 x 16.5 px from (100, 40) on."""
    cell, origin = (16.0, 16.5), (100, 40)
    rgb = np.full((*mask.shape, 3), 240, np.uint8)
    overview = Overview(rgb, origin, cell, 8.0, np.zeros(mask.shape, np.bool_))
    return overview, TissueMask(mask, origin, cell, "bright", np.zeros(mask.shape, np.bool_))


def blobs(seed: int) -> NDArray[np.bool_]:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(120, 150)), 6)
    return np.asarray(field > 0)


@pytest.mark.parametrize("seed", range(5))
def test_an_outline_filled_again_is_the_mask_but_for_its_rim(seed: int) -> None:
    mask = blobs(seed)
    overview, tissue = frame(mask)
    outline = trace_tissue(tissue)
    again = fill_outline(overview, tissue, outline).mask
    rim = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)
    assert not (again ^ mask)[~rim].any()
    assert (again ^ mask).mean() < 0.02


def test_a_rectangle_is_traced_at_the_edges_of_its_cells() -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[5:10, 8:20] = True
    _, tissue = frame(mask)
    (piece,) = trace_tissue(tissue)
    assert piece.ring.min(axis=0) == pytest.approx((100 + 8 * 16, 40 + 5 * 16.5), abs=8.5)
    assert piece.ring.max(axis=0) == pytest.approx((100 + 20 * 16, 40 + 10 * 16.5), abs=8.5)


def square(low: float, high: float) -> NDArray[np.float64]:
    return np.array([[low, low], [high, low], [high, high], [low, high]])


def test_a_ring_in_a_ring_is_a_hole_and_one_in_that_a_piece() -> None:
    pieces = nest_rings([square(40, 60), square(0, 100), square(20, 80), square(200, 300)])
    assert sorted(len(piece.holes) for piece in pieces) == [0, 0, 1]


def test_rings_that_cross_are_pieces_both() -> None:
    pieces = nest_rings([square(0, 100), square(50, 150)])
    assert [len(piece.holes) for piece in pieces] == [0, 0]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    _, tissue = frame(blobs(7))
    outline = trace_tissue(tissue)
    write_outline(tmp_path / "o.geojson", outline)
    again = read_outline(tmp_path / "o.geojson")
    assert len(again) == len(outline)
    for one, other in zip(outline, again, strict=True):
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
def test_what_is_no_outline_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "o.geojson").write_text(text)
    with pytest.raises(UsageError, match=r"^o\.geojson: ") as caught:
        read_outline(tmp_path / "o.geojson")
    assert "\n" not in str(caught.value)


def test_multipolygons_and_single_features_are_read_too(tmp_path: Path) -> None:
    rings = [[[0, 0], [9, 0], [9, 9], [0, 0]]]
    for geometry in (
        {"type": "MultiPolygon", "coordinates": [rings, rings]},
        [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}}] * 2,
    ):
        (tmp_path / "o.json").write_text(json.dumps(geometry))
        assert len(read_outline(tmp_path / "o.json")) == 2


def test_nothing_unreadable_is_tissue() -> None:
    overview, tissue = frame(np.ones((20, 30), np.bool_))
    overview.unreadable[:, :10] = True
    everything = Polygon(np.array([[0, 0], [1e4, 0], [1e4, 1e4], [0, 1e4]]))
    assert not fill_outline(overview, tissue, [everything]).mask[:, :10].any()
