"""The true child classifies a slide beside the viewer, and leaves nothing when it is cancelled.

TensorFlow works in processes of its own here; this one never loads it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from milpath.slides.annotation import read_annotation
from milpath.synthetic import draw_slide
from napari_milpath.layers import prediction_of
from napari_milpath.panel import Panel

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[3] / "tests"
MAKE = """
import sys
from pathlib import Path
from support.nn_tools import make_bundle, raw_tile
make_bundle(Path(sys.argv[1]), members=2, tile=raw_tile(16))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned nothing, of patches of 16 px at 1 µm."""
    folder = tmp_path_factory.mktemp("models") / "model"
    paths = os.pathsep.join([str(TESTS), str(TESTS / "nn"), str(TESTS.parent / "scripts")])
    words = [sys.executable, "-c", MAKE, str(folder)]
    made = subprocess.run(words, env={**os.environ, "PYTHONPATH": paths}, capture_output=True)
    assert made.returncode == 0, made.stderr.decode()
    return folder


@pytest.fixture
def panel(
    open_panel: Callable[[Path], Panel],
    tmp_path: Path,
    model: Path,
    request: pytest.FixtureRequest,
) -> Panel:
    """A panel with a drawn slide of some side, the model's name, and a folder for its results."""
    path, side = tmp_path / "drawn-ü.tif", getattr(request, "param", 1400)
    draw_slide(path, seed=5, tumour=True, size_px=(side, side), artefacts=False)
    made = open_panel(path)
    made.models.model.setText(str(model))
    made.models.out.setText(str(tmp_path / "results"))
    return made


def test_the_outlined_tissue_is_classified_with_progress_and_its_attention_laid_over_it(
    panel: Panel, tmp_path: Path, qtbot: QtBot
) -> None:
    panel.models.tissue.click()
    qtbot.waitUntil(lambda: panel.models.finder is None, timeout=60_000)
    panel.models.save_outline(tmp_path / "o.geojson")
    panel.models.run.click()
    job = panel.models.job
    assert job is not None
    seen: list[tuple[int, int]] = []
    job.progressed.connect(lambda *both: seen.append(both))
    pid = job.process.processId()
    qtbot.waitUntil(lambda: panel.models.job is None, timeout=120_000)
    found = prediction_of(panel.viewer.layers[-1])
    assert found is not None, panel.models.word.text()
    assert len(found.member_bias) == 2
    assert found.annotation == read_annotation(tmp_path / "o.geojson").fingerprint
    assert [done for done, _ in seen] == list(range(64, len(found.grid) + 1, 64))
    assert {total for _, total in seen} == {len(found.grid)}
    assert panel.models.word.text().startswith(f"{found.predicted} ({found.probs.max():.3f}), ")
    assert panel.inspector.title.text().startswith("drawn-ü: ")
    assert not panel.inspection.forced
    assert {path.name for path in (tmp_path / "results").glob("*.*")} == {
        "drawn-ü.prediction.h5", "drawn-ü.png", "predictions.csv",
    }  # fmt: skip
    assert not lives(pid)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("panel", [2800], indirect=True)  # not over before it is cancelled
def test_cancelled_in_the_middle_it_is_gone_and_has_left_nothing(
    panel: Panel, tmp_path: Path, qtbot: QtBot
) -> None:
    panel.models.run.click()
    job = panel.models.job
    assert job is not None
    with qtbot.waitSignal(job.progressed, timeout=120_000) as first:
        pass
    done, total = first.args
    assert done < total / 4
    pid = job.process.processId()
    panel.models.cancel.click()
    qtbot.waitUntil(lambda: panel.models.job is None, timeout=30_000)
    assert panel.models.word.text() == "cancelled"
    assert panel.models.run.isEnabled()
    assert not lives(pid)
    assert len(panel.viewer.layers) == 1
    left = {path for path in (tmp_path / "results").rglob("*") if path.is_file()}
    assert {path.parent.name for path in left} == {"runlog"}
    assert {path.name for path in tmp_path.iterdir()} == {"drawn-ü.tif", "results"}


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
