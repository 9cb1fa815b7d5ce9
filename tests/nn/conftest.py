"""What the tests of the network share."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before keras is imported, here or by a test

import pytest
from support.nn_tools import TiledCohort

from milpath.cohort.cohort import SlideEntry, read_cohort
from milpath.params import GridParams, TileParams
from milpath.store import publish_csv
from milpath.synthetic import draw_slide
from milpath.tile import tile_slide

TILE = TileParams(grid=GridParams(mpp=2.0, patch_px=32))


@pytest.fixture(scope="session")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> TiledCohort:
    folder = tmp_path_factory.mktemp("tiled")
    rows: list[list[str]] = []
    for number in range(12):
        planted = bool(number % 2)
        path = folder / f"slide-{number:02d}.tif"
        draw_slide(path, seed=number, tumour=planted, size_px=(512, 512), artefacts=False)
        outcome = tile_slide(SlideEntry(path, path.stem), folder / "bags", TILE)
        assert outcome.status == "ok"
        rows.append([path.name, "tumour" if planted else "normal"])
    publish_csv(folder / "tiny.csv", ["slide", "label"], rows)
    return TiledCohort(read_cohort(folder / "tiny.csv"), folder / "bags")
