"""How a run over slides starts, is previewed, is stopped, and ends."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from support.farm import wait_for

from milpath.cli.ending import STOPPED
from milpath.cli.runs import handle_sigterm
from milpath.cohort.workitem import WorkItem
from milpath.errors import OutputError
from milpath.runs import Outcome, RequireFolder, run_job
from milpath.runs.runlog import read_runlogs
from milpath.store import publish_text
from milpath.store.temporary import remove_stale_temps
from milpath.synthetic import draw_slide

OPTIONS = ("--mpp", "1", "--patch-size", "64")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slides in a folder, and a file that is not a slide."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(6):
        draw_slide(folder / f"s{number}.tif", seed=number, tumour=False, size_px=(512, 512))
    (folder / "torn.svs").write_text("not a slide")
    return folder


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "milpath", *map(str, words)]


def milpath(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, check=False)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "bags"
    run = milpath("tile", slides, "--out", out, *OPTIONS, "--dry-run")
    assert run.returncode == 3
    assert len(re.findall(r"would be tiled: \d+ patches, about \d+", run.stdout)) == 6
    assert "6 slides in all: " in run.stdout
    assert "failed: torn.svs" in run.stderr
    assert run.stderr.endswith("tile, dry run: 6 to do, 1 failed\n")
    assert not list(tmp_path.iterdir())
    milpath("tile", slides / "s0.tif", "--out", out, *OPTIONS)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    some = [slides / "s0.tif", slides / "s1.tif"]
    run = milpath("tile", *some, "--out", out, *OPTIONS, "--dry-run")
    assert run.returncode == 0
    assert "s0: would be skipped: " in run.stdout
    run = milpath("tile", *some, "--out", out, "--mpp", "2", "--patch-size", "64", "--dry-run")
    assert "s0: would be re-tiled: grid.mpp changed from 1.0 to 2.0" in run.stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_report_reads_the_run_logs_only(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "bags"
    for some in ("s0.tif", "torn.svs"):
        milpath("tile", slides / some, "--out", out, *OPTIONS)
    for path in out.glob("*.h5"):
        path.unlink()
    run = milpath("report", out, "--table", tmp_path / "a.csv", "--json")
    assert run.returncode == 0
    assert [json.loads(line)["status"] for line in run.stdout.splitlines()] == ["ok", "failed"]
    assert len(run.stderr.splitlines()) == 2
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["slide"] for row in rows] == ["s0", "torn"]
    assert milpath("report", slides).returncode == 4
    assert milpath("report", tmp_path / "missing").returncode == 2


@pytest.mark.slow
def test_order_workers_and_a_resumed_run_keep_every_byte(slides: Path, tmp_path: Path) -> None:
    sound = sorted(slides.glob("*.tif"))[:4]
    milpath("tile", *sound, "--out", tmp_path / "one", *OPTIONS, "-w", "1")
    milpath("tile", sound[3], sound[1], "--out", tmp_path / "two", *OPTIONS, "-w", "1")
    milpath("tile", *sound[::-1], "--out", tmp_path / "two", *OPTIONS, "-w", "2")
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("s*.*")}
        for name in ("one", "two")
    )
    assert one == two
    assert len(one) == 8


# -- SIGTERM ---------------------------------------------------------------------------


def stop_after_first(slides: Path, out: Path, workers: int) -> tuple[int, list[str], str]:
    """Tile, with SIGTERM to all of the job's processes after the first slide."""
    words = command("tile", slides, "--out", out, *OPTIONS, "--json", "-w", str(workers))
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        first = run.stdout.readline()
        os.killpg(run.pid, signal.SIGTERM)
        lines = [first, *run.stdout]
        said = run.stderr.read()
    return run.returncode, [json.loads(line)["slide_id"] for line in lines], said


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm_finishes_the_current_slides_and_starts_no_others(
    slides: Path, tmp_path: Path, workers: int
) -> None:
    code, done, said = stop_after_first(slides, tmp_path, workers)
    assert code == STOPPED == 143
    assert 1 <= len(done) <= 1 + 2 * workers < 7
    assert {path.stem for path in tmp_path.glob("*.h5")} == {*done} - {"torn"}
    assert not list(tmp_path.rglob("*.part"))
    assert said.endswith("milpath: stopped; the files that were finished are kept\n")
    (run,) = read_runlogs(tmp_path)
    assert (run.how, run.state) == ("stopped by SIGTERM", "finished")
    assert [line.slide for line in run.slides] == done


def test_a_second_sigterm_exits_immediately() -> None:
    with handle_sigterm() as requested:
        assert not requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert requested()
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), signal.SIGTERM)
    assert end.value.code == STOPPED


