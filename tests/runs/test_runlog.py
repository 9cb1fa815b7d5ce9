"""A run log says what a run did, and whether the run is finished, running or killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from milpath import __version__
from milpath.cohort.workitem import WorkItem
from milpath.errors import StoredFileError
from milpath.runs import Outcome, runlog
from milpath.runs.outcome import UnexpectedError
from milpath.runs.runlog import RunRecord, open_runlog, read_runlogs, tabulate_slides

SECRET = Path("/archive/DOE JANE/DOE^JANE 1961.svs")


def write_run(out: Path, *outcomes: Outcome, path: Path = SECRET) -> None:
    with open_runlog(out, "tile", {"grid": {"mpp": 0.5}}, len(outcomes)) as log:
        for outcome in outcomes:
            log.note(outcome, WorkItem(path, outcome.slide_id))


def files(out: Path) -> list[Path]:
    return sorted((out / "runlog").iterdir())


def only_run(out: Path) -> RunRecord:
    (run,) = read_runlogs(out)
    return run


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_run(tmp_path, Outcome("a", "ok", "7 patches", seconds=1.5), Outcome("ü", "failed", "no"))
    run = only_run(tmp_path)
    assert run.start.command == "tile"
    assert run.start.milpath == __version__
    assert run.start.params == {"grid": {"mpp": 0.5}}
    assert [(line.slide, line.status) for line in run.slides] == [("a", "ok"), ("ü", "failed")]
    assert run.count() == {"ok": 1, "failed": 1}
    assert (run.state, run.how, run.done, run.total) == ("finished", "done", 2, 2)


def test_an_error_that_ends_the_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_runlog(tmp_path, "tile", {}, 1):
        raise KeyboardInterrupt
    run = only_run(tmp_path)
    assert (run.state, run.how) == ("finished", "ended by KeyboardInterrupt")


def test_the_table_has_the_latest_outcome_of_every_slide(tmp_path: Path) -> None:
    write_run(tmp_path, Outcome("a", "ok", "7 patches"), Outcome("b", "failed", "torn"))
    write_run(tmp_path, Outcome("a", "skipped", "already done"), Outcome("b", "no_tissue", "none"))
    rows = {row.slide: row for row in tabulate_slides(read_runlogs(tmp_path))}
    assert (rows["a"].status, rows["a"].message, rows["a"].runs) == ("ok", "7 patches", 2)
    assert (rows["b"].status, rows["b"].message) == ("no_tissue", "none")


def test_a_slide_that_failed_and_is_then_skipped_counts_as_skipped(tmp_path: Path) -> None:
    write_run(tmp_path, Outcome("a", "failed", "torn"))
    write_run(tmp_path, Outcome("a", "skipped", "already done"))
    (row,) = tabulate_slides(read_runlogs(tmp_path))
    assert (row.status, row.runs) == ("skipped", 2)


def test_damaged_lines_are_ignored(tmp_path: Path) -> None:
    write_run(tmp_path, Outcome("a", "ok", "x"))
    (path,) = files(tmp_path)
    start, slide, _ = path.read_bytes().splitlines(keepends=True)
    odd = b'[1]\nnull\n{"event": "slide"}\n{"event": {}}\n' + b"[" * 10_000 + b"\n\xff\n"
    for cut in range(1, len(slide)):
        path.write_bytes(start + odd + slide[:-cut])
        run = only_run(tmp_path)
        assert len(run.slides) == (cut == 1)
        assert run.how is None
    path.write_bytes(odd)
    with pytest.raises(StoredFileError, match="contains no run log"):
        read_runlogs(tmp_path)


def test_a_line_separator_in_a_message_does_not_split_its_line(tmp_path: Path) -> None:
    write_run(tmp_path, Outcome("a", "failed", "one\u2028two\x85three"))
    assert only_run(tmp_path).slides[0].message == "one\u2028two\x85three"


def test_runs_in_the_same_second_write_separate_files(tmp_path: Path) -> None:
    for name in "abc":
        write_run(tmp_path, Outcome(name, "ok", "x"))
    assert len(files(tmp_path)) == len(read_runlogs(tmp_path)) == 3


def test_no_path_user_machine_or_text_of_an_unexpected_error_is_written(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        Outcome("s1", "failed", f"{SECRET.name}: the file is empty; {SECRET} is"),
        Outcome("s2", "failed", "s2: unexpected OSError: in JANE", UnexpectedError("OSError")),
    )
    text = files(tmp_path)[0].read_text()
    assert "s1: the file is empty; s1 is" in text
    assert "unexpected OSError" in text
    for word in ("JANE", "1961", "archive", str(tmp_path), os.uname().nodename):
        assert word not in text


@pytest.mark.parametrize("failing", ["open", "write"])
def test_a_full_disk_is_logged_once_and_does_not_stop_the_run(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, fail)
    write_run(tmp_path, Outcome("a", "ok", "x"), Outcome("b", "ok", "x"))
    assert caplog.text.count("the run log cannot be written (No space left on device)") == 1


def test_nothing_is_written_after_a_line_that_was_written_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    with open_runlog(tmp_path, "tile", {}, 2) as log:
        monkeypatch.setattr(os, "write", lambda number, data: real(number, data[:5]))
        log.note(Outcome("a", "ok", "x"), WorkItem(SECRET, "a"))
        monkeypatch.undo()
        log.note(Outcome("b", "ok", "x"), WorkItem(SECRET, "b"))
        assert only_run(tmp_path).state == ("unknown" if sys.platform == "win32" else "running")
    assert only_run(tmp_path).slides == ()
    assert json.loads(files(tmp_path)[0].read_text().splitlines()[0])["event"] == "start"


# -- alive or dead -------------------------------------------------------------------------------

LOCKS = pytest.mark.skipif(sys.platform != "linux", reason="needs locks, and the system's boot id")

CHILD = """
import sys
from pathlib import Path
from milpath.cohort.workitem import WorkItem
from milpath.runs import Outcome
from milpath.runs.runlog import open_runlog

