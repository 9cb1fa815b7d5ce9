"""A user's keras.json changes no result; what of it is ignored is said once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HOSTILE = {
    "floatx": "float16",
    "epsilon": 0.5,
    "image_data_format": "channels_first",
    "backend": "jax",
}
SHOW = """
import keras
print(keras.config.floatx(), keras.config.image_data_format(), keras.config.epsilon(),
      keras.config.backend(), keras.config.dtype_policy().name)
import os
from keras.src.backend.config import keras_home
print(keras_home(), os.environ.get("KERAS_HOME"))
"""
WANTED = "float32 channels_last 1e-07 tensorflow float32"


def run_python(code: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KERAS_")}
    environment = {**kept, "HOME": str(home), "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def write_config(home: Path, text: str) -> None:
    (home / ".keras").mkdir()
    (home / ".keras" / "keras.json").write_text(text, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("start", ["import milpath; milpath.load_model", "import milpath.nn.mil"])
def test_a_hostile_keras_json_is_ignored_and_said_once(start: str, tmp_path: Path) -> None:
    write_config(tmp_path, json.dumps(HOSTILE))
    run = run_python(f"{start}\nimport milpath.nn.train\n{SHOW}", tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [WANTED, f"{tmp_path / '.keras'} None"]
    lines = [line for line in run.stderr.splitlines() if "keras.json" in line]
    assert len(lines) == 1
    assert all(name in lines[0] for name in HOSTILE)


@pytest.mark.slow
@pytest.mark.parametrize("text", ['{"floatx": "\\u001b[31m", "epsilon": "x"}', "[1]", "{", "\0"])
def test_a_keras_json_that_keras_refuses_ends_nothing(text: str, tmp_path: Path) -> None:
    write_config(tmp_path, text)
    run = run_python(f"import milpath.nn.mil\n{SHOW}", tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0] == WANTED
    assert "keras.json is ignored" in run.stderr
    assert "\x1b" not in run.stderr


@pytest.mark.slow
def test_a_program_that_imported_keras_before_gets_the_settings_too(tmp_path: Path) -> None:
    write_config(tmp_path, json.dumps({**HOSTILE, "backend": "tensorflow"}))
    run = run_python(f"import keras\nimport milpath.nn.mil\n{SHOW}", tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0] == WANTED
    assert "floatx float32 instead of float16" in run.stderr


@pytest.mark.slow
def test_a_backend_that_cannot_be_imported_is_one_line(tmp_path: Path) -> None:
    code = (
        "from milpath.errors import UsageError\n"
        "try:\n    import milpath.nn.mil\nexcept UsageError as error:\n    print(error)"
    )
    run = run_python(code, tmp_path, KERAS_BACKEND="nonsense")
    assert run.stdout.startswith("KERAS_BACKEND='nonsense' cannot be imported"), run.stderr
