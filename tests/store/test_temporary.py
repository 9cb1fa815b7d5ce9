"""Temporary folders are private, and those of killed runs are removed by the next one."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from milpath.store import create_temp_folder, remove_stale_temps, require_writable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs locks of POSIX")


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o755, 0o700), (0o775, 0o770), (0o777, 0o777), (0o1777, 0o777)]
)
def test_a_temporary_folder_is_open_to_all_who_may_write_beside_it(
    mode: int, expected: int, tmp_path: Path
) -> None:
    tmp_path.chmod(mode)
    with create_temp_folder(tmp_path) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == expected
        assert folder.parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_a_temporary_folder_in_use_is_kept_and_that_of_a_killed_run_is_removed(
    tmp_path: Path,
) -> None:
    code = (
        "import sys, time, pathlib; from milpath.store import create_temp_folder\n"
        "with create_temp_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'mark').touch(); print(folder.name, flush=True); time.sleep(600)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        name = run.stdout.readline().strip()
        require_writable(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        os.kill(run.pid, signal.SIGKILL)
    assert (tmp_path / name / "mark").exists()
    require_writable(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_temporary_folder_of_another_machine_is_kept_for_a_week(tmp_path: Path) -> None:
    for name in (".milpath-run-00000000-abc", ".milpath-run-abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mark").touch()
    remove_stale_temps(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    old = (tmp_path / name).stat().st_mtime - 8 * 24 * 3600
    for folder in tmp_path.iterdir():
        os.utime(folder, (old, old))
    remove_stale_temps(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_removed_although_a_file_is_added_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, added = shutil.rmtree, []

    def remove_late(path: Path, **options: Any) -> None:
        remove(path, **options)
        if not added:
            added.append(path)
            path.mkdir()
            (path / "late").touch()

    monkeypatch.setattr(shutil, "rmtree", remove_late)
    with create_temp_folder(tmp_path):
        pass
    assert added
    assert list(tmp_path.iterdir()) == []
