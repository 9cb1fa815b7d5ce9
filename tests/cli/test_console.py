"""Progress where stderr is not a terminal."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from milpath.cli.console import PLAIN_SECONDS, _plain_lines


def test_progress_prints_a_timestamp_the_count_the_elapsed_time_and_the_eta(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = iter([0.0, 4.0, 30.0, 95.0])
    moment = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    advance = _plain_lines("tile", 10, lambda: next(seconds), lambda: moment)
    for slide in ("a", "b", "c"):
        advance(slide)
    first, second = capsys.readouterr().err.splitlines()
    stamp = moment.astimezone().isoformat(timespec="seconds")
    assert first == f"{stamp} tile 2/10, elapsed 0:00:30, ETA 0:02:00: b"
    assert second == f"{stamp} tile 3/10, elapsed 0:01:35, ETA 0:03:42: c"


def test_progress_prints_at_most_one_line_per_interval(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    advance = _plain_lines("train", 1000, lambda: now)
    for step in range(1000):
        now = step * PLAIN_SECONDS / 100
        advance("x")
    assert len(capsys.readouterr().err.splitlines()) == 9


def test_progress_counts_steps_that_were_not_needed(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([0.0, 100.0, 200.0])
    advance = _plain_lines("train", 60, lambda: next(seconds))
    advance("x", 0)
    advance("x", 60)
    first, second = capsys.readouterr().err.splitlines()
    assert " train 0/60, elapsed 0:01:40, ETA 0:00:00: x" in first
    assert " train 60/60, elapsed 0:03:20, ETA 0:00:00: x" in second
