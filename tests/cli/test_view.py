"""View: one line where there is no display, or no viewer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from milpath.cli.view import require_display, require_viewer
from milpath.errors import UsageError

DISPLAY = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have a display")
def test_without_a_display_view_prints_one_line_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "a.svs").touch()
    run = subprocess.run(
        [sys.executable, "-m", "milpath", "view", str(tmp_path / "a.svs")],
        env={name: value for name, value in os.environ.items() if name not in DISPLAY},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr.startswith("milpath: there is no display")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("environment", "raises"),
    [
        ({}, True),
        ({"DISPLAY": ""}, True),
        ({"QT_QPA_PLATFORM": "xcb"}, True),
        ({"DISPLAY": ":0"}, False),
        ({"WAYLAND_DISPLAY": "wayland-0"}, False),
        ({"QT_QPA_PLATFORM": "offscreen"}, False),
        ({"QT_QPA_PLATFORM": "minimal:x"}, False),
        ({"QT_QPA_PLATFORM": "vnc"}, False),
    ],
)
def test_a_display_is_required_unless_qt_needs_none(
    environment: dict[str, str], raises: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in DISPLAY:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if raises:
        with pytest.raises(UsageError, match="there is no display"):
            require_display()
    else:
        require_display()


@pytest.mark.parametrize("missing", ["napari_milpath", "napari", "Qt"])
def test_a_viewer_that_is_not_installed_raises_with_the_command_that_installs_it(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str) -> object:
        return None if missing in name or (missing == "Qt" and name.startswith("PySide")) else name

    monkeypatch.setattr("milpath.cli.view.find_spec", find)
    with pytest.raises(UsageError, match=r"pip install '\.\[napari\]' \./plugins/napari-milpath"):
        require_viewer()
