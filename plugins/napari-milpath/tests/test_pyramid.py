"""A slide is read only where it is displayed, once, in bounded memory, at exact positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.drawing import damage_tile, noise, write_levels

from milpath.slides.levels import is_trusted
from milpath.slides.slide import Slide
from napari_milpath.pyramid import TILE_PX, Level, Pyramid, TileCache


def test_level_0_is_the_slide_pixel_for_pixel(pyramid: Pyramid) -> None:
    expected = noise(1100, 1500)
    level = pyramid.levels[0]
    assert level.shape == expected.shape
    np.testing.assert_array_equal(np.asarray(level), expected)


@pytest.mark.parametrize(
    "key",
    [
        np.s_[:],
        np.s_[500:530],
        np.s_[-30:, 3:700, 1],
        np.s_[7],
        np.s_[7, -1],
        np.s_[7, 8, 2],
        np.s_[900:100:-7, ::50],
        np.s_[5:5, :],
        np.s_[:, 2000:],
        np.s_[10:20, 30:40, ...],
        np.s_[..., 0],
        np.s_[3, ..., 1],
        np.s_[...],
        np.s_[0:3, 1000:1100, ::-1],
    ],
)
def test_a_level_is_indexed_like_an_array(pyramid: Pyramid, key: object) -> None:
    np.testing.assert_array_equal(pyramid.levels[0][key], noise(1100, 1500)[key])  # type: ignore[index]


@pytest.mark.parametrize("key", [1100, (0, 1500), -1101])
def test_raises_for_an_index_beyond_the_edge(pyramid: Pyramid, key: object) -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        pyramid.levels[0][key]


def test_adds_levels_until_one_is_small(pyramid: Pyramid) -> None:
    assert pyramid.sizes == ((1500, 1100), (750, 550))
    assert pyramid.levels[1][:, :].shape == (550, 750, 3)


@pytest.mark.parametrize("size", [(1101, 1503), (4097, 1030), (2047, 3001)])
def test_a_mark_keeps_its_position_on_every_level(tmp_path: Path, size: tuple[int, int]) -> None:
    rows, cols = size
    rgb = np.full((rows, cols, 3), 255, np.uint8)
    top, left, side = rows - 190, cols - 150, 96
    rgb[top : top + side, left : left + side] = 0
    third = np.asarray(Image.fromarray(rgb).resize((cols // 3, rows // 3)))
    with Slide(write_levels(tmp_path / "m.tif", [rgb, third])) as slide:
        pyramid = Pyramid(slide)
        for level in pyramid.levels:
            dark = 1 - level[:, :, 0] / 255.0
            scale = np.divide(size, dark.shape)
            for axis, start in ((0, top), (1, left)):
                profile = dark.sum(axis=1 - axis)
                centre = (profile * (np.arange(len(profile)) + 0.5)).sum() / profile.sum()
                assert centre * scale[axis] == pytest.approx(start + side / 2, abs=0.25)


def test_shows_no_level_that_tiling_rejects(tmp_path: Path) -> None:
    rgb = np.asarray(Image.fromarray(noise(20, 30) // 4).resize((3000, 2000), 0))
    blank = np.full((500, 750, 3), 255, np.uint8)
    small = np.ascontiguousarray(rgb[::8, ::8])
    path = write_levels(tmp_path / "s.tif", [rgb, blank, small])
    with Slide(path) as slide:
        assert not is_trusted(slide, 1)
        pyramid = Pyramid(slide)
        assert pyramid.sizes == ((3000, 2000), (1500, 1000), (750, 500), (375, 250))
        for level in pyramid.levels:
            assert level[:, :].max() < 90
        assert pyramid.reads[2] == 1
        half = np.asarray(Image.fromarray(rgb).resize((750, 500), Image.Resampling.BOX))
        assert np.abs(pyramid.levels[2][:, :].astype(int) - half).mean() < 2
    path = write_levels(tmp_path / "t.tif", [rgb, blank, np.full((400, 600, 3), 255, np.uint8)])
    with Slide(path) as slide:
        sizes = Pyramid(slide).sizes
    assert sizes == ((3000, 2000), (1500, 1000), (750, 500))


def test_a_computed_level_has_no_seams_and_no_shift(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 1801)[None, :, None] * np.ones((1201, 1, 3))
    path = write_levels(tmp_path / "ramp.tif", [np.rint(ramp).astype(np.uint8)])
    with Slide(path) as slide:
        made = Pyramid(slide).levels[1][:, :, 0].astype(float)
    middle = (np.arange(made.shape[1]) + 0.5) * 1801 / made.shape[1] - 0.5
    assert np.abs(made - middle / 1800 * 255)[:, 2:-2].max() <= 1.01


def test_a_tile_is_read_once(pyramid: Pyramid) -> None:
    for _ in range(3):
        pyramid.levels[0][:TILE_PX, :TILE_PX]
        pyramid.levels[0][10:20, 30:40]
    assert pyramid.reads == [1, 0]


def test_drops_the_least_recently_used_tile() -> None:
    cache = TileCache(max_bytes=3000)
    tiles = {key: np.full((10, 100), key, np.uint8) for key in range(5)}
    reads: list[int] = []

    def get(key: int) -> None:
        def read() -> np.ndarray:
            reads.append(key)
            return tiles[key]

        assert cache.get((0, 0, key), read)[0, 0] == key

    for key in (0, 1, 2, 0, 3, 0, 1):
        get(key)
    assert reads == [0, 1, 2, 3, 1]
    assert cache.held_bytes == 3000


def test_keeps_the_cache_within_its_limit(slide_file: Path) -> None:
    with Slide(slide_file) as slide:
        pyramid = Pyramid(slide, cache_bytes=4 << 20)
        pyramid.levels[0][:, :]
        pyramid.levels[1][:, :]
        assert pyramid.cache.held_bytes <= 4 << 20


def test_hatches_a_damaged_tile_and_keeps_the_rest(slide_file: Path) -> None:
    damage_tile(slide_file, 8)  # of 6 x 5 tiles of 256 px: row 1, column 2
    with Slide(slide_file) as slide:
        pyramid = Pyramid(slide)
        got = pyramid.levels[0][:, :]
        expected = noise(1100, 1500)
        hatched = (got == (255, 0, 255)).all(axis=-1) | (got == (96, 0, 96)).all(axis=-1)
        assert hatched[256:512, 512:768].all()
        whole = np.ones_like(hatched)
        whole[256 - 34 : 512 + 34, 512 - 34 : 768 + 34] = False
        np.testing.assert_array_equal(got[whole], expected[whole])
        assert pyramid.damaged == 1  # at full size no filter reads across tiles
        assert (pyramid.levels[1][150:230, 270:370, 1] < 40).all()


# -- a file that is gone, damaged, and back --------------------------------------------------------


def lose_file(slide: Slide) -> Path:
    """Take the slide's file away, as with an unmounted share; return where it is."""
    away = slide.path.with_suffix(".away")
    slide.path.rename(away)
    slide._handle.reader.close()  # an open file could still be read
    return away


