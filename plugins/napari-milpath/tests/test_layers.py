"""The attention is registered to its patches to a fraction of a pixel, on every level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import lattice, predict
from napari.components import ViewerModel
from napari.layers import Layer
from support.drawing import FACTS, noise, write_levels

from milpath.errors import UsageError
from milpath.figures.heatmap import render_heatmap
from milpath.formats.prediction import Prediction
from milpath.patches.grid import PatchGrid
from milpath.slides.slide import Slide
from napari_milpath.layers import heatmap_layer, require_same_slide, slide_layer
from napari_milpath.pyramid import Pyramid


def random_grid(rng: np.random.Generator) -> PatchGrid:
    """Make some patches of a random lattice, which may overlap."""
    stride = int(rng.integers(3, 700))
    side = int(stride * rng.choice([1, 1, 2, 3, rng.uniform(1, 4)]))
    origin = (int(rng.integers(0, 90_000)), int(rng.integers(0, 90_000)))
    grid = lattice(9, 7, side, stride, origin)
    return grid.select(np.sort(rng.permutation(len(grid))[: rng.integers(1, 60)]))


def test_a_hot_patch_covers_its_own_square_on_200_random_grids() -> None:
    rng = np.random.default_rng(11)
    for _ in range(200):
        grid = random_grid(rng)
        mpp = tuple(rng.uniform(0.1, 2.0, 2))
        hot = int(rng.integers(len(grid)))
        prediction = predict(grid, np.where(np.arange(len(grid)) == hot, 1.0, 1e-9))
        made = Layer.create(
            *heatmap_layer(prediction, render_heatmap(prediction, scale="raw"), "a", mpp)
        )
        rows, cols = np.nonzero(np.nan_to_num(made.data) > 1e-6)
        # the corners of the hot cells, from napari's centres of pixels to micrometres
        low = made.data_to_world((rows.min() - 0.5, cols.min() - 0.5))
        high = made.data_to_world((rows.max() + 0.5, cols.max() + 0.5))
        x, y = grid.coords[hot]
        step = np.array(mpp[::-1])
        assert low / step + 0.5 == pytest.approx((y, x), abs=1e-6)
        whole = -(-grid.patch_size_l0 // grid.stride_l0) * grid.stride_l0
        assert high / step + 0.5 == pytest.approx((y + whole, x + whole), abs=1e-6)


def test_the_layer_reaches_from_the_first_patch_to_the_last() -> None:
    rng = np.random.default_rng(12)
    for _ in range(50):
        grid = random_grid(rng)
        prediction = predict(grid)
        heatmap = render_heatmap(prediction)
        made = Layer.create(*heatmap_layer(prediction, heatmap, "a", (0.25, 0.26)))
        low, high = made.extent.world  # the centres of the first and the last cell
        start = np.array(heatmap.lattice.origin_l0[::-1]) - 0.5
        size = np.array(heatmap.values.shape) * heatmap.lattice.cell_l0
        step = np.array([0.26, 0.25])
        assert low / step == pytest.approx(start + heatmap.lattice.cell_l0[0] / 2, abs=1e-6)
        assert high / step == pytest.approx(start + size - heatmap.lattice.cell_l0[0] / 2, abs=1e-6)


@pytest.mark.parametrize("size", [(2200, 3100), (4099, 2051)])
def test_every_level_covers_the_same_area(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_levels(tmp_path / "s.tif", [noise(*size)], mpp=(0.25, 0.252))
    with Slide(path) as slide:
        made = Layer.create(*slide_layer(Pyramid(slide)))
    assert made.scale == pytest.approx((0.252, 0.25), rel=1e-4)
    for level in made.data:
        down = np.divide(size, level.shape[:2])
        assert np.multiply(level.shape[:2], down) == pytest.approx(size)
    low, high = made.extent.world
    assert low == pytest.approx((0, 0))
    assert high == pytest.approx(made.scale * (np.array(size) - 1))


def test_draws_nothing_where_there_is_no_patch() -> None:
    grid = lattice(4, 3).select(np.array([0, 5, 11]))
    prediction = predict(grid)
    made = Layer.create(*heatmap_layer(prediction, render_heatmap(prediction), "a", (0.5, 0.5)))
    assert np.isnan(made.data).sum() == 9
    assert made.colormap.nan_color[3] == 0


def test_slide_and_attention_are_both_in_micrometres(
    pyramid: Pyramid, predict_slide: Callable[..., Prediction]
) -> None:
    viewer = ViewerModel()
    prediction = predict_slide()
    viewer.add_layer(Layer.create(*slide_layer(pyramid)))
    viewer.add_layer(
        Layer.create(*heatmap_layer(prediction, render_heatmap(prediction), "a", (0.5, 0.5)))
    )
    assert {str(unit) for layer in viewer.layers for unit in layer.units} == {"micrometer"}
    assert viewer.layers[0].multiscale


def test_shows_a_slide_without_a_resolution_in_pixels(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "s.tif", [noise(300, 400)], mpp=None)
    with Slide(path) as slide:
        made = Layer.create(*slide_layer(Pyramid(slide)))
    assert tuple(made.scale) == (1, 1)
    assert {str(unit) for unit in made.units} == {"pixel"}


def test_raises_for_a_prediction_of_a_different_slide(pyramid: Pyramid) -> None:
    with pytest.raises(
        UsageError, match=r"süd-7 was made from a different slide than noise-ü\.tif"
    ):
        require_same_slide(pyramid, predict(lattice(3, 3)))
    right = replace(FACTS, quickhash=pyramid.slide.quickhash)
    require_same_slide(pyramid, replace(predict(lattice(3, 3)), slide=right))
