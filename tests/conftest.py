"""What several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from milpath.synthetic import DrawnSlide, draw_slide


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real slides, when this machine has them: their folder is named by MILPATH_TEST_DATA."""
    folder = os.environ.get("MILPATH_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real slides are not here: set MILPATH_TEST_DATA to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DrawnSlide:
    """A drawn slide with a tumour, 1030 x 1500 px at 1 µm: its downsamples are fractional."""
    path = tmp_path_factory.mktemp("slides") / "drawn-ü.tif"
    return draw_slide(path, seed=5, tumour=True, size_px=(1030, 1500), artefacts=False)
