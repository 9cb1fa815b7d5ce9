"""Heatmaps lie where their patches lie, mean what their label says, and are drawn alike twice."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from milpath.errors import StoredFileError, UsageError
from milpath.grid import PatchGrid
from milpath.heatmap import (
    Heatmap,
    overlay_title,
    paint,
    rasterize,
    render_overlay,
    spread,
    write_overlay,
)
from milpath.overview import Overview, read_thumbnail
from milpath.prediction import Prediction
from milpath.sheet import round_length
from milpath.slide import Slide, SlideFacts

Floats = NDArray[np.float64]

FACTS = SlideFacts("S1", "generic-tiff", 1500, 1100, 0.5, 0.5, "slide", None, "0")


def make_grid(
    places: NDArray[np.int64], side: int, stride: int, origin: tuple[int, int] = (0, 0)
) -> PatchGrid:
    """Patches at lattice `places` (N, 2), (column, row)."""
    coords = np.asarray(origin) + stride * np.asarray(places, np.int64)
    return PatchGrid(coords, side, side, stride, origin, 0.5, 0)


def all_places(cols: int, rows: int) -> NDArray[np.int64]:
    return np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).reshape(-1, 2)


def make_prediction(
    grid: PatchGrid,
    seed: int = 0,
    members: int = 1,
    classes: tuple[str, ...] = ("normal", "tumour"),
) -> Prediction:
    rng = np.random.default_rng(seed)
    attention = rng.random((members, len(grid)))
    attention /= attention.sum(axis=1, keepdims=True)
    weights = rng.normal(size=(members, len(grid), len(classes)))
    return Prediction(
        slide=FACTS,
        grid=grid,
        status="ok" if len(grid) else "no_tissue",
        class_names=classes,
        member_attention=attention,
        member_contributions=attention[..., None] * weights,
        member_bias=rng.normal(size=(members, len(classes))),
        model="m",
    )


def extent(hot: NDArray[np.bool_], origin: tuple[int, int] = (0, 0), cell: int = 1) -> Floats:
    """(x0, y0, x1, y1) of the True cells of a raster."""
    rows, cols = (place.astype(float) for place in hot.nonzero())
    ends = [float(end) for end in (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)]
    box: Floats = np.array(ends) * cell + np.array([*origin, *origin])
    return box


# -- the raster ----------------------------------------------------------------------------------


def test_a_hot_patch_lights_exactly_the_cells_of_its_own_square() -> None:
    rng = np.random.default_rng(7)
    for _ in range(200):
        stride = int(rng.integers(3, 300))
        side = int(
            stride * rng.integers(1, 5) if rng.random() < 0.5 else stride * rng.uniform(1, 4)
        )
        origin = (int(rng.integers(0, 5000)), int(rng.integers(0, 5000)))
        places = rng.permutation(all_places(9, 7))[: rng.integers(1, 60)]
        grid = make_grid(places, side, stride, origin)
        hot = int(rng.integers(len(grid)))
        heat = spread(grid, (np.arange(len(grid)) == hot).astype(float))
        left, top, right, bottom = extent(np.nan_to_num(heat) > 0, origin, stride)
        x, y = grid.coords[hot]
        assert (left, top) == pytest.approx((x, y), abs=0.5)
        # a stride that does not divide the patch leaves its last cell partly covered
        whole = -(-side // stride) * stride
        assert (right, bottom) == pytest.approx((x + whole, y + whole), abs=0.5)


@pytest.mark.parametrize(("side", "stride"), [(6, 6), (6, 3), (7, 3), (8, 5), (9, 2), (5, 5)])
@pytest.mark.parametrize("jitter", [0, 2])
def test_a_cell_is_the_mean_of_what_covers_it_pixel_by_pixel(
    side: int, stride: int, jitter: int
) -> None:
    rng = np.random.default_rng(side * 10 + stride)
    grid = make_grid(rng.permutation(all_places(6, 5))[:17], side, stride, (11, 4))
    grid = replace(grid, coords=grid.coords + rng.integers(0, jitter + 1, grid.coords.shape))
    scores = rng.normal(size=len(grid))
    heat = spread(grid, scores)

    high, wide = (heat.shape[0] + 3) * stride, (heat.shape[1] + 3) * stride
    total, count = np.zeros((high, wide)), np.zeros((high, wide))
    for (x, y), score in zip(grid.coords.tolist(), scores, strict=True):
        for row in range(y - 4, y - 4 + side):
            for col in range(x - 11, x - 11 + side):
                total[row, col] += score
                count[row, col] += 1
    for row in range(high // stride):
        for col in range(wide // stride):
            here = np.s_[row * stride : (row + 1) * stride, col * stride : (col + 1) * stride]
            if count[here].sum() == 0:
                assert row >= heat.shape[0] or col >= heat.shape[1] or np.isnan(heat[row, col])
            else:
                expected = float(total[here].sum()) / float(count[here].sum())
                assert heat[row, col] == pytest.approx(expected, abs=1e-12)


def test_a_cell_without_a_patch_is_nan() -> None:
    heat = spread(make_grid(np.array([[0, 0], [2, 1]]), 10, 10), np.array([1.0, 2.0]))
    np.testing.assert_array_equal(heat, [[1, np.nan, np.nan], [np.nan, np.nan, 2]])


def test_relative_attention_has_a_mean_of_one() -> None:
    heatmap = rasterize(make_prediction(make_grid(all_places(8, 5), 20, 20)))
    assert heatmap.scale == "relative"
    assert heatmap.values.mean() == pytest.approx(1)


def test_percentiles_are_midranks_between_0_and_100() -> None:
    prediction = make_prediction(make_grid(all_places(4, 1), 20, 20))
    prediction = replace(prediction, member_attention=np.array([[0.1, 0.4, 0.4, 0.1]]))
    heatmap = rasterize(prediction, scale="percentile")
    np.testing.assert_allclose(heatmap.values, [[25, 75, 75, 25]])


def test_percentiles_of_contributions_rank_by_size_and_keep_the_sign() -> None:
    prediction = make_prediction(make_grid(all_places(4, 1), 20, 20))
    contributions = np.zeros((1, 4, 2))
    contributions[0, :, 1] = [-0.9, 0.1, 0.5, 0.0]
    prediction = replace(prediction, member_contributions=contributions)
    heatmap = rasterize(prediction, "contribution", "percentile", "tumour")
    np.testing.assert_allclose(heatmap.values, [[-87.5, 37.5, 62.5, 0]])
    assert heatmap.signed


def test_raw_contributions_sum_to_the_logit_less_the_bias() -> None:
    prediction = make_prediction(make_grid(all_places(9, 4), 16, 16), members=3)
    for index, name in enumerate(prediction.class_names):
        heatmap = rasterize(prediction, "contribution", "raw", name)
        expected = prediction.logits[index] - prediction.bias[index]
        assert heatmap.values.sum() == pytest.approx(expected)


def test_relative_contributions_have_the_logit_less_the_bias_for_mean() -> None:
    prediction = make_prediction(make_grid(all_places(9, 4), 16, 16))
    heatmap = rasterize(prediction, "contribution", class_name="tumour")
    assert heatmap.values.mean() == pytest.approx(prediction.logits[1] - prediction.bias[1])


def test_two_classes_show_the_predicted_one_by_default() -> None:
    prediction = make_prediction(make_grid(all_places(3, 3), 16, 16))
    assert f"to {prediction.predicted} " in rasterize(prediction, "contribution").label


def test_one_member_can_be_shown_alone() -> None:
    prediction = make_prediction(make_grid(all_places(5, 1), 16, 16), members=3)
    heatmap = rasterize(prediction, scale="raw", member=2)
    np.testing.assert_allclose(heatmap.values[0], prediction.member_attention[2])
    with pytest.raises(UsageError, match="members 0 to 2"):
        rasterize(prediction, member=3)


def test_contributions_are_to_the_predicted_class_and_an_unknown_one_is_refused() -> None:
    prediction = make_prediction(make_grid(all_places(3, 3), 16, 16), classes=("a", "b", "c"))
    default = rasterize(prediction, "contribution")
    assert str(prediction.predicted) in default.label
    named = rasterize(prediction, "contribution", class_name=prediction.predicted)
    assert np.array_equal(default.values, named.values, equal_nan=True)
    with pytest.raises(UsageError, match=r"no class 'd'.* a, b, c"):
        rasterize(prediction, "contribution", class_name="d")


def test_a_slide_without_tissue_is_refused_in_one_line() -> None:
    prediction = make_prediction(make_grid(np.zeros((0, 2), np.int64), 16, 16))
    with pytest.raises(UsageError, match=r"^S1: no tissue, so there is nothing to show$"):
        rasterize(prediction)
    assert overlay_title(prediction) == "S1: no tissue"


def test_a_score_that_is_not_a_number_is_refused() -> None:
    prediction = make_prediction(make_grid(all_places(2, 1), 16, 16))
    prediction = replace(prediction, member_attention=np.array([[1.0, np.nan]]))
    with pytest.raises(StoredFileError, match="S1: a patch's score is not a number"):
        rasterize(prediction)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stride_l0": 0},
        {"stride_l0": -5},
        {"patch_size_l0": 10**12},
        {"origin_l0": (17, 0)},
        {"coords": np.array([[0, 0], [1 << 40, 1 << 40]])},
    ],
)
def test_a_grid_that_would_fill_the_memory_is_refused(wrong: dict[str, object]) -> None:
    grid = replace(make_grid(all_places(2, 1), 16, 16), **wrong)  # type: ignore[arg-type]
    with pytest.raises(StoredFileError, match="cannot be laid on a raster"):
        spread(grid, np.ones(2))


# -- the picture ---------------------------------------------------------------------------------

HOT = (4, 3)  # the planted patch's column and row
STRIDE, ORIGIN = 96, (37, 51)


@pytest.fixture
def slide(tmp_path: Path) -> Iterator[Slide]:
    """A white slide with a dark ring just around the planted patch."""
    rgb = np.full((1100, 1500, 3), 245, np.uint8)
    x, y = (ORIGIN[axis] + STRIDE * HOT[axis] for axis in (0, 1))
    rgb[y - 15 : y + STRIDE + 15, x - 15 : x + STRIDE + 15] = 0
    rgb[y : y + STRIDE, x : x + STRIDE] = 245
    with Slide(write_slide(tmp_path / "S1.tif", rgb)) as opened:
        yield opened


def write_slide(path: Path, rgb: NDArray[np.uint8]) -> Path:
    tifffile.imwrite(
        path, rgb, tile=(64, 64), photometric="rgb", resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


def hot_prediction(places: NDArray[np.int64], side: int) -> Prediction:
    grid = make_grid(places, side, STRIDE, ORIGIN)
    prediction = make_prediction(grid)
    attention = np.where((places == HOT).all(axis=1), 1.0, 1e-4)
    return replace(prediction, member_attention=(attention / attention.sum())[None])


@pytest.mark.parametrize("max_px", [1500, 500, 430])
def test_a_planted_hot_patch_is_painted_where_it_lies_on_the_slide(
    slide: Slide, max_px: int
) -> None:
    prediction = hot_prediction(all_places(14, 10), STRIDE)
    picture = render_overlay(slide, rasterize(prediction), "S1", max_px=max_px, side_by_side=False)
    rgb = np.asarray(picture).astype(int)
    body = rgb[: int(rgb.shape[0] * 0.85)]  # without the colour bar
    yellow = (body[..., 0] - body[..., 2] > 80) & (body[..., 1] > 150)
    ring = (body < 100).all(axis=-1) & (np.arange(body.shape[0]) > 0.12 * len(body))[:, None]
    painted = extent(yellow)
    outer = extent(ring)
    scale = max(read_thumbnail(slide, max_px).rgb.shape[:2]) / 1500
    expected = outer + np.array([15, 15, -15, -15]) * scale
    assert np.abs(painted - expected).max() <= 1.5
    side = painted[2] - painted[0], painted[3] - painted[1]
    assert side == pytest.approx((STRIDE * scale, STRIDE * scale), abs=1.5)


def test_each_pixel_takes_the_cell_its_centre_lies_in_also_with_an_origin() -> None:
    heatmap = Heatmap(np.array([[0.0, 100.0], [np.nan, 0.0]]), (103, 51), 10, "x", False, "raw")
    rgb = np.full((30, 40, 3), 255, np.uint8)
    overview = Overview(rgb, (100, 50), (1.0, 1.0), 1.0, np.zeros((30, 40), bool))
    painted = paint(heatmap, overview)
    changed = (painted != 255).any(axis=-1)
    expected = np.zeros((30, 40), bool)
    expected[1:11, 3:23] = expected[11:21, 13:23] = True
    np.testing.assert_array_equal(changed, expected)
    assert painted[5, 18, 2] < 150 < painted[5, 8, 2]  # yellow, and pale violet


def test_the_same_prediction_gives_the_same_bytes_without_any_text(
    slide: Slide, tmp_path: Path
) -> None:
    heatmap = rasterize(hot_prediction(all_places(14, 10), STRIDE))
    for name in ("a.png", "b.png"):
        write_overlay(tmp_path / name, slide, heatmap, "S1: tumour 0.97\nand more", max_px=300)
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert set(png_chunks(data)) == {b"IHDR", b"IDAT", b"IEND"}
    assert not list(tmp_path.glob("*.part"))


def png_chunks(data: bytes) -> list[bytes]:
    kinds, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kinds.append(data[at + 4 : at + 8])
        at += 12 + length
    return kinds


@pytest.mark.parametrize("score", ["attention", "contribution"])
@pytest.mark.parametrize("scale", ["raw", "relative", "percentile"])
@pytest.mark.parametrize("flat", [False, True])
def test_every_score_and_scale_can_be_drawn(
    slide: Slide, score: str, scale: str, flat: bool
) -> None:
    prediction = make_prediction(make_grid(all_places(6, 5), 128, 96, ORIGIN))
    if flat:
        prediction = replace(
            prediction,
            member_attention=np.full((1, 30), 1 / 30),
            member_contributions=np.zeros((1, 30, 2)),
        )
    heatmap = rasterize(prediction, score, scale, "tumour")  # type: ignore[arg-type]
    picture = render_overlay(slide, heatmap, overlay_title(prediction), max_px=200)
    assert picture.mode == "RGB"


@pytest.mark.parametrize("size", [(16, 16), (1, 900), (900, 3)])
def test_tiny_and_elongated_slides_give_a_readable_sheet(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    rgb = np.full((*size, 3), 200, np.uint8)
    heatmap = Heatmap(np.array([[0.5, 2.0]]), (0, 0), 8, "attention", False, "relative")
    with Slide(write_slide(tmp_path / "t.tif", rgb)) as tiny:
        picture = render_overlay(tiny, heatmap, "t", max_px=600)
    assert picture.width >= 640
    assert picture.height >= 100


@pytest.mark.parametrize(
    "title", ["切片 \N{FACE WITH TEARS OF JOY}", r"$\frac{", "x" * 400, "a\tb", ""]
)
def test_any_title_is_drawn_without_a_warning(slide: Slide, title: str) -> None:
    heatmap = rasterize(hot_prediction(all_places(14, 10), STRIDE))
    plain = render_overlay(slide, heatmap, "S1", max_px=200)
    assert render_overlay(slide, heatmap, title, max_px=200).size == plain.size


def test_a_scale_bar_has_a_round_length_that_fits() -> None:
    for limit in [*np.geomspace(0.01, 1e6, 300), 1000.0, 0.1, 5.0]:
        length = round_length(limit)
        assert 0.39 * limit <= length <= limit
        assert f"{length:e}"[0] in "125"
        assert float(f"{length:.0e}") == pytest.approx(length)
    assert round_length(1000.0) == 1000
