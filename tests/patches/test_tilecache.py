"""Windows are assembled from tiles as OpenSlide does it, each tile decoded about once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.drawing import Pixels, lose_tile, noise, write_levels

from milpath.patches import tilecache
from milpath.patches.tiff import TiffLevel, open_tiff_level
from milpath.patches.tilecache import TileCache
from milpath.slides.resample import Windows, frame_windows
from milpath.slides.slide import Slide

FULL = noise(1100, 1300)
PAD = 1200
CANVAS = np.empty((1100 + 2 * PAD, 1300 + 2 * PAD, 3), np.uint8)
CANVAS[:] = BACKGROUND = (9, 8, 7)
CANVAS[PAD : PAD + 1100, PAD : PAD + 1300] = FULL


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_levels(tmp_path_factory.mktemp("cache") / "n.tif", [FULL])


def windows_at(places: NDArray[np.int64], side: int) -> Windows:
    return frame_windows(places, (side, side), (side, side), 1.0)


@contextmanager
def open_cache(path: Path, windows: Windows) -> Iterator[tuple[TileCache, TiffLevel]]:
    with Slide(path) as slide:
        level = open_tiff_level(slide, 0)
        assert level is not None
        with level:
            yield TileCache(level, windows, BACKGROUND), level


def expected(windows: Windows, window: int) -> Pixels:
    (x, y), (width, height) = windows.first[window] + PAD, windows.extent[window]
    return CANVAS[y : y + height, x : x + width]


def unaligned(side: int = 187) -> Windows:
    """A grid aligned with no tile, its windows overlapping by the width of the filter."""
    places = np.stack(np.meshgrid(np.arange(5, 1100, side), np.arange(3, 900, side)), axis=-1)
    return windows_at(places.reshape(-1, 2), side)


# -- laws ------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    places=st.lists(
        st.tuples(st.integers(-900, 1500), st.integers(-900, 1300)), min_size=1, max_size=6
    ),
    side=st.sampled_from([16, 100, 256, 487, 700]),
)
def test_a_window_shows_the_picture_and_the_background_outside_it(
    path: Path, places: list[tuple[int, int]], side: int
) -> None:
    windows = windows_at(np.array(places), side)
    with open_cache(path, windows) as (cache, _):
        for window in range(len(places)):
            found = cache.read(window)
            assert found is not None
            assert np.array_equal(found, expected(windows, window))


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("side", [64, 187, 256, 300])
def test_every_tile_is_decoded_once_for_any_grid(
    path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, side: int
) -> None:
    decoded: Counter[tuple[int, int]] = Counter()
    read_tile = TiffLevel.read_tile

    def counted(level: TiffLevel, row: int, col: int) -> Pixels | None:
        decoded[row, col] += 1
        return read_tile(level, row, col)

    windows = unaligned(side)
    with open_cache(path, windows) as (cache, _), ThreadPoolExecutor(threads) as pool:
        monkeypatch.setattr(TiffLevel, "read_tile", counted)

        def read(window: int) -> bool:
            found = cache.read(window)
            cache.release([window])
            return np.array_equal(found, expected(windows, window))  # type: ignore[arg-type]

        assert all(pool.map(read, range(len(windows.first))))
    assert len(decoded) >= 20
    assert set(decoded.values()) == {1}


def test_no_tile_is_kept_after_the_last_window(path: Path) -> None:
    windows = unaligned()
    with open_cache(path, windows) as (cache, _):
        for window in range(len(windows.first)):
            cache.read(window)
            cache.release([window])
        assert cache._kept_bytes() == 0


@pytest.mark.parametrize("tiles", [0, 2, 5])
def test_the_cache_keeps_its_limit_and_decodes_tiles_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, tiles: int
) -> None:
    monkeypatch.setattr(tilecache, "MAX_KEPT_BYTES", tiles * 256 * 256 * 3)
    windows = unaligned(300)
    with open_cache(path, windows) as (made, _):
        for window in range(len(windows.first)):
            found = made.read(window)
            made.release([window])
            assert np.array_equal(found, expected(windows, window))  # type: ignore[arg-type]
            assert made._kept_bytes() <= tiles * 256 * 256 * 3


# -- faults ----------------------------------------------------------------------------------------


def test_only_windows_that_touch_a_lost_tile_are_not_available(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "n.tif", [FULL])
    lose_tile(path, 7)  # of 5 x 6: x 256 to 511, y 256 to 511
    windows = unaligned()
    with open_cache(path, windows) as (cache, _):
        for window in range(len(windows.first)):
            low, high = windows.first[window], windows.first[window] + windows.extent[window]
            touched = bool(((low < 512) & (high > 256)).all())
            assert (cache.read(window) is None) is touched
            cache.release([window])


def test_a_decoding_error_reaches_every_waiting_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Pixels:
        raise MemoryError

    windows = windows_at(np.array([[0, 0]] * 8), 64)
    with open_cache(path, windows) as (cache, _), ThreadPoolExecutor(4) as pool:
        monkeypatch.setattr(TiffLevel, "read_tile", fail)
        for done in [pool.submit(cache.read, window) for window in range(8)]:
            with pytest.raises(MemoryError):
                done.result()
