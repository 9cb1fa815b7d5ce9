"""Patches have scores of blur, folds and pen, and limits leave out those above them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from support.drawing import Pixels, noise, write_levels

from milpath.cohort.cohort import SlideEntry
from milpath.formats.bag import Bag
from milpath.params import ArtefactParams, GridParams, TileParams
from milpath.patches.artefacts import ArtefactFilter, Artefacts, find_clean, measure_blur
from milpath.slides.slide import Slide
from milpath.synthetic import SyntheticSlide
from milpath.tile import plan_slide, tile_slide


def blurred(pixels: Pixels, sigma: float) -> Pixels:
    smooth = ndimage.gaussian_filter(pixels.astype(float), (sigma, sigma, 0))
    return np.round(smooth).astype(np.uint8)


def twin_blur(pixels: Pixels) -> float:
    """Crete et al. 2007, equations 1 to 6, of every second line of the green channel."""
    found = []
    for lines in (pixels[:, ::2, 1].astype(float), pixels[::2, :, 1].T.astype(float)):
        means = np.stack([np.convolve(line, np.ones(9) / 9, "valid") for line in lines.T], axis=1)
        sharp, soft = np.abs(np.diff(lines, axis=0))[4:-4], np.abs(np.diff(means, axis=0))
        found.append(1 - np.maximum(0, sharp - soft).sum() / sharp.sum())
    return float(max(found))


# -- blur ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0, 1, 4])
@pytest.mark.parametrize("side", [16, 65, 256])
def test_blur_is_that_of_an_independent_twin(side: int, sigma: float) -> None:
    pixels = blurred(noise(side, side, seed=side), sigma)
    assert measure_blur(pixels) == pytest.approx(twin_blur(pixels), rel=1e-9)


def test_blur_grows_with_the_blur_and_stays_within_0_and_1() -> None:
    found = [measure_blur(blurred(noise(128, 128), sigma)) for sigma in (0, 0.5, 1, 2, 4)]
    assert found == sorted(set(found))
    assert 0 <= found[0] < 0.2
    assert 0.6 < found[-1] <= 1


def test_blur_is_the_same_for_a_turned_a_brighter_and_a_mirrored_patch() -> None:
    pixels = blurred(noise(64, 64) // 2, 1)
    for other in (np.rot90(pixels, 2)[1:, 1:], pixels + 100):
        assert measure_blur(other) == pytest.approx(measure_blur(pixels), abs=0.02)
    assert measure_blur(pixels.swapaxes(0, 1)) == measure_blur(pixels)


def test_a_patch_of_one_colour_is_as_blurred_as_can_be() -> None:
    assert measure_blur(np.full((32, 32, 3), 200, np.uint8)) == 1


# -- limits ----------------------------------------------------------------------------------------


def scores(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_a_filter_keeps_what_is_within_the_limit_with_its_scores() -> None:
    kept = ArtefactFilter(ArtefactParams(max_blur=0.5), scores(0, 0.1, 0.2), scores(0, 0, 1))
    found = list(kept.keep([(0, ("a", 0.4)), (1, ("b", 0.6)), (2, ("c", 0.5))]))
    assert found == [(0, "a"), (2, "c")]
    assert (kept.left_out, kept.rows.tolist()) == (1, [0, 2])
    assert [each.tolist() for each in vars(kept.scores).values()] == [
        scores(0.4, 0.5).tolist(),
        scores(0, 0.2).tolist(),
        [0, 1],
    ]


@pytest.mark.parametrize(
    ("limits", "rows"),
    [
        ({}, [0, 1, 2]),
        ({"max_fold": 0.1}, [0, 1]),
        ({"max_pen": 0}, [0, 2]),
        ({"max_fold": 0}, [0]),
    ],
)
def test_limits_of_folds_and_pen_rule_out_rows(limits: dict[str, float], rows: list[int]) -> None:
    found = find_clean(scores(0, 0.1, 1), scores(0, 1, 0), ArtefactParams(**limits))
    assert found.tolist() == rows


# -- slides ----------------------------------------------------------------------------------------


def tile_drawn(path: Path, out: Path, **limits: float) -> tuple[Bag, str]:
    params = TileParams(grid=GridParams(mpp=2.0, patch_px=64), artefacts=ArtefactParams(**limits))
    message = tile_slide(SlideEntry(path, "s"), out, params).message
    return Bag(out / "s.h5"), message


def test_a_bag_keeps_a_score_of_each_patch_and_a_limit_leaves_out_those_above(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    every, _ = tile_drawn(drawn.path, tmp_path / "all")
    with every:
        found = every.read_artefacts()
        assert isinstance(found, Artefacts)
        assert len(found) == len(every) > 20
        assert np.ptp(found.blur) > 0
        limit = float(np.median(found.blur))
        sharp = every.grid.coords[found.blur <= limit]
    some, message = tile_drawn(drawn.path, tmp_path / "some", max_blur=limit)
    with some:
        assert np.array_equal(some.grid.coords, sharp)
        assert (some.header.unreadable, some.header.left_out) == (0, len(found) - len(sharp))
    assert f"{len(found) - len(sharp)} patches left out as artefacts" in message


def test_a_bag_without_a_patch_within_the_limits_says_so(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    none, message = tile_drawn(drawn.path, tmp_path, max_blur=0)
    with none:
        assert len(none) == 0
    assert message.startswith("no patch within the limits of artefacts: a bag of 0 patches")


def test_a_fold_is_twice_as_dense_as_the_tissue_and_its_patches_can_be_left_out(
    tmp_path: Path,
) -> None:
    transmitted = np.ones((1200, 1200, 3))
    layer = np.array([0.75, 0.5, 0.72])
    transmitted[200:1000, 200:1000] = layer
    transmitted[200:1000, 560:640] = layer**2.4
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 3, transmitted.shape)
    picture = (transmitted * 240 + grain).clip(0, 255).astype(np.uint8)
    path = write_levels(tmp_path / "f.tif", [picture], (2.0, 2.0))
    grid = GridParams(mpp=2.0, patch_px=64)
    with Slide(path) as slide:
        plan = plan_slide(slide, TileParams(grid=grid))
        clean = plan_slide(slide, TileParams(grid=grid, artefacts=ArtefactParams(max_fold=0.1)))
    x = plan.grid.coords[:, 0]
    over = np.clip(np.minimum(x + 64, 640) - np.maximum(x, 560), 0, 64) / 64
    inside = (plan.grid.coords[:, 1] > 230) & (plan.grid.coords[:, 1] < 900)
    assert np.abs(plan.fold - over)[inside].max() < 0.15
    assert 0 < clean.left_out == (plan.fold > 0.1).sum()
    assert clean.fold.max() <= 0.1
