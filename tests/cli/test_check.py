"""`milpath check` says which files are wrong, and its exit code says whether any is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from support.untrusted.hdf5 import valid_bytes


def check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "milpath", "check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bag, and a prediction that h5py opened for writing."""
    (tmp_path / "a.h5").write_bytes(valid_bytes("bag"))
    (tmp_path / "a.prediction.h5").write_bytes(valid_bytes("prediction"))
    with h5py.File(tmp_path / "a.prediction.h5", "r+"):
        pass
    return tmp_path


def test_a_file_without_checksums_is_named_until_they_are_given_back(folder: Path) -> None:
    run = check(folder)
    assert run.returncode == 3
    assert run.stdout.count("\n") == 1
    assert run.stdout.startswith("a.prediction.h5: its checksums are gone, since another program ")
    assert run.stderr == "2 files of milpath: 1 ok, 1 without checksums\n"
    run = check(folder, "--reseal")
    assert (run.returncode, run.stdout) == (0, "a.prediction.h5: has its checksums again\n")
    run = check(folder, "--json")
    assert run.returncode == 0
    assert [json.loads(line) for line in run.stdout.splitlines()] == [
        {"file": "a.h5", "kind": "bag", "state": "ok", "message": ""},
        {"file": "a.prediction.h5", "kind": "prediction", "state": "ok", "message": ""},
    ]


def test_a_folder_in_which_all_is_wrong_ends_with_code_4_and_one_without_results_with_2(
    folder: Path,
) -> None:
    (folder / "a.h5").write_bytes(valid_bytes("bag")[:-100])
    run = check(folder)
    assert run.returncode == 4
    assert run.stdout.count("\n") == 2
    (folder / "none").mkdir()
    with h5py.File(folder / "none" / "x.h5", "w") as h5:
        h5["x"] = [1]
    run = check(folder / "none")
    assert run.returncode == 2
    assert "holds no bag, features, prediction or model of milpath" in run.stderr
    assert run.stderr.count("\n") == 1
