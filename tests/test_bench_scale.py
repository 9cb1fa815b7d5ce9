"""The script that measures how tiling scales runs, and tells what it says it tells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "bench_scale.py"


@pytest.mark.slow
def test_it_tells_every_figure_and_last_the_ratios() -> None:
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"], capture_output=True, text=True, check=True
    )
    told = [json.loads(line) for line in run.stdout.splitlines()]
    kinds = ["workers"] * 4 + ["size"] * 2 + ["count"] * 2 + ["extrapolation", "ratios"]
    assert [one["figure"] for one in told] == kinds
    assert {(one["where"], one["workers"]) for one in told[:4]} == {
        (where, count) for where in ("local", "dask") for count in (1, 2)
    }
    assert len({one["patches"] for one in told[:4]}) == 1
    assert all(one["seconds"] > 0 and one["patches"] > 0 for one in told[:8])
    assert all(value > 0 for name, value in told[-1].items() if name != "figure")
