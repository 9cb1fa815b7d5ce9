"""The commands and code of the README run, and the files it names exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milpath.cli import COMMANDS as COMMANDS_OF_MILPATH
from milpath.synthetic import draw_slide

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the README's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line]
# a reader trains before classifying; the page shows classifying first
ORDER = ("tile", "train", "classify", "embed", "heatmap", "export", "info", "check")

SESSION = """
import json, sys
from milpath.params import TrainParams

TrainParams.model_fields["epochs"].default = 3
TrainParams.model_rebuild(force=True)
assert TrainParams().epochs == 3
from milpath.cli import main

for sys.argv in json.load(sys.stdin):
    print("$", *sys.argv, flush=True)
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""
"""One process for all commands: each would import the network's libraries again. Models are trained
for three epochs: what they learn is tested elsewhere."""


def run(commands: list[str], folder: Path) -> None:
    words = [shlex.split(command) for command in commands]
    assert {name for name, *_ in words} == {"milpath"}
    done = subprocess.run(
        [sys.executable, "-c", SESSION], cwd=folder, input=json.dumps(words),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def order(command: str) -> tuple[int, int]:
    """Return the place of a command in a reader's session."""
    words = shlex.split(command)
    own = "my-features/" in words or "model-3/" in words
    late = "features" in command
    place = ORDER.index("embed") if late else ORDER.index(words[1])
    return (
        (len(ORDER) + ORDER.index(words[1]), 0)
        if own and words[1] != "info"
        else (place, int(late))
    )


def write_own_features(folder: Path) -> None:
    """Write features of the slides with the README's function for other programs."""
    (block,) = [text for text in blocks("python") if "def save_features" in text]
    scope: dict[str, Any] = {}
    exec(block, scope)
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        count = 5 + number
        features = rng.normal(number % 2, 1, (count, 12))
        x, y = rng.integers(0, 400, (2, count))
        scope["save_features"](folder / f"a{number}.h5", features, x, y, "uni", 64, 128, 1.0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_and_the_code_of_the_readme_run(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "new-slides").mkdir()
    rows = ["slide,label,case"]
    for number in range(6):
        name, tumour = f"a{number}", bool(number % 2)
        path = tmp_path / "slides" / f"{name}.tif"
        draw_slide(path, seed=number, tumour=tumour, size_px=(560, 560), mpp=0.5, artefacts=False)
        rows.append(f"slides/{name}.tif,{'tumour' if tumour else 'normal'},case-{number}")
    draw_slide(tmp_path / "new-slides" / "n1.tif", seed=9, tumour=True, size_px=(560, 560), mpp=0.5)
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    write_own_features(tmp_path / "my-features")
    run(sorted(COMMANDS, key=order), tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks("python"))],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "predictions.csv").exists()
    assert (tmp_path / "n1.png").exists()
    assert (tmp_path / "results-3" / "a1.png").exists()


def test_the_readme_names_every_command_and_no_other() -> None:
    named = set(re.findall(r"`milpath ([\w-]+)`", README))
    assert named == set(COMMANDS_OF_MILPATH)


def test_the_scripts_and_pictures_the_readme_names_exist() -> None:
    named = re.findall(r"(?:\./)?(scripts/\w+(?:\.py)?)|\((docs/[\w.-]+)\)", README)
    paths = {script or picture for script, picture in named}
    assert paths
    assert all((ROOT / path).is_file() for path in paths)
