"""A job reports progress, can be cancelled, and leaves no process or file behind."""

from __future__ import annotations

import os
import subprocess
import sys
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
from napari_milpath.job import ClassifyJob, ClassifyRequest
from napari_milpath.panel import Panel
from napari_milpath.tissue import annotation_of, find_tissue, tissue_layer

STUB = """#!{python}
import json, shutil, sys, time
arguments = sys.argv[1:]
assert arguments[:4] == ["-P", "-m", "milpath", "classify"]
out = arguments[arguments.index("--out") + 1]
print("warming up", file=sys.stderr, flush=True)
for done in (64, 128):
    print(f"s: {{done}} of 130 patches", file=sys.stderr, flush=True)
{then}
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replace the Python that runs `milpath classify` by a script."""

    def make(then: str) -> None:
        path = tmp_path / "python"
        path.write_text(STUB.format(python=sys.executable, then=then))
        path.chmod(0o755)
        monkeypatch.setattr("napari_milpath.job.sys.executable", str(path))

    return make


@pytest.fixture
def panel(open_panel: Callable[[Path], Panel], slide_file: Path, tmp_path: Path) -> Panel:
    """A panel with a slide and a model."""
    made = open_panel(slide_file)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    made.classify_tab.model.setText(str(tmp_path / "model"))
    return made


def copy_into_out(path: Path) -> str:
    """Code of a child that copies its prediction from a file."""
    return (
        f"import os; os.makedirs(out, exist_ok=True)\n"
        f"shutil.copy({str(path)!r}, out + '/s.prediction.h5')\n"
        "print(json.dumps({'slide_id': 's', 'status': 'ok', 'message': 'tumour (0.9)'}))"
    )


def test_shows_progress_and_opens_the_prediction(
    panel: Panel,
    child: Callable[[str], None],
    tmp_path: Path,
    predict_slide: Callable[..., Prediction],
    qtbot: QtBot,
) -> None:
    write_prediction(tmp_path / "prediction.h5", predict_slide())
    child(copy_into_out(tmp_path / "prediction.h5"))
    panel.classify_tab.classify()
    seen: list[tuple[int, int]] = []
    assert panel.classify_tab.job is not None
    panel.classify_tab.job.progressed.connect(lambda *both: seen.append(both))
    qtbot.waitUntil(lambda: panel.classify_tab.job is None, timeout=60_000)
    assert seen == [(64, 130), (128, 130)]
    assert panel.classify_tab.status.text() == "tumour (0.9)"
    assert panel.inspection.source is not None
    assert len(panel.viewer.layers) == 2


def test_parses_the_output_in_pieces_of_any_length(
    child: Callable[[str], None], tmp_path: Path, qtbot: QtBot
) -> None:
    output = "ü: 192 of 1300 patches\n".encode()
    parts = [output[:1], output[1:8], output[8:14], output[14:], b"milpath: \xc3", b"\xbc, at last"]
    child(
        f"for part in {parts!r}:\n"
        "    sys.stderr.buffer.write(part); sys.stderr.flush(); time.sleep(0.1)\n"
        "sys.exit(2)"
    )
    job = ClassifyJob(ClassifyRequest(tmp_path / "s", tmp_path / "m", tmp_path))
    seen: list[tuple[int, int]] = []
    job.progressed.connect(lambda *both: seen.append(both))
    with qtbot.waitSignal(job.ended, timeout=60_000) as end:
        pass
    assert seen == [(64, 130), (128, 130), (192, 1300)]
    assert end.args == [None, "milpath: ü, at last"]


def test_writes_the_annotation_as_it_was_drawn(panel: Panel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no tissue annotation"):
        panel.classify_tab.save_annotation(tmp_path / "o.geojson")
    ring = np.array([[100.0, 50.0], [700.0, 50.0], [700.0, 900.0], [100.0, 900.0]])
    panel.viewer.add_layer(Layer.create(*tissue_layer([Polygon(ring)], (0.5, 0.5))))
    panel.classify_tab.save_annotation(tmp_path / "o.geojson")
    (again,) = read_annotation(tmp_path / "o.geojson").polygons
    np.testing.assert_allclose(again.ring, ring, atol=0.01)


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("print('milpath: no such model', file=sys.stderr); sys.exit(2)", "milpath: no such model"),
        ("print(json.dumps({'slide_id': 's', 'message': 's: too coarse'})); sys.exit(4)", "too c"),
        ("import os; os.abort()", "warming up|code"),
    ],
)
def test_shows_the_error_of_a_failed_job(
    panel: Panel,
    child: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    qtbot: QtBot,
    then: str,
    message: str,
) -> None:
    messages: list[str] = []
    monkeypatch.setattr("napari_milpath.classify.show_error", messages.append)
    child(then)
    panel.classify_tab.classify()
    qtbot.waitUntil(lambda: panel.classify_tab.job is None, timeout=60_000)
    assert len(messages) == 1
    assert any(part in messages[0] for part in message.split("|"))
    assert panel.classify_tab.run.isEnabled()
    assert len(panel.viewer.layers) == 1


