"""A model runs beside the viewer: it is watched, ended, and never leaves anything behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Layer
from pytestqt.qtbot import QtBot
from support.drawing import write_levels

from milpath.errors import UsageError
from milpath.formats.prediction import Prediction, write_prediction
from milpath.slides.annotation import Polygon, read_annotation
from milpath.slides.slide import Slide
from napari_milpath.job import ClassifyJob, Order
from napari_milpath.panel import Panel
from napari_milpath.tissue import find_tissue, outline_of, tissue_layer

STUB = """#!{python}
import json, shutil, sys, time
words = sys.argv[1:]
assert words[:3] == ["-m", "milpath", "classify"]
out = words[words.index("--out") + 1]
print("warming up", file=sys.stderr, flush=True)
for done in (64, 128):
    print(f"s: {{done}} of 130 patches", file=sys.stderr, flush=True)
{then}
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in the place of the Python that runs `milpath classify`."""

    def make(then: str) -> None:
        path = tmp_path / "python"
        path.write_text(STUB.format(python=sys.executable, then=then))
        path.chmod(0o755)
        monkeypatch.setattr("napari_milpath.job.sys.executable", str(path))

    return make


@pytest.fixture
def panel(open_panel: Callable[[Path], Panel], slide_file: Path, tmp_path: Path) -> Panel:
    """A panel with a slide and the name of a model."""
    made = open_panel(slide_file)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    made.models.model.setText(str(tmp_path / "model"))
    return made


def copy_into_out(path: Path) -> str:
    """What a child does that finds the answer in a file."""
    return (
        f"import os; os.makedirs(out, exist_ok=True)\n"
        f"shutil.copy({str(path)!r}, out + '/s.prediction.h5')\n"
        "print(json.dumps({'slide_id': 's', 'status': 'ok', 'message': 'tumour (0.9)'}))"
    )


def test_the_childs_progress_is_shown_and_its_answer_opened(
    panel: Panel,
    child: Callable[[str], None],
    tmp_path: Path,
    predict_slide: Callable[..., Prediction],
    qtbot: QtBot,
) -> None:
    write_prediction(tmp_path / "answer.h5", predict_slide())
    child(copy_into_out(tmp_path / "answer.h5"))
    panel.models.classify()
    seen: list[tuple[int, int]] = []
    assert panel.models.job is not None
    panel.models.job.progressed.connect(lambda *both: seen.append(both))
    qtbot.waitUntil(lambda: panel.models.job is None, timeout=60_000)
    assert seen == [(64, 130), (128, 130)]
    assert panel.models.word.text() == "tumour (0.9)"
    assert panel.inspection.voice is not None
    assert len(panel.viewer.layers) == 2


def test_what_the_child_says_is_understood_in_whatever_pieces_it_comes(
    child: Callable[[str], None], tmp_path: Path, qtbot: QtBot
) -> None:
    said = "ü: 192 of 1300 patches\n".encode()
    parts = [said[:1], said[1:8], said[8:14], said[14:], b"milpath: \xc3", b"\xbc, at last"]
    child(
        f"for part in {parts!r}:\n"
        "    sys.stderr.buffer.write(part); sys.stderr.flush(); time.sleep(0.1)\n"
        "sys.exit(2)"
    )
    job = ClassifyJob(Order(tmp_path / "s", tmp_path / "m", tmp_path))
    seen: list[tuple[int, int]] = []
    job.progressed.connect(lambda *both: seen.append(both))
    with qtbot.waitSignal(job.ended, timeout=60_000) as end:
        pass
    assert seen == [(64, 130), (128, 130), (192, 1300)]
    assert end.args == [None, "milpath: ü, at last"]


def test_an_outline_is_saved_as_it_is_drawn(panel: Panel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no annotation"):
        panel.models.save_outline(tmp_path / "o.geojson")
    ring = np.array([[100.0, 50.0], [700.0, 50.0], [700.0, 900.0], [100.0, 900.0]])
    panel.viewer.add_layer(Layer.create(*tissue_layer([Polygon(ring)], (0.5, 0.5))))
    panel.models.save_outline(tmp_path / "o.geojson")
    (again,) = read_annotation(tmp_path / "o.geojson").polygons
    np.testing.assert_allclose(again.ring, ring, atol=0.01)


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("print('milpath: no such model', file=sys.stderr); sys.exit(2)", "milpath: no such model"),
        ("print(json.dumps({'slide_id': 's', 'message': 's: too coarse'})); sys.exit(4)", "too c"),
        ("import os; os.abort()", "warming up|code"),
    ],
)
def test_a_child_that_fails_is_a_notification(
    panel: Panel,
    child: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    qtbot: QtBot,
    then: str,
    said: str,
) -> None:
    heard: list[str] = []
    monkeypatch.setattr("napari_milpath.models.show_error", heard.append)
    child(then)
    panel.models.classify()
    qtbot.waitUntil(lambda: panel.models.job is None, timeout=60_000)
    assert len(heard) == 1
    assert any(part in heard[0] for part in said.split("|"))
    assert panel.models.run.isEnabled()
    assert len(panel.viewer.layers) == 1


def test_a_child_is_cancelled(panel: Panel, child: Callable[[str], None], qtbot: QtBot) -> None:
    child("time.sleep(600)")
    panel.models.classify()
    job = panel.models.job
    assert job is not None
    with qtbot.waitSignal(job.progressed, timeout=60_000):
        pass
    pid = job.process.processId()
    panel.models.cancel.click()
    qtbot.waitUntil(lambda: panel.models.job is None, timeout=60_000)
    assert panel.models.word.text() == "cancelled"
    assert not lives(pid)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_closing_the_window_ends_the_child_at_once(
    panel: Panel, child: Callable[[str], None], qtbot: QtBot
) -> None:
    child("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)")
    panel.models.classify()
    job = panel.models.job
    assert job is not None
    with qtbot.waitSignal(job.progressed, timeout=60_000):
        pass
    pid = job.process.processId()
    scratch = panel.models._scratch_folder()
    assert scratch.is_dir()
    start = time.perf_counter()
    panel.viewer.close()
    assert time.perf_counter() - start < 5  # no hang; machines may be busy
    assert not lives(pid)
    assert not scratch.exists()


def test_without_a_slide_or_a_model_it_says_what_is_missing(
    panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr("napari_milpath.models.show_error", heard.append)
    panel.models.edited.setChecked(True)
    panel.models.classify()
    panel.models.model.setText("")
    panel.models.classify()
    slide = panel.viewer.layers[0]
    panel.viewer.layers.clear()
    panel.models.classify()
    panel.models.show_tissue()
    panel.viewer.layers.append(slide)
    assert [line.split()[0] for line in heard] == ["there", "name", "open", "open"]
    assert panel.models.job is None


def test_an_order_says_all_that_the_command_needs() -> None:
    order = Order(Path("/s/a.svs"), Path("m"), Path("o"), 0.25, Path("t.geojson"))
    assert order.arguments() == [
        "-m", "milpath", "classify", "/s/a.svs", "--model", "m", "--out", "o", "--json",
        "--verbose", "--slide-mpp", "0.25", "--tissue-annotations", "t.geojson",
    ]  # fmt: skip


def test_a_python_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, qtbot: QtBot
) -> None:
    monkeypatch.setattr("napari_milpath.job.sys.executable", str(tmp_path / "none"))
    heard: list[tuple[object, str]] = []
    job = ClassifyJob(Order(tmp_path / "s", tmp_path / "m", tmp_path))
    job.ended.connect(lambda *both: heard.append(both))
    qtbot.waitUntil(lambda: bool(heard), timeout=30_000)
    assert heard[0][1].endswith("could not be started")


# -- tissue ----------------------------------------------------------------------------------------


def test_the_outline_that_is_shown_is_the_one_that_is_used(
    tmp_path: Path, panel: Panel, qtbot: QtBot
) -> None:
    rgb = np.full((1024, 1280, 3), 240, np.uint8)
    rgb[200:700, 300:900] = (200, 120, 180)
    with Slide(write_levels(tmp_path / "t.tif", [rgb], mpp=(2.0, 2.0))) as slide:
        found = find_tissue(slide)
    layer = Layer.create(*tissue_layer(found, (2.0, 2.0)))
    (again,) = outline_of(layer)
    np.testing.assert_allclose(again.ring, found[0].ring, atol=1e-3)
    assert again.ring.min(axis=0) == pytest.approx((300, 200), abs=12)
    low = layer.data_to_world(layer.data[0].min(axis=0))
    assert low == pytest.approx((199.5 * 2, 299.5 * 2), abs=24)
    panel.models.show_tissue()
    qtbot.waitUntil(panel.models.tissue.isEnabled, timeout=60_000)
