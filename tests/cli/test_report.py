"""Report: the state of each run, also of one that is still running."""

from __future__ import annotations

from pathlib import Path

import pytest

from milpath.cli.report import describe_run
from milpath.cohort.workitem import WorkItem
from milpath.runs import Outcome
from milpath.runs.runlog import RunRecord, SlideLine, StartLine, State, open_runlog, read_runlogs

START = StartLine(time="2026-03-01T12:30:00.123456+00:00", command="tile", milpath="1.0", slides=19)
DONE = tuple(
    SlideLine(time="", slide=str(number), status="failed" if number == 7 else "ok", message="")
    for number in range(12)
)


@pytest.mark.parametrize(
    ("state", "how", "expected"),
    [
        ("running", None, "still running"),
        ("killed", None, "killed"),
        ("unknown", None, "no end recorded; it was killed, or runs on another machine"),
        ("finished", "stopped by SIGTERM", "stopped by SIGTERM"),
    ],
)
def test_a_run_is_described_by_its_state_and_the_slides_done(
    state: State, how: str | None, expected: str
) -> None:
    line = describe_run(RunRecord(START, DONE, state, how))
    what = "2026-03-01T12:30:00Z milpath 1.0 tile: 12 of 19 slides (11 ok, 1 failed)"
    assert line == f"{what}; {expected}"


def test_a_run_in_this_process_is_reported_as_running(tmp_path: Path) -> None:
    with open_runlog(tmp_path, "tile", {}, 3) as runlog:
        runlog.note(Outcome("a", "ok", "done"), WorkItem(Path("a.svs"), "a"))
        (run,) = read_runlogs(tmp_path)
        assert describe_run(run).endswith("tile: 1 of 3 slides (1 ok); still running")
    (run,) = read_runlogs(tmp_path)
    assert describe_run(run).endswith("tile: 1 of 3 slides (1 ok); done")