with open_runlog(Path(sys.argv[1]), "tile", {}, 7) as log:
    for name in "ab":
        log.note(Outcome(name, "ok", "x"), WorkItem(Path(name), name))
    print("ready", flush=True)
    sys.stdin.read()
"""


def start_child(out: Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


@LOCKS
@pytest.mark.parametrize("end", ["killed", "finished"])
def test_a_run_is_running_until_its_process_ends(end: str, tmp_path: Path) -> None:
    child = start_child(tmp_path)
    run = only_run(tmp_path)
    assert (run.state, run.how, run.done, run.total) == ("running", None, 2, 7)
    if end == "killed":
        child.send_signal(signal.SIGKILL)
    child.communicate()
    run = only_run(tmp_path)
    assert (run.state, run.done, run.total) == (end, 2, 7)


@LOCKS
def test_reading_a_run_log_does_not_disturb_its_run(tmp_path: Path) -> None:
    with open_runlog(tmp_path, "tile", {}, 1) as log:
        for _ in range(3):
            assert only_run(tmp_path).state == "running"
        log.note(Outcome("a", "ok", "x"), WorkItem(SECRET, "a"))
    assert only_run(tmp_path).state == "finished"


@LOCKS
def test_a_run_log_that_cannot_be_written_is_still_read(tmp_path: Path) -> None:
    child = start_child(tmp_path)
    files(tmp_path)[0].chmod(0o444)
    assert only_run(tmp_path).state == "running"
    child.kill()
    child.communicate()
    assert only_run(tmp_path).state == "killed"


@LOCKS
def test_a_run_that_ends_while_its_log_is_read_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start_child(tmp_path)
    real = runlog._is_held

    def end_and_ask(path: Path) -> bool | None:
        child.communicate()
        return real(path)

    monkeypatch.setattr(runlog, "_is_held", end_and_ask)
    assert only_run(tmp_path).state == "finished"


def without_end(out: Path) -> None:
    (path,) = files(out)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


@LOCKS
def test_a_dead_run_of_this_machine_is_killed_and_of_another_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, Outcome("a", "ok", "x"))
    without_end(tmp_path)
    assert only_run(tmp_path).state == "killed"
    for tag in ("another", ""):
        monkeypatch.setattr(runlog, "host_tag", lambda folder, tag=tag: tag)
        assert only_run(tmp_path).state == "unknown"


@LOCKS
@pytest.mark.parametrize("side", ["run", "reader"])
def test_a_run_without_locks_is_unknown(
    side: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        if side == "run":
            patch.setattr(runlog, "take_lock", lambda number: None)
        write_run(tmp_path, Outcome("a", "ok", "x"))
    without_end(tmp_path)
    if side == "reader":
        monkeypatch.setattr(runlog, "take_lock", lambda number: None)
    assert only_run(tmp_path).state == "unknown"


@LOCKS
def test_two_runs_of_one_machine_have_different_tags(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    one, two = only_run(tmp_path / "a"), only_run(tmp_path / "b")
    assert one.start.lock
    assert two.start.lock
    assert one.start.lock != two.start.lock