def test_sigterm_outside_a_run_exits_as_ctrl_c_does(tmp_path: Path) -> None:
    code = (
        "import sys, time, milpath.cli as cli\n"
        "cli.app = lambda **_: (print('here', flush=True), time.sleep(60))\n"
        "cli.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.readline()
        run.terminate()
        assert run.stderr.read() == "milpath: stopped; the files that were finished are kept\n"
    assert run.returncode == STOPPED


# -- Ctrl-C -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_ctrl_c_however_often_ends_the_command_once(
    slides: Path, tmp_path: Path, workers: int, seed: int
) -> None:
    random = Random(seed)
    words = command("tile", slides, "--out", tmp_path, "--mpp", "1", "--patch-size", "16")
    with subprocess.Popen(
        [*words, "-w", str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a background process of a shell ignores Ctrl-C by default
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as run:
        assert run.stdout is not None
        if random.random() < 0.7:  # else it may still start its processes
            run.stdout.readline()
        else:
            wait_for(lambda: any(tmp_path.glob("runlog/*")))
        for _ in range(random.randint(2, 5)):
            os.killpg(run.pid, signal.SIGINT)
            time.sleep(random.choice([0, 0.001, 0.02]) * random.random())
        said = run.communicate(timeout=30)[1]
    assert run.returncode == 130
    assert said.endswith("milpath: interrupted; the files that were finished are kept\n")
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    wait_for(lambda: not living_processes(run.pid))
    remove_stale_temps(tmp_path)  # as the next run does, of a file that was just being created
    assert not list(tmp_path.rglob("*.part"))
    (found,) = read_runlogs(tmp_path)
    assert found.how == "ended by KeyboardInterrupt"


def living_processes(group: int) -> list[str]:
    """States of the processes of a group that have not ended."""
    listed = subprocess.run(
        ["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True
    )
    states = [line.split() for line in listed.stdout.splitlines()]
    return [state for each, state in states if int(each) == group and not state.startswith("Z")]


def test_a_second_ctrl_c_does_not_disturb_the_end_that_the_first_began() -> None:
    code = (
        "import signal, milpath.cli as cli\n"
        "def app(**_):\n"
        "    try: signal.raise_signal(signal.SIGINT)\n"
        "    finally:\n"
        "        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):\n"
        "            signal.raise_signal(number)\n"
        "        print('cleaned up')\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "cli.app = app\n"
        "cli.main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 130
    assert run.stderr == "milpath: interrupted; the files that were finished are kept\n"
    assert run.stdout == "cleaned up\n"


def test_ctrl_c_that_python_cannot_raise_ends_the_command_nevertheless() -> None:
    code = (
        "import os, signal, time, milpath.cli as cli\n"
        "class Closing:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.01)\n"
        "def app(**_):\n"
        "    for _ in range(500):\n"
        "        Closing()\n"
        "        time.sleep(0.01)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "cli.app = app\n"
        "cli.main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 130
    assert run.stderr == "milpath: interrupted; the files that were finished are kept\n"


def test_a_command_that_ignores_ctrl_c_ends_nevertheless() -> None:
    code = (
        "import signal, threading, time, milpath.cli as cli, milpath.cli.ending as ending\n"
        "ending._END_SECONDS = 0.5\n"
        "def app(**_):\n"
        "    threading.Thread(target=time.sleep, args=[600]).start()\n"
        "    try: signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt: time.sleep(600)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "cli.app = app\n"
        "cli.main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 130
    assert run.stderr == "milpath: interrupted; the files that were finished are kept\n"


# -- folders that vanish -----------------------------------------------------------------------


def test_a_folder_that_vanishes_stops_the_run_although_it_is_created_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mark = out / "mark"

    def job(item: WorkItem) -> Outcome:
        if item.slide_id == "b":
            shutil.rmtree(out)
            publish_text(out / "b", "written later")
        return Outcome(item.slide_id, "ok", "done")

    items = [WorkItem(Path(name), name) for name in "abc"]
    mark.touch()
    run = run_job(RequireFolder(job, out, mark), items)
    assert next(run).slide_id == "a"
    with pytest.raises(OutputError, match="the folder of results is gone"):
        next(run)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_under_worker_processes_is_one_line_and_exit_5(
    slides: Path, tmp_path: Path
) -> None:
    import resource

    milpath("tile", slides / "s0.tif", "--out", tmp_path, *OPTIONS)
    kept = (tmp_path / "s0.h5").read_bytes()
    run = subprocess.run(
        command("tile", slides, "--out", tmp_path, *OPTIONS, "-w", "2"),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )
    assert run.returncode == 5
    assert run.stderr.count("milpath: ") == 1
    assert "(File too large); nothing was left" in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.rglob("*.part"))
    assert (tmp_path / "s0.h5").read_bytes() == kept
    assert read_runlogs(tmp_path)[-1].how == "ended by OutputError"


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_5_before_any_work(
    slides: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file")
    for extra in ((), ("--dry-run",)):
        run = milpath("tile", slides, "--out", tmp_path / "out", *OPTIONS, *extra)
        assert run.returncode == 5
        assert run.stderr.count("\n") == 1
        assert "results cannot be written there" in run.stderr
        assert run.stdout == ""  # no slide was worked on
