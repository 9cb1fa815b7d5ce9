"""A failed slide does not affect the others, in this process and in others."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import pickle
import subprocess
import sys
import threading
import weakref
from functools import partial
from pathlib import Path

import pytest
from support.farm import Letters, entries, kill_victim, note_and_work, summary, work

from milpath.cohort.workitem import WorkItem
from milpath.errors import OutputError, UsageError
from milpath.runs import Inline, Outcome, Processes, choose_local, run_job

WORKERS = pytest.mark.parametrize(
    "workers", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["inline", "processes"]
)


@WORKERS
def test_a_failing_slide_does_not_stop_the_others(
    workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "milpath.runs.outcome")
    found = list(run_job(partial(work, mark="!"), entries("a", "bad", "b", "bug", "c"), workers))
    assert len(found) == 5
    assert summary(found) == {
        "a": ("ok", "done!"),
        "bad": ("failed", "bad: cannot be read"),
        "b": ("ok", "done!"),
        "bug": ("failed", r"bug: unexpected KeyError: 'two\nlines'"),
        "c": ("ok", "done!"),
    }
    assert all(one.seconds >= 0 for one in found)
    assert [one.facts for one in found if one.slide_id == "a"] == [Letters(1)]


def test_reference_cycles_are_collected_every_few_slides() -> None:
    alive: weakref.WeakSet[Cycle] = weakref.WeakSet()

    def job(entry: WorkItem) -> Outcome:
        alive.add(Cycle())
        return Outcome(entry.slide_id, "ok", "")

    gc.disable()  # stands for Python's rare collections when there are a million other objects
    try:
        most = max(len(alive) for _ in run_job(job, entries(*(f"s{n}" for n in range(50)))))
    finally:
        gc.enable()
    assert most <= 16


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_an_unexpected_error_is_one_line_and_its_traceback_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def job(_: WorkItem) -> Outcome:
        raise ValueError("first\n  second")

    (found,) = run_job(job, entries("a"))
    assert found.message == "a: unexpected ValueError: first second"
    assert "Traceback" in caplog.text


@WORKERS
def test_a_result_that_cannot_be_written_stops_the_run(workers: int) -> None:
    with pytest.raises(OutputError, match="full: cannot be written"):
        list(run_job(work, entries("full", "a"), workers))


def test_inline_outcomes_come_as_they_are_made() -> None:
    started: list[str] = []

    def job(entry: WorkItem) -> Outcome:
        started.append(entry.slide_id)
        return work(entry)

    run = run_job(job, entries("a", "b"))
    assert next(run).slide_id == "a"
    assert started == ["a"]


def test_no_slides_give_no_outcomes() -> None:
    assert list(run_job(work, [], 1)) == list(run_job(work, [], 4)) == []


@pytest.mark.slow
def test_a_worker_that_dies_fails_only_its_slide() -> None:
    found = summary(list(run_job(work, entries("a", "die", "b", "c"), 2)))
    assert found["die"][0] == "failed"
    assert "its worker process died" in found["die"][1]
    assert [found[name] for name in ("a", "b", "c")] == [("ok", "done")] * 3


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_slide_that_takes_too_long_fails_alone(workers: int) -> None:
    names = ["hang", "a", "hang2", "bad", "b"]
    backend = choose_local(workers, len(names), timeout=2.0)
    found = {one.slide_id: one for one in run_job(work, entries(*names), backend)}
    for name in ("hang", "hang2"):
        assert found[name].status == "failed"
        assert found[name].message.startswith(f"{name}: took longer than --slide-timeout 2 s")
        assert found[name].seconds == 2
    assert found["bad"].message == "bad: cannot be read"
    assert [found[name].status for name in "ab"] == ["ok", "ok"]
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_run_that_is_given_up_leaves_no_process() -> None:
    run = run_job(work, entries("hang", "a", "b"), 2)
    assert next(run).slide_id == "a"
    assert len(multiprocessing.active_children()) == 2
    run.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_job_that_cannot_be_pickled_raises() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        list(run_job(lambda entry: work(entry), entries("a", "b"), 2))


@pytest.mark.slow
def test_the_slide_of_a_killed_worker_is_retried(tmp_path: Path) -> None:
    names = ["a", "b", "victim", "c", "d"]
    killer = threading.Thread(target=kill_victim, args=[tmp_path])
    killer.start()
    found = summary(list(run_job(partial(note_and_work, notes=tmp_path), entries(*names), 2)))
    killer.join()
    assert found == dict.fromkeys(names, ("ok", "done"))
    assert len(list(tmp_path.glob("victim.*"))) == 2


@WORKERS
def test_a_usage_error_stops_the_run(workers: int) -> None:
    with pytest.raises(UsageError, match="no such model"):
        list(run_job(misuse, entries("a", "b"), workers))


def misuse(entry: WorkItem) -> Outcome:
    raise UsageError("no such model")


def test_no_more_processes_are_used_than_there_are_slides() -> None:
    assert choose_local(4, 9, processors=8) == Processes(4, threads=2)
    assert choose_local(4, 1, processors=8) == choose_local(1, 9, 8) == Inline(threads=8)
    assert choose_local(4, 2, processors=2) == Processes(2, threads=1)
    assert choose_local(4, 0) == Inline()
    assert choose_local(1, 9, 8, timeout=60.0) == Processes(1, threads=8, timeout=60.0)


def test_local_backends_do_not_import_dask() -> None:
    code = "import sys, milpath.runs; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"distributed", "dask"} & set(run.stdout.split())
