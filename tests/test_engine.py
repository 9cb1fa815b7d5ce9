"""One slide's failure is its own, in this process and in others."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from milpath.cohort import SlideEntry
from milpath.engine import Outcome, run_job
from milpath.errors import OutputError, SlideReadError

WORKERS = pytest.mark.parametrize(
    "workers", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["inline", "processes"]
)


def entries(*names: str) -> list[SlideEntry]:
    return [SlideEntry(Path(name), name) for name in names]


def work(entry: SlideEntry, mark: str = "") -> Outcome:
    """A job whose slides do as they are called; at the top level, so that it can be pickled."""
    name = entry.slide_id
    if name.startswith("bad"):
        raise SlideReadError(f"{name}: cannot be read")
    if name.startswith("bug"):
        raise KeyError("two\nlines")
    if name.startswith("full"):
        raise OutputError(f"{name}: cannot be written")
    if name.startswith("die"):
        os._exit(9)
    return Outcome(name, "ok", f"done{mark}", {"letters": len(name)})


def told(found: Sequence[Outcome]) -> dict[str, tuple[str, str]]:
    return {one.slide_id: (one.status, one.message) for one in found}


@WORKERS
def test_a_failing_slide_does_not_stop_the_others(workers: int) -> None:
    logging.getLogger("milpath.engine").setLevel(logging.CRITICAL)
    found = list(run_job(partial(work, mark="!"), entries("a", "bad", "b", "bug", "c"), workers))
    assert len(found) == 5
    assert told(found) == {
        "a": ("ok", "done!"),
        "bad": ("failed", "bad: cannot be read"),
        "b": ("ok", "done!"),
        "bug": ("failed", r"bug: unexpected KeyError: 'two\nlines'"),
        "c": ("ok", "done!"),
    }
    assert all(one.seconds >= 0 for one in found)
    assert [one.facts for one in found if one.slide_id == "a"] == [{"letters": 1}]


def test_an_unexpected_error_is_told_in_one_line_and_logged_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def job(_: SlideEntry) -> Outcome:
        raise ValueError("first\n  second")

    logging.getLogger("milpath.engine").setLevel(logging.NOTSET)
    (found,) = run_job(job, entries("a"))
    assert found.message == "a: unexpected ValueError: first second"
    assert "Traceback" in caplog.text


@WORKERS
def test_a_result_that_cannot_be_written_stops_the_run(workers: int) -> None:
    with pytest.raises(OutputError, match="full: cannot be written"):
        list(run_job(work, entries("full", "a"), workers))


def test_inline_outcomes_come_as_they_are_made() -> None:
    started: list[str] = []

    def job(entry: SlideEntry) -> Outcome:
        started.append(entry.slide_id)
        return work(entry)

    run = run_job(job, entries("a", "b"))
    assert next(run).slide_id == "a"
    assert started == ["a"]


def test_no_slides_are_no_outcomes() -> None:
    assert list(run_job(work, [], 1)) == list(run_job(work, [], 4)) == []


@pytest.mark.slow
def test_a_worker_that_dies_costs_only_its_own_slide() -> None:
    found = told(list(run_job(work, entries("a", "die", "b", "c"), 2)))
    assert found["die"][0] == "failed"
    assert "its worker process died" in found["die"][1]
    assert [found[name] for name in ("a", "b", "c")] == [("ok", "done")] * 3


@pytest.mark.slow
def test_a_job_that_cannot_be_sent_is_a_bug_and_says_so() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        list(run_job(lambda entry: work(entry), entries("a", "b"), 2))