def test_cancels_a_job(panel: Panel, child: Callable[[str], None], qtbot: QtBot) -> None:
    child("time.sleep(600)")
    panel.classify_tab.classify()
    job = panel.classify_tab.job
    assert job is not None
    with qtbot.waitSignal(job.progressed, timeout=60_000):
        pass
    pid = job.process.processId()
    panel.classify_tab.cancel.click()
    qtbot.waitUntil(lambda: panel.classify_tab.job is None, timeout=60_000)
    assert panel.classify_tab.status.text() == "cancelled"
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_closing_the_window_kills_the_child_without_an_interrupt(
    panel: Panel, child: Callable[[str], None], tmp_path: Path, qtbot: QtBot
) -> None:
    interrupted = tmp_path / "interrupted"
    child(
        "import pathlib, signal\n"
        f"path = pathlib.Path({str(interrupted)!r})\n"
        "signal.signal(signal.SIGINT, lambda *_: path.touch())\n"
        "print('s: 130 of 130 patches', file=sys.stderr, flush=True)\n"
        "while True: time.sleep(60)"
    )
    panel.classify_tab.classify()
    job = panel.classify_tab.job
    assert job is not None
    qtbot.waitUntil(lambda: panel.classify_tab.bar.value() == 130, timeout=60_000)
    pid = job.process.processId()
    folder = panel.classify_tab._temporary_folder()
    assert folder.is_dir()
    panel.viewer.close()
    assert not is_running(pid)
    assert not interrupted.exists()
    assert not folder.exists()


def test_shows_an_error_without_a_slide_or_a_model(
    panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr("napari_milpath.classify.show_error", messages.append)
    panel.classify_tab.annotated.setChecked(True)
    panel.classify_tab.classify()
    panel.classify_tab.model.setText("")
    panel.classify_tab.classify()
    slide = panel.viewer.layers[0]
    panel.viewer.layers.clear()
    panel.classify_tab.classify()
    panel.classify_tab.show_tissue()
    panel.viewer.layers.append(slide)
    assert [line.split()[0] for line in messages] == ["there", "choose", "open", "open"]
    assert panel.classify_tab.job is None


def test_a_request_becomes_the_arguments_of_the_command() -> None:
    request = ClassifyRequest(Path("/s/a.svs"), Path("m"), Path("o"), 0.25, Path("t.geojson"))
    assert request.arguments() == [
        "-P", "-m", "milpath", "classify", "/s/a.svs", "--model", "m", "--out", "o", "--json",
        "--verbose", "--slide-mpp", "0.25", "--tissue-annotations", "t.geojson",
    ]  # fmt: skip


def test_the_child_executes_no_code_of_the_current_folder(tmp_path: Path) -> None:
    for name in ("numpy", "h5py", "typer", "pathlib", "json", "typing", "signal"):
        (tmp_path / f"{name}.py").write_text("open('executed.txt', 'a').write(__name__)\n")
    (tmp_path / "slide.tif").touch()
    request = ClassifyRequest(tmp_path / "slide.tif", tmp_path / "none", tmp_path / "out")
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONSAFEPATH"}
    command = [sys.executable, *request.arguments()]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert not (tmp_path / "executed.txt").exists()
    assert run.returncode == 2
    assert "not a model folder" in run.stderr


def test_reports_a_missing_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, qtbot: QtBot
) -> None:
    monkeypatch.setattr("napari_milpath.job.sys.executable", str(tmp_path / "none"))
    ended: list[tuple[object, str]] = []
    job = ClassifyJob(ClassifyRequest(tmp_path / "s", tmp_path / "m", tmp_path))
    job.ended.connect(lambda *both: ended.append(both))
    qtbot.waitUntil(lambda: bool(ended), timeout=30_000)
    assert ended[0][1].endswith("cannot be started")


# -- tissue ----------------------------------------------------------------------------------------


def test_the_tissue_layer_keeps_the_polygons_that_were_found(
    tmp_path: Path, panel: Panel, qtbot: QtBot
) -> None:
    rgb = np.full((1024, 1280, 3), 240, np.uint8)
    rgb[200:700, 300:900] = (200, 120, 180)
    with Slide(write_levels(tmp_path / "t.tif", [rgb], mpp=(2.0, 2.0))) as slide:
        found = find_tissue(slide)
    layer = Layer.create(*tissue_layer(found, (2.0, 2.0)))
    (again,) = annotation_of(layer)
    np.testing.assert_allclose(again.ring, found[0].ring, atol=1e-3)
    assert again.ring.min(axis=0) == pytest.approx((300, 200), abs=12)
    low = layer.data_to_world(layer.data[0].min(axis=0))
    assert low == pytest.approx((199.5 * 2, 299.5 * 2), abs=24)
    panel.classify_tab.show_tissue()
    qtbot.waitUntil(panel.classify_tab.tissue.isEnabled, timeout=60_000)
