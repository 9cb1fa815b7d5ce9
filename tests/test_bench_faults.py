"""The script that kills, fills disks and races runs, and finds nothing amiss."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "bench_faults.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_whatever_is_killed_full_taken_away_or_raced_for_every_file_is_whole() -> None:
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    told = [json.loads(line) for line in run.stdout.splitlines()]
    assert sum(one.get("kills", 0) for one in told) == 6
    assert sum(one.get("points", 0) for one in told) == 4
    assert sum(one.get("races", 0) for one in told) == 3
    assert sum(one.get("taken", 0) for one in told) == 1
    assert told[-1]["figure"] == "all"
    assert not any(one["faults"] for one in told)
