"""A run leaves a record from which its report can be made, whatever became of the run."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from milpath import __version__
from milpath.cohort.cohort import SlideEntry
from milpath.errors import StoredFileError
from milpath.runs import Outcome
from milpath.runs.runlog import open_runlog, read_runlogs, tabulate_slides

SECRET = Path("/archive/DOE JANE/DOE^JANE 1961.svs")


def keep(out: Path, *outcomes: Outcome, path: Path = SECRET) -> None:
    with open_runlog(out, "tile", {"grid": {"mpp": 0.5}}, len(outcomes)) as runlog:
        for outcome in outcomes:
            runlog.note(outcome, SlideEntry(path, outcome.slide_id))


def runlogs(out: Path) -> list[Path]:
    return sorted((out / "runlog").iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    keep(tmp_path, Outcome("a", "ok", "7 patches", seconds=1.5), Outcome("ü", "failed", "no"))
    (run,) = read_runlogs(tmp_path)
    assert run.start["command"] == "tile"
    assert run.start["milpath"] == __version__
    assert run.start["params"] == {"grid": {"mpp": 0.5}}
    assert [(line["slide"], line["status"]) for line in run.slides] == [
        ("a", "ok"),
        ("ü", "failed"),
    ]
    assert run.count() == {"ok": 1, "failed": 1}
    assert run.how == "done"


def test_an_error_that_ends_the_run_is_its_end(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_runlog(tmp_path, "tile", {}, 1):
        raise KeyboardInterrupt
    (run,) = read_runlogs(tmp_path)
    assert run.how == "ended by KeyboardInterrupt"


def test_the_table_holds_the_last_word_on_every_slide_over_all_runs(tmp_path: Path) -> None:
    keep(tmp_path, Outcome("a", "ok", "7 patches"), Outcome("b", "failed", "torn"))
    keep(tmp_path, Outcome("a", "skipped", "done before"), Outcome("b", "no_tissue", "none"))
    rows = {row["slide"]: row for row in tabulate_slides(read_runlogs(tmp_path))}
    assert (rows["a"]["status"], rows["a"]["message"], rows["a"]["runs"]) == ("ok", "7 patches", 2)
    assert (rows["b"]["status"], rows["b"]["message"]) == ("no_tissue", "none")


def test_a_torn_line_and_what_is_no_record_are_passed_over(tmp_path: Path) -> None:
    keep(tmp_path, Outcome("a", "ok", "x"))
    (path,) = runlogs(tmp_path)
    start, slide, _ = path.read_bytes().splitlines(keepends=True)
    odd = b'[1]\nnull\n{"event": "slide"}\n{"event": {}}\n' + b"[" * 10_000 + b"\n\xff\n"
    for cut in range(1, len(slide)):
        path.write_bytes(start + odd + slide[:-cut])
        (run,) = read_runlogs(tmp_path)
        assert len(run.slides) == (cut == 1)
        assert run.how.startswith("no end")
    path.write_bytes(odd)
    with pytest.raises(StoredFileError, match="holds no runlog"):
        read_runlogs(tmp_path)


def test_two_runs_in_one_second_keep_a_journal_each(tmp_path: Path) -> None:
    for name in "abc":
        keep(tmp_path, Outcome(name, "ok", "x"))
    assert len(runlogs(tmp_path)) == len(read_runlogs(tmp_path)) == 3


def test_no_path_nor_file_name_nor_an_unexpected_error_s_text_is_written(tmp_path: Path) -> None:
    keep(
        tmp_path,
        Outcome("s1", "failed", f"{SECRET.name}: the file is empty; {SECRET} is"),
        Outcome("s2", "failed", "s2: unexpected OSError: in JANE", {"unexpected": "OSError"}),
    )
    text = runlogs(tmp_path)[0].read_text()
    assert "s1: the file is empty; s1 is" in text
    assert "unexpected OSError" in text
    for word in ("JANE", "1961", "archive", str(tmp_path), os.uname().nodename):
        assert word not in text


@pytest.mark.parametrize("failing", ["open", "write"])
def test_a_full_disk_costs_the_journal_and_not_the_run(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, refuse)
    keep(tmp_path, Outcome("a", "ok", "x"), Outcome("b", "ok", "x"))
    assert caplog.text.count("the runlog cannot be written (No space left on device)") == 1


def test_a_line_that_was_taken_in_part_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    with open_runlog(tmp_path, "tile", {}, 2) as runlog:
        monkeypatch.setattr(os, "write", lambda number, data: real(number, data[:5]))
        runlog.note(Outcome("a", "ok", "x"), SlideEntry(SECRET, "a"))
        monkeypatch.undo()
        runlog.note(Outcome("b", "ok", "x"), SlideEntry(SECRET, "b"))
    (run,) = read_runlogs(tmp_path)
    assert run.slides == ()
    assert json.loads(runlogs(tmp_path)[0].read_text().splitlines()[0])["event"] == "start"