def is_hatched(rgb: np.ndarray) -> np.ndarray:
    return (rgb == (255, 0, 255)).all(axis=-1) | (rgb == (96, 0, 96)).all(axis=-1)


def test_hatches_all_of_a_file_that_is_gone_and_shows_it_again_when_it_is_back(
    slide_file: Path,
) -> None:
    expected = noise(1100, 1500)
    with Slide(slide_file, sleep=lambda _: None) as slide:
        pyramid = Pyramid(slide)
        np.testing.assert_array_equal(
            pyramid.levels[0][:TILE_PX, :TILE_PX], expected[:TILE_PX, :TILE_PX]
        )
        assert (pyramid.describe_damage(), pyramid.retry()) == ("", False)
        away = lose_file(slide)
        for _ in range(2):
            shown = pyramid.levels[0][:, :]
            np.testing.assert_array_equal(
                shown[:TILE_PX, :TILE_PX], expected[:TILE_PX, :TILE_PX]
            )  # in memory
            assert is_hatched(shown[TILE_PX:]).all()
            assert is_hatched(shown[:, TILE_PX:]).all()
            assert not pyramid.retry()
        assert (pyramid.levels[1][:, 400:, 1] < 40).all()
        assert pyramid.describe_damage() == (
            "noise-ü.tif: the file is gone; the missing parts are hatched until it is back"
        )
        away.rename(slide_file)
        assert pyramid.retry()
        assert not pyramid.retry()
        assert pyramid.describe_damage() == ""
        np.testing.assert_array_equal(pyramid.levels[0][:, :], expected)
        assert abs(pyramid.levels[1][:, :].mean() - expected.mean()) < 1


def test_shows_a_damaged_file_again_once_it_is_replaced(slide_file: Path) -> None:
    data = slide_file.read_bytes()
    damage_tile(slide_file, 8)
    with Slide(slide_file, sleep=lambda _: None) as slide:
        pyramid = Pyramid(slide)
        assert is_hatched(pyramid.levels[0][:, :]).any()
        assert pyramid.describe_damage().startswith("noise-ü.tif: the file is damaged; ")
        assert not pyramid.retry()
        copy = slide_file.with_suffix(".copy")
        copy.write_bytes(data)
        copy.replace(slide_file)
        assert pyramid.retry()
        np.testing.assert_array_equal(pyramid.levels[0][:, :], noise(1100, 1500))
        assert pyramid.describe_damage() == ""


def test_a_file_that_is_gone_is_looked_for_a_few_times_per_tile(
    slide_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Slide(slide_file, sleep=lambda _: None) as slide:
        pyramid = Pyramid(slide)
        lose_file(slide)
        tries: list[int] = []
        read = Slide.read_region

        def count(self: Slide, *given: object) -> object:
            tries.append(1)
            return read(self, *given)  # type: ignore[arg-type]

        monkeypatch.setattr(Slide, "read_region", count)
        pyramid.levels[0][:, :]
        assert len(tries) == 4  # once for each of 2 x 2 tiles


def test_a_level_has_its_size_without_reading(pyramid: Pyramid) -> None:
    level = pyramid.levels[0]
    assert isinstance(level, Level)
    assert (len(level), level.size, level.nbytes) == (1100, 4950000, 4950000)
    assert pyramid.reads == [0, 0]
