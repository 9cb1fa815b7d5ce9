"""The benchmarks run, small, and end with a line of ratios."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


def run(script: str, *options: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The figures a benchmark prints, and its last line."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), "--repeats", "1", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return lines[:-1], lines[-1]["ratios"]


@pytest.mark.slow
def test_tiling_is_measured_against_a_script_and_two_limits() -> None:
    figures, ratios = run("bench_tile.py", "--side", "4096", "--patches", "40", "--whole")
    runs = {figure["run"] for figure in figures if "run" in figure}
    assert {"milpath 1", "milpath 2", "script", "limit 1, 2", "limit 2, 2"} <= runs
    drawn = ratios["drawn"]
    assert drawn["largest_difference"] == 0
    assert drawn["decodes_a_tile"] <= 1.05
    assert 0 < drawn["2_threads_to_limit_1"] < 1
    assert 0 < drawn["peak_mb_of_twice_as_large"] < 400
    assert drawn["peak_mb"] < 400


@pytest.mark.slow
def test_the_stream_is_measured_against_the_bare_network() -> None:
    options = ("--side", "4096", "--patches", "64", "--rows", "20000", "--counts", "1000")
    figures, ratios = run("bench_classify.py", *options)
    assert {"stream", "bare network", "reading alone"} <= {
        figure["run"] for figure in figures if "run" in figure
    }
    assert ratios["peak_memory_most_to_least"] == 1
    assert ratios["pooling_difference"] < 1e-5
    assert ratios["drawn"]["stream_to_bare_network"] > 0


@pytest.mark.slow
def test_codecs_and_embeddings_of_a_bag_are_measured() -> None:
    figures, ratios = run("bench_bag.py", "--patches", "20", "--rows", "3000")
    codecs = {figure["codec"]: figure for figure in figures if "codec" in figure}
    assert codecs["raw"]["db"] is None
    assert codecs["jpeg 90 4:4:4"]["db"] > codecs["jpeg 80 4:2:0"]["db"] > 25
    assert ratios["raw_to_default_size"] > 4
