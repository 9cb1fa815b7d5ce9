"""What several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from milpath.cohort.cohort import SlideEntry
from milpath.formats.layout import bag_path
from milpath.params import GridParams, TileParams
from milpath.synthetic import SyntheticSlide, draw_slide
from milpath.tile import tile_slide


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real slides, when this machine has them: their folder is named by MILPATH_TEST_DATA."""
    folder = os.environ.get("MILPATH_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real slides are not here: set MILPATH_TEST_DATA to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSlide:
    """A drawn slide with a tumour, 1030 x 1500 px at 1 µm: its downsamples are fractional."""
    path = tmp_path_factory.mktemp("slides") / "drawn-ü.tif"
    return draw_slide(path, seed=5, tumour=True, size_px=(1030, 1500), artefacts=False)


@pytest.fixture(scope="session")
def drawn_bag(drawn: SyntheticSlide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bag of `drawn`, patches of 64 px at 2 µm per pixel."""
    out = tmp_path_factory.mktemp("bags")
    params = TileParams(grid=GridParams(mpp=2.0, patch_px=64))
    tile_slide(SlideEntry(drawn.path, "drawn"), out, params)
    return bag_path(out, "drawn")
