"""Heatmaps have values where their patches lie, in the scale that their label names."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from support.predicting import all_places, extent, make_grid, make_prediction

from milpath.errors import StoredFileError, UsageError
from milpath.figures.heatmap import PatchScores, rasterize_scores, render_heatmap
from milpath.figures.overlay import overlay_title
from milpath.figures.score import Scale, Score
from milpath.patches.grid import PatchGrid, free_grid, unplaced_grid


def rasterize(grid: PatchGrid, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return rasterize_scores(grid, PatchScores(scores, "x", False, Scale.raw)).values


def test_a_patch_with_a_score_covers_exactly_the_cells_of_its_own_square() -> None:
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
        heat = rasterize(grid, (np.arange(len(grid)) == hot).astype(float))
        left, top, right, bottom = extent(np.nan_to_num(heat) > 0, origin, stride)
        x, y = grid.coords[hot]
        assert (left, top) == pytest.approx((x, y), abs=0.5)
        # the last cell is partly covered if the stride does not divide the patch
        whole = -(-side // stride) * stride
        assert (right, bottom) == pytest.approx((x + whole, y + whole), abs=0.5)


@pytest.mark.parametrize(("side", "stride"), [(6, 6), (6, 3), (7, 3), (8, 5), (9, 2), (5, 5)])
@pytest.mark.parametrize("jitter", [0, 2])
def test_a_cell_is_the_mean_over_its_pixels_of_the_patches_that_cover_them(
    side: int, stride: int, jitter: int
) -> None:
    rng = np.random.default_rng(side * 10 + stride)
    grid = make_grid(rng.permutation(all_places(6, 5))[:17], side, stride, (11, 4))
    grid = replace(grid, coords=grid.coords + rng.integers(0, jitter + 1, grid.coords.shape))
    scores = rng.normal(size=len(grid))
    heat = rasterize(grid, scores)

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


FREE = {
    "one": [[37, 11]],
    "one twice": [[37, 11], [37, 11]],
    "overlapping": [[0, 0], [13, 5], [14, 5], [90, 2], [13, 40]],
    "two lattices, one shifted by a pixel": [
        [x + shift, y + shift] for shift in (0, 1) for x in (0, 32, 64) for y in (0, 32)
    ],
    "far apart": [[0, 0], [301, 7], [5, 263]],
    "reaching over an edge": [[0, 0], [299, 3]],
}


@pytest.mark.parametrize("coords", FREE.values(), ids=FREE.keys())
@pytest.mark.parametrize("side", [1, 5, 32, 33])
def test_free_patches_are_drawn_where_they_are_and_their_scores_times_area_are_kept(
    coords: list[list[int]], side: int
) -> None:
    grid = free_grid(np.array(coords), 16, side, 0.5)
    scores = np.random.default_rng(side).normal(size=len(grid))
    heat = rasterize(grid, scores)
    cell = grid.stride_l0
    total = np.zeros((heat.shape[0] * cell, heat.shape[1] * cell))
    count = np.zeros(total.shape, int)
    for (x, y), score in zip(grid.coords - grid.origin_l0, scores, strict=True):
        total[y : y + side, x : x + side] += score
        count[y : y + side, x : x + side] += 1
    assert count.sum() == len(grid) * side**2  # every patch lies on the raster
    covered = count.reshape(heat.shape[0], cell, heat.shape[1], cell).sum(axis=(1, 3))
    assert np.array_equal(np.isnan(heat), covered == 0)
    summed = total.reshape(heat.shape[0], cell, heat.shape[1], cell).sum(axis=(1, 3))
    np.testing.assert_allclose(np.nan_to_num(heat) * covered, summed, rtol=0, atol=1e-10)
    kept = float((np.nan_to_num(heat) * covered).sum())
    assert kept == pytest.approx(scores.sum() * side**2, abs=1e-9)


def test_the_order_of_free_patches_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    coords, scores = rng.integers(0, 400, (60, 2)), rng.normal(size=60)
    order = rng.permutation(60)
    one = rasterize(free_grid(coords, 16, 48, 0.5), scores)
    two = rasterize(free_grid(coords[order], 16, 48, 0.5), scores[order])
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-12)


def test_few_free_patches_on_a_huge_slide_are_drawn_in_a_raster_that_is_not_huge() -> None:
    coords = np.array([[0, 0], [1_000_003, 1_000_001]])
    heat = rasterize(free_grid(coords, 16, 256, 0.5), np.array([1.0, 2.0]))
    assert heat.size < 1 << 21
    assert (heat[0, 0], heat[-1, -1]) == (1, 2)
    assert np.isfinite(heat).sum() <= 5  # a patch touches up to four cells


def test_the_memory_of_many_free_patches_is_bounded() -> None:
    coords = np.random.default_rng(0).integers(0, 100_000, (20_000, 2))
    grid, scores = free_grid(coords, 256, 512, 0.5), np.ones(20_000)
    tracemalloc.start()
    heat = rasterize(grid, scores)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(heat[np.isfinite(heat)], 1)
    assert heat.size <= 1 << 23
    assert peak < 400 << 20


def test_patches_without_coordinates_raise_in_one_line() -> None:
    prediction = make_prediction(unplaced_grid(5, 16, 0.5))
    text = "the files of its features hold no coordinates, .*nothing can be drawn"
    with pytest.raises(UsageError, match=f"^S1: {text}$"):
        render_heatmap(prediction)
    with pytest.raises(UsageError, match=f"^the prediction: {text}$"):
        rasterize(prediction.grid, np.ones(5))


def test_a_cell_without_a_patch_is_nan() -> None:
    heat = rasterize(make_grid(np.array([[0, 0], [2, 1]]), 10, 10), np.array([1.0, 2.0]))
    np.testing.assert_array_equal(heat, [[1, np.nan, np.nan], [np.nan, np.nan, 2]])


def test_relative_attention_has_a_mean_of_one() -> None:
    heatmap = render_heatmap(make_prediction(make_grid(all_places(8, 5), 20, 20)))
    assert heatmap.scale == "relative"
    assert heatmap.values.mean() == pytest.approx(1)


def test_scores_and_scales_may_be_plain_strings_and_an_unknown_one_raises() -> None:
    prediction = make_prediction(make_grid(all_places(4, 1), 20, 20))
    by_name = render_heatmap(prediction, "contribution", "raw")  # type: ignore[arg-type]
    by_value = render_heatmap(prediction, Score.contribution, Scale.raw)
    np.testing.assert_array_equal(by_name.values, by_value.values)
    with pytest.raises(ValueError, match="'evidence' is not a valid Score"):
        render_heatmap(prediction, "evidence")  # type: ignore[arg-type]


def test_percentiles_are_midranks_between_0_and_100() -> None:
    prediction = make_prediction(make_grid(all_places(4, 1), 20, 20))
    prediction = replace(prediction, member_attention=np.array([[0.1, 0.4, 0.4, 0.1]]))
    heatmap = render_heatmap(prediction, scale=Scale.percentile)
    np.testing.assert_allclose(heatmap.values, [[25, 75, 75, 25]])


def test_percentiles_of_contributions_rank_by_absolute_value_and_keep_the_sign() -> None:
    prediction = make_prediction(make_grid(all_places(4, 1), 20, 20))
    contributions = np.zeros((1, 4, 2))
    contributions[0, :, 1] = [-0.9, 0.1, 0.5, 0.0]
    prediction = replace(prediction, member_contributions=contributions)
    heatmap = render_heatmap(prediction, Score.contribution, Scale.percentile, "tumour")
    np.testing.assert_allclose(heatmap.values, [[-87.5, 37.5, 62.5, 0]])
    assert heatmap.signed


def test_raw_contributions_sum_to_the_logit_minus_the_bias() -> None:
    prediction = make_prediction(make_grid(all_places(9, 4), 16, 16), members=3)
    for index, name in enumerate(prediction.class_names):
        heatmap = render_heatmap(prediction, Score.contribution, Scale.raw, name)
        expected = prediction.logits[index] - prediction.bias[index]
        assert heatmap.values.sum() == pytest.approx(expected)


def test_the_mean_of_relative_contributions_is_the_logit_minus_the_bias() -> None:
    prediction = make_prediction(make_grid(all_places(9, 4), 16, 16))
    heatmap = render_heatmap(prediction, Score.contribution, class_name="tumour")
    assert heatmap.values.mean() == pytest.approx(prediction.logits[1] - prediction.bias[1])


def test_contributions_are_to_the_predicted_class_by_default() -> None:
    prediction = make_prediction(make_grid(all_places(3, 3), 16, 16))
    assert f"to {prediction.predicted} " in render_heatmap(prediction, Score.contribution).label


def test_one_member_of_an_ensemble_can_be_rendered() -> None:
    prediction = make_prediction(make_grid(all_places(5, 1), 16, 16), members=3)
    heatmap = render_heatmap(prediction, scale=Scale.raw, member=2)
    np.testing.assert_allclose(heatmap.values[0], prediction.member_attention[2])
    with pytest.raises(UsageError, match="members 0 to 2"):
        render_heatmap(prediction, member=3)


def test_an_unknown_class_raises_and_names_the_known_ones() -> None:
    prediction = make_prediction(make_grid(all_places(3, 3), 16, 16), classes=("a", "b", "c"))
    default = render_heatmap(prediction, Score.contribution)
    assert str(prediction.predicted) in default.label
    named = render_heatmap(prediction, Score.contribution, class_name=prediction.predicted)
    assert np.array_equal(default.values, named.values, equal_nan=True)
    with pytest.raises(UsageError, match=r"no class 'd'.* a, b, c"):
        render_heatmap(prediction, Score.contribution, class_name="d")


def test_a_slide_without_tissue_raises_in_one_line() -> None:
    prediction = make_prediction(make_grid(np.zeros((0, 2), np.int64), 16, 16))
    with pytest.raises(UsageError, match=r"^S1: no tissue, so there are no patches to show$"):
        render_heatmap(prediction)
    assert overlay_title(prediction) == "S1: no tissue"


def test_a_score_that_is_not_finite_raises() -> None:
    prediction = make_prediction(make_grid(all_places(2, 1), 16, 16))
    prediction = replace(prediction, member_attention=np.array([[1.0, np.nan]]))
    with pytest.raises(StoredFileError, match="S1: a patch's score is not finite"):
        render_heatmap(prediction)


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
def test_a_grid_of_too_many_cells_raises(wrong: dict[str, object]) -> None:
    grid = replace(make_grid(all_places(2, 1), 16, 16), **wrong)  # type: ignore[arg-type]
    with pytest.raises(StoredFileError, match="cannot be rasterized"):
        rasterize(grid, np.ones(2))
