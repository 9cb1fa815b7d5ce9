"""Wrong use of train, mnist and demo is one line, before Keras is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.nn_tools import make_bag, random_patches

SESSION = """
import json, sys
from milpath.cli import main

for sys.argv[1:] in json.load(sys.stdin):
    try:
        main()
    except SystemExit as end:
        print(end.code or 0)
print(*sorted({"keras", "tensorflow"} & set(sys.modules)))
"""
"""One process for several commands: each would import milpath's libraries again."""

TRAIN = ["train", "cohort.csv", "--bags", "bags", "--out", "model"]


def run(folder: Path, *commands: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the exit codes, the lines on stderr, and which network libraries were imported."""
    done = subprocess.run(
        [sys.executable, "-c", SESSION], cwd=folder, input=json.dumps(commands),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *codes, loaded = done.stdout.splitlines()
    return codes, done.stderr.splitlines(), loaded.split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six tiny bags of two classes, and their cohort file."""
    rows = ["slide,label,case"]
    for number in range(6):
        make_bag(tmp_path / "bags", f"s{number}", random_patches(2, seed=number))
        rows.append(f"s{number}.tif,{'ab'[number % 2]},c{number}")
        (tmp_path / f"s{number}.tif").touch()
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    (tmp_path / "few.csv").write_text("\n".join(rows[:4]))
    return tmp_path


def test_wrong_options_and_files_raise_before_keras_is_imported(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "file").touch()
    commands = [
        [*TRAIN, "--epochs", "0"],
        [*TRAIN, "--negative", "normal"],
        ["train", "cohort.csv", "--bags", "missing", "--out", "model"],
        ["train", "cohort.csv", "--features", "bags", "--out", "out"],
        ["train", "few.csv", *TRAIN[2:]],
        ["mnist", "--data", "missing.npz"],
        ["mnist", "--target", "10"],
        ["demo", "--out", "other"],
        ["demo", "--out", "cohort.csv"],
    ]
    codes, lines, loaded = run(folder, *commands)
    assert codes == ["2"] * len(commands), lines
    assert not loaded
    expected = [
        "--epochs",
        "--negative normal: ",
        "have no bag in missing",
        "no known layout of features",
        "needs at least",
        "missing.npz: no such file",
        "--target",
        "other: is neither empty nor of an earlier demo",
        "cohort.csv: is not a folder",
    ]
    assert len(lines) == len(expected), lines
    assert all(words in line for words, line in zip(expected, lines, strict=True)), lines


def test_a_dry_run_of_train_imports_keras_only_to_compare_an_encoder(folder: Path) -> None:
    codes, lines, loaded = run(folder, [*TRAIN, "--dry-run"])
    assert codes[0].startswith("would train 1 model (classes a, b) on 6 slides: ")
    assert codes[1:] == ["0"]
    assert not lines
    assert not loaded
    assert not (folder / "model").exists()
