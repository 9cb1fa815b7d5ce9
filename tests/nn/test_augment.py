"""Augmentation changes what labs change, reproducibly, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import hed2rgb, rgb2hed
from support.nn_tools import Pixels, random_patches

from milpath.nn.augment import augment_tissue, jitter_stain, turn_patches
from milpath.nn.mnist import warp_pictures


def eight_ways(patch: Pixels) -> list[bytes]:
    turned = [np.rot90(patch, quarter) for quarter in range(4)]
    return [each.tobytes() for one in turned for each in (one, one[:, ::-1])]


def stained(seed: int = 0) -> Pixels:
    """Patches of the colours of haematoxylin and eosin, (4, 16, 16, 3)."""
    rng = np.random.default_rng(seed)
    density = rng.uniform(0.02, 0.15, (4, 16, 16, 3)) * [1, 1, 0]
    return (hed2rgb(density) * 255).round().astype(np.uint8)


# -- laws ----------------------------------------------------------------------------------------


def test_every_patch_becomes_one_of_its_own_eight_turns() -> None:
    patches = random_patches(50)
    turned = turn_patches(patches, np.random.default_rng(0))
    for before, after in zip(patches, turned, strict=True):
        assert after.tobytes() in eight_ways(before)


def test_all_eight_turns_occur_equally_often() -> None:
    patch = random_patches(1)
    turned = turn_patches(np.repeat(patch, 1600, axis=0), np.random.default_rng(0))
    ways = eight_ways(patch[0])
    assert len(set(ways)) == 8
    counts = np.bincount([ways.index(each.tobytes()) for each in turned], minlength=8)
    assert counts.min() > 150
    assert counts.max() < 250


def test_a_jitter_of_strength_zero_changes_nothing() -> None:
    values = np.arange(256, dtype=np.uint8)
    patches = np.stack(np.meshgrid(values, values[::15], values[::15]), axis=-1)[..., None, :]
    jittered = jitter_stain(patches, 0.0, np.random.default_rng(0))
    assert np.abs(jittered.astype(int) - patches).max() <= 1


def test_all_patches_of_a_bag_are_stained_alike() -> None:
    patch = stained()[:1]
    jittered = jitter_stain(np.repeat(patch, 5, axis=0), 0.5, np.random.default_rng(0))
    assert (jittered == jittered[:1]).all()
    assert (jittered[0] != patch[0]).any()


@pytest.mark.parametrize("seed", range(5))
def test_the_stains_are_scaled_and_shifted_in_optical_density(seed: int) -> None:
    patches = stained(seed)
    before = rgb2hed(patches)
    after = rgb2hed(jitter_stain(patches, 0.2, np.random.default_rng(seed)))
    for stain in (0, 1):
        factor, shift = np.polyfit(before[..., stain].ravel(), after[..., stain].ravel(), 1)
        # rgb2hed counts densities in units of ln(1e6), our shift is in ln itself
        assert 0.78 < factor < 1.22
        assert abs(shift) * np.log(1e6) < 0.04
        rest = after[..., stain] - factor * before[..., stain] - shift
        assert np.abs(rest).max() < 0.01


@pytest.mark.parametrize("seed", range(20))
def test_a_white_background_stays_nearly_white(seed: int) -> None:
    white = np.full((2, 8, 8, 3), 255, np.uint8)
    assert jitter_stain(white, 0.2, np.random.default_rng(seed)).min() >= 240


@pytest.mark.parametrize("seed", range(20))
def test_the_background_of_a_slide_stays_background(seed: int) -> None:
    glass = np.random.default_rng(seed).normal(242, 2, (2, 8, 8, 3)).round().astype(np.uint8)
    jittered = jitter_stain(glass, 0.2, np.random.default_rng(seed)).astype(int)
    assert np.abs(jittered - glass).max() <= 16


def test_the_same_generator_gives_the_same_patches() -> None:
    patches = stained()
    for augment in (turn_patches, lambda p, rng: jitter_stain(p, 0.3, rng)):
        one, same, other = (augment(patches, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert (one == same).all()
        assert (one != other).any()


def test_augmentation_keeps_its_input() -> None:
    patches = stained()
    kept = patches.copy()
    turn_patches(patches, np.random.default_rng(0))
    jitter_stain(patches, 0.3, np.random.default_rng(0))
    assert (patches == kept).all()


def test_the_strongest_jitter_gives_pixels_in_range() -> None:
    black_and_white = np.stack([np.zeros((8, 8, 3)), np.full((8, 8, 3), 255)]).astype(np.uint8)
    for seed in range(20):
        jittered = jitter_stain(black_and_white, 1.0, np.random.default_rng(seed))
        assert jittered.dtype == np.uint8
        assert jittered.shape == black_and_white.shape


def test_an_empty_bag_stays_empty() -> None:
    empty = np.zeros((0, 8, 8, 3), np.uint8)
    rng = np.random.default_rng(0)
    assert turn_patches(empty, rng).shape == jitter_stain(empty, 0.2, rng).shape == empty.shape


# -- warping -------------------------------------------------------------------------------------


def blob(row: float = 13.5, col: float = 13.5, count: int = 1) -> Pixels:
    """A bright spot on black, (count, 28, 28, 1)."""
    rows, cols = np.indices((28, 28))
    spot = 255 * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / 18)
    return np.repeat(spot.round().astype(np.uint8)[None, ..., None], count, axis=0)


def middle_of(picture: Pixels) -> tuple[float, float]:
    weight = picture[..., 0].astype(float)
    rows, cols = np.indices(weight.shape)
    return float((rows * weight).sum() / weight.sum()), float((cols * weight).sum() / weight.sum())


def test_a_warp_of_strength_zero_changes_nothing() -> None:
    pictures = random_patches(5, 28)[..., :1]
    warped = warp_pictures(pictures, np.random.default_rng(0), 0.0)
    assert np.abs(warped.astype(int) - pictures).max() <= 1


def test_warping_moves_each_picture_differently_and_not_far() -> None:
    warped = warp_pictures(blob(count=200), np.random.default_rng(0))
    places = np.array([middle_of(picture) for picture in warped])
    assert len({picture.tobytes() for picture in warped}) == 200
    assert np.abs(places.mean(axis=0) - 13.5).max() < 0.4  # no drift
    assert places.std(axis=0).min() > 0.8
    assert np.abs(places - 13.5).max() < 8


def test_warping_fills_with_black_and_keeps_its_input() -> None:
    white = np.full((50, 28, 28, 1), 255, np.uint8)
    warped = warp_pictures(white, np.random.default_rng(0))
    assert (white == 255).all()
    assert warped.dtype == np.uint8
    assert (warped == 0).any()
    assert (warped[:, 10:18, 10:18] == 255).all()


def test_the_same_generator_gives_the_same_warp() -> None:
    one, same, other = (
        warp_pictures(blob(count=3), np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert (one == same).all()
    assert (one != other).any()
    empty = np.zeros((0, 28, 28, 1), np.uint8)
    assert warp_pictures(empty, np.random.default_rng(0)).shape == empty.shape


def test_tissue_is_turned_and_then_stained() -> None:
    patches = stained()
    rng, twin = np.random.default_rng(3), np.random.default_rng(3)
    expected = jitter_stain(turn_patches(patches, twin), 0.2, twin)
    assert (augment_tissue(patches, rng, 0.2) == expected).all()
    only_turned = augment_tissue(patches, np.random.default_rng(3), 0.0)
    assert (only_turned == turn_patches(patches, np.random.default_rng(3))).all()
