"""A heatmap of features alone is drawn on the slide of its name and size, and says so."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.drawing import noise, write_levels
from support.predicting import make_prediction

from milpath.cli import app
from milpath.errors import UsageError
from milpath.formats.prediction import Prediction, write_prediction
from milpath.patches.grid import PatchGrid, free_grid, unplaced_grid
from milpath.slides.facts import SlideFacts, unknown_slide

GRID = free_grid(np.array([[0, 0], [100, 50], [101, 57], [580, 390]]), 64, 64, 0.5)
"""The last patch reaches over the edge of the slide, as those of other tools may."""


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_levels(tmp_path / "a.tif", [noise(448, 640)])


def store(folder: Path, slide: SlideFacts, grid: PatchGrid = GRID) -> Path:
    prediction: Prediction = replace(make_prediction(grid), slide=slide)
    path = folder / "a.prediction.h5"
    write_prediction(path, prediction)
    return path


def run(*words: object) -> None:
    app([str(word) for word in words], standalone_mode=False)


@pytest.mark.parametrize("size", [(640, 448), None])
def test_the_slide_of_the_same_name_and_size_is_drawn_and_said_to_be_unchecked(
    tmp_path: Path,
    slide: Path,
    size: tuple[int, int] | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stored = store(tmp_path, unknown_slide("a", size, 0.5))
    run("heatmap", stored, "--slide", slide, "--out", tmp_path / "h.png")
    said = capsys.readouterr().err
    assert said == "a: the slide was not checked: the files of its features do not identify it\n"
    with Image.open(tmp_path / "h.png") as picture:
        assert picture.width > 100


def test_a_slide_of_another_resolution_than_the_features_say_is_named(
    tmp_path: Path, slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = store(tmp_path, unknown_slide("a", None, 0.25))
    run("heatmap", stored, "--slide", slide, "--out", tmp_path / "h.png")
    assert "it has 0.5 µm per pixel, but they say 0.25" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("record", "grid", "text"),
    [
        (unknown_slide("b", (640, 448), 0.5), GRID, "their names differ"),
        (unknown_slide("a", (641, 448), 0.5), GRID, "641 x 448 px and 640 x 448 px"),
        (
            unknown_slide("a", None, 0.5),
            free_grid(np.array([[0, 0], [640, 10]]), 64, 64, 0.5),
            "patch 1 at (640, 10) lies outside its 640 x 448 px",
        ),
        (unknown_slide("a", None, 0.5), unplaced_grid(4, 64, 0.5), "hold no coordinates"),
    ],
)
def test_another_slide_is_refused_with_the_fact(
    tmp_path: Path,
    slide: Path,
    record: SlideFacts,
    grid: PatchGrid,
    text: str,
) -> None:
    stored = store(tmp_path, record, grid)
    with pytest.raises(UsageError, match=re.escape(text)):
        run("heatmap", stored, "--slide", slide, "--out", tmp_path / "h.png")
    assert not (tmp_path / "h.png").exists()


def test_the_export_for_qupath_takes_the_bounds_from_the_slide_and_says_it_is_unchecked(
    tmp_path: Path, slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = store(tmp_path, unknown_slide("a", None, 0.5))
    out = tmp_path / "p.geojson"
    run("export", stored, "--to", "geojson", "--out", out, "--slide", slide)
    assert "the slide was not checked" in capsys.readouterr().err
    assert out.exists()


def test_info_says_where_patches_lie_and_what_tells_the_slide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("info", store(tmp_path, unknown_slide("a", None, 0.5)))
    said = capsys.readouterr().out
    assert "anywhere" in said
    assert "it was not opened" in said
    assert "1 x 1" not in said
