"""No command, and no process that one starts, executes code of the current folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.nn_tools import make_bundle, raw_tile

from milpath.cohort.workitem import WorkItem
from milpath.runs.local import Processes
from milpath.runs.outcome import Outcome
from milpath.synthetic import draw_slide

PLANTED = (
    "h5py", "numpy", "keras", "tensorflow", "PIL", "openslide", "scipy", "skimage", "matplotlib",
    "tifffile", "typer", "pydantic", "rich", "dask", "distributed", "napari", "qtpy", "tqdm",
    "multiprocessing", "pickle", "threading", "signal", "json", "csv", "hashlib", "subprocess",
    "tempfile", "logging",
)  # fmt: skip
PLANT = "open({marker!r}, 'a').write(__name__ + '\\n')\nraise SystemExit('planted')\n"
SCRIPT = "from milpath.cli import main\nif __name__ == '__main__':\n    main()\n"


def plant(folder: Path) -> Path:
    """Write modules that leave a mark when they are executed; return the mark's place."""
    marker = folder / "executed.txt"
    for name in PLANTED:
        (folder / f"{name}.py").write_text(PLANT.format(marker=str(marker)), encoding="utf-8")
    return marker


def prepare(folder: Path) -> None:
    """Draw two slides, make a model and the table of a cohort."""
    (folder / "slides").mkdir()
    for number in range(2):
        path = folder / "slides" / f"s{number}.tif"
        draw_slide(path, seed=number, tumour=False, size_px=(512, 512))
    make_bundle(folder / "model", tile=raw_tile(32, mpp=2.0))
    rows = [f"slides/s{number}.tif,{label}\n" for number, label in enumerate("ab")]
    (folder / "cohort.csv").write_text("slide,label\n" + "".join(rows), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["python -m", "script"])
def test_no_command_executes_code_of_the_current_folder(how: str, tmp_path: Path) -> None:
    folder, script = tmp_path / "downloaded", tmp_path / "bin" / "milpath"
    folder.mkdir()
    script.parent.mkdir()
    script.write_text(SCRIPT, encoding="utf-8")
    prepare(folder)
    marker = plant(folder)
    weights = next((folder / "model").glob("member-*.h5"))
    done = "s0.prediction.h5"
    commands: tuple[tuple[str, set[int]], ...] = (
        ("tile slides --out bags --mpp 2 --patch-size 32 --workers 2", {0}),
        ("embed bags --encoder model --out features", {0}),
        (f"embed bags --encoder mobilenetv2 --out features --weights {weights}", {2}),
        ("train cohort.csv --bags bags --out new --dry-run", {0, 2}),
        ("classify slides --model model --out out --workers 2", {0}),
        ("classify slides --model model --out again", {0}),
        (f"heatmap out/{done} --slide slides/s0.tif --out map.png", {0}),
        (f"export out/{done} --to geojson --out s0.geojson", {0}),
        (f"info out/{done}", {0}),
        ("report out --table report.csv", {0}),
        ("view --help", {0}),
    )
    for words, codes in commands if how == "python -m" else (commands[0], commands[4]):
        start = ["-m", "milpath"] if how == "python -m" else [str(script)]
        run = subprocess.run(
            [sys.executable, *start, *words.split()],
            cwd=folder, env={**os.environ, "TERM": "dumb"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert not marker.exists(), f"{words}: executed {marker.read_text()}"
        assert run.returncode in codes, f"{words}: {run.stderr}"


def _imported(item: WorkItem) -> Outcome:
    import json

    return Outcome(item.slide_id, "ok", str(json.__file__))


def test_processes_of_the_library_execute_no_code_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = plant(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    items = [WorkItem(tmp_path / "a", "a"), WorkItem(tmp_path / "b", "b")]
    outcomes = list(Processes(2).run(_imported, items))
    assert [outcome.status for outcome in outcomes] == ["ok", "ok"]
    assert not marker.exists(), marker.read_text()
    assert "PYTHONSAFEPATH" not in os.environ
