"""The real child process classifies a slide, and leaves nothing when it is cancelled.

TensorFlow runs in child processes here; this process never imports it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from milpath.formats.prediction import read_prediction
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
    """An untrained model for patches of 16 px at 1 µm per pixel."""
    folder = tmp_path_factory.mktemp("models") / "model"
    paths = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-c", MAKE, str(folder)]
    made = subprocess.run(command, env=environment, capture_output=True)
    assert made.returncode == 0, made.stderr.decode()
    return folder


@pytest.fixture
def panel(
    open_panel: Callable[[Path], Panel],
    tmp_path: Path,
    model: Path,
    request: pytest.FixtureRequest,
) -> Panel:
    """A panel with a synthetic slide, the model, and a folder for the results."""
    path, side = tmp_path / "synthetic-ü.tif", getattr(request, "param", 1400)
    draw_slide(path, seed=5, tumour=True, size_px=(side, side), artefacts=False)
    made = open_panel(path)
    made.classify_tab.model.setText(str(model))
    made.classify_tab.out.setText(str(tmp_path / "results"))
    return made


def test_classifies_the_annotated_tissue_with_progress_and_adds_its_attention(
    panel: Panel, tmp_path: Path, qtbot: QtBot
) -> None:
    panel.classify_tab.tissue.click()
    qtbot.waitUntil(lambda: panel.classify_tab.finder is None, timeout=60_000)
    panel.classify_tab.save_annotation(tmp_path / "o.geojson")
    panel.classify_tab.run.click()
    job = panel.classify_tab.job
    assert job is not None
    seen: list[tuple[int, int]] = []
    job.progressed.connect(lambda *both: seen.append(both))
    pid = job.process.processId()
    qtbot.waitUntil(lambda: panel.classify_tab.job is None, timeout=120_000)
    found = prediction_of(panel.viewer.layers[-1])
    assert found is not None, panel.classify_tab.status.text()
    assert len(found.member_bias) == 2
    assert found.annotation == read_annotation(tmp_path / "o.geojson").fingerprint
    assert [done for done, _ in seen] == list(range(64, len(found.grid) + 1, 64))
    assert {total for _, total in seen} == {len(found.grid)}
    assert panel.classify_tab.status.text().startswith(f"predicted {found.predicted} (probability ")
    assert panel.inspector.title.text().startswith("synthetic-ü: ")
    assert not panel.inspection.forced
    assert {path.name for path in (tmp_path / "results").glob("*.*")} == {
        "synthetic-ü.prediction.h5", "synthetic-ü.png", "predictions.csv",
    }  # fmt: skip
    assert not is_running(pid)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("panel", [2800], indirect=True)  # large enough to be cancelled in time
def test_a_cancelled_job_ends_and_leaves_no_files(
    panel: Panel, tmp_path: Path, qtbot: QtBot
) -> None:
    panel.classify_tab.run.click()
    job = panel.classify_tab.job
    assert job is not None
    with qtbot.waitSignal(job.progressed, timeout=120_000) as first:
        pass
    done, total = first.args
    assert done < total / 4
    pid = job.process.processId()
    panel.classify_tab.cancel.click()
    qtbot.waitUntil(lambda: panel.classify_tab.job is None, timeout=30_000)
    assert panel.classify_tab.status.text() == "cancelled"
    assert panel.classify_tab.run.isEnabled()
    assert not is_running(pid)
    assert len(panel.viewer.layers) == 1
    results = tmp_path / "results"
    left = {path for path in results.rglob("*") if path.parent.name != "runlog" and path.is_file()}
    # a busy machine may let the process finish the slide before the signal reaches it
    complete = {"synthetic-ü.prediction.h5", "synthetic-ü.png", "predictions.csv"}
    assert {path.name for path in left} <= complete
    assert all(read_prediction(path).predicted for path in left if path.suffix == ".h5")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
