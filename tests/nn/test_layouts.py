"""Features in every layout are trained on, classified and drawn on their slide."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from milpath.cli import app
from milpath.formats.prediction import read_prediction
from milpath.synthetic import draw_slide
from tests.support import foreign_h5
from tests.support.foreign_layouts import DRAWINGS
from tests.support.foreign_tensors import draw_features

ASKED = {"encoder": ("--encoder-name", "net"), "patch_px": ("--patch-size", "256")}
ASKED |= {"mpp": ("--mpp", "0.5")}
SLIDES = 9
SIDE = 2048


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 0.25 µm per pixel, on which patches of 256 px of 0.5 µm are 512 px wide."""
    path = tmp_path_factory.mktemp("slides") / "s1.tif"
    draw_slide(path, seed=1, tumour=True, size_px=(SIDE, SIDE), mpp=0.25)
    return path


def milpath(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def write(name: str, folder: Path) -> np.ndarray:
    """Write features of slides; return where the patches of s1 lie."""
    folder.mkdir()
    for number in range(SLIDES):
        drawn = draw_features(count=5 + number, dim=6, seed=number)
        drawn = replace(drawn, coords=drawn.coords % (SIDE - 600))
        DRAWINGS[name].write(folder, f"s{number}", drawn)
        if number == 1:
            coords = drawn.coords
    return coords


def write_cohort(folder: Path) -> Path:
    rows = [f"s{number}.tif,{'ab'[number % 2]}" for number in range(SLIDES)]
    (folder / "cohort.csv").write_text("\n".join(["slide,label", *rows]))
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of such features, trained on files that say nothing of themselves."""
    folder = tmp_path_factory.mktemp("trained")
    write("npz", folder / "features")
    known = [word for words in ASKED.values() for word in words]
    words = ("--features", folder / "features", "--out", folder / "model", "--epochs", 1, *known)
    done = milpath("train", write_cohort(folder), *words)
    assert done.exit_code == 0, done.output
    return folder / "model"


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWINGS)
def test_features_of_every_layout_are_taken_for_training_and_give_predictions_and_a_heatmap(
    name: str, tmp_path: Path, slide: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign_h5, "SLIDE_SIZE", (SIDE, SIDE))
    drawing = DRAWINGS[name]
    for package in drawing.needs:
        pytest.importorskip(package)
    features, out = tmp_path / "features", tmp_path / "out"
    coords = write(name, features)
    known = [word for fact, words in ASKED.items() if fact not in drawing.stated for word in words]
    given = ("--features", features, *known)
    cohort = write_cohort(tmp_path)
    more = ("--out", tmp_path / "new", "--dry-run")
    missing = milpath("train", cohort, "--features", features, *more)
    for option in known[::2]:
        assert option in str(missing.exception)
    planned = milpath("train", cohort, *given, *more)
    assert planned.exit_code == 0, planned.output
    facts = json.loads(milpath("info", *given[1:], "--json").stdout)
    assert facts["slides"] == SLIDES
    done = milpath("classify", *given, "--model", model, "--out", out, "--slides", slide)
    table = (out / "predictions.csv").read_text().splitlines()
    assert len(table) == SLIDES + 1
    if name == "milpath":  # its files know that they are of another slide
        assert done.exit_code == 3
        assert "s1,,,,,,,,,failed," in table[2]
        return
    assert done.exit_code == 0, done.output
    found = read_prediction(out / "s1.prediction.h5")
    assert np.abs(found.grid.coords - coords).max() <= 1
    assert found.slide.identified
    assert (out / "s1.png").stat().st_size > 10_000
    assert [path.name for path in out.glob("*.png")] == ["s1.png"]
    others = [read_prediction(out / f"s{number}.prediction.h5") for number in (0, 2)]
    assert not any(other.slide.identified for other in others)
