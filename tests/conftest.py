"""Fixtures of several test modules."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from milpath.cohort.cohort import SlideEntry
from milpath.formats.layout import bag_path
from milpath.params import GridParams, TileParams
from milpath.synthetic import SyntheticSlide, draw_slide
from milpath.tile import tile_slide

settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that parallel processes finish at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real slides that MILPATH_TEST_DATA names; skip the test without it."""
    folder = os.environ.get("MILPATH_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real slides; set MILPATH_TEST_DATA to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSlide:
    """Draw a slide with a tumour, 1030 x 1500 px at 1 µm; its downsamples are fractional."""
    path = tmp_path_factory.mktemp("slides") / "drawn-ü.tif"
    return draw_slide(path, seed=5, tumour=True, size_px=(1030, 1500), artefacts=False)


@pytest.fixture(scope="session")
def drawn_bag(drawn: SyntheticSlide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tile `drawn` into patches of 64 px at 2 µm per pixel, and return the bag's path."""
    out = tmp_path_factory.mktemp("bags")
    params = TileParams(grid=GridParams(mpp=2.0, patch_px=64))
    tile_slide(SlideEntry(drawn.path, "drawn"), out, params)
    return bag_path(out, "drawn")
