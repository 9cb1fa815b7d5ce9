"""A Dask cluster does what one process does, also when its workers are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from distributed import Client
from support.farm import (
    Farm,
    Letters,
    count_tasks,
    entries,
    kill_victim,
    note_and_work,
    open_farm,
    python_path,
    summary,
    wait_for,
    work,
)

from milpath import __version__
from milpath.cohort.cohort import SlideEntry
from milpath.cohort.workitem import WorkItem
from milpath.errors import MilpathError, OutputError, UsageError
from milpath.runs import Outcome, run_job
from milpath.runs.cluster import (
    WorkerRequirements,
    _check_workers,
    _sample_files,
    check_worker,
    join_cluster,
)
from milpath.runs.runlog import read_runlogs
from milpath.slides.annotation import Polygon, write_annotation
from milpath.synthetic import draw_slide

pytestmark = pytest.mark.slow
OPTIONS = ("--mpp", "1", "--patch-size", "64")


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """Two workers with one thread each."""
    with open_farm(tmp_path_factory.mktemp("farm"), workers=2) as made:
        yield made


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in range(6):
        draw_slide(folder / f"s{number}.tif", seed=number, tumour=False, size_px=(512, 512))
    return folder


def milpath(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "milpath", *map(str, arguments)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too, except run logs."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "runlog"
    }


def pid_of_a_worker(farm: Farm) -> int:
    with Client(scheduler_file=str(farm.file), set_as_default=False) as client:
        pids: dict[str, int] = client.run(os.getpid)
    return min(pids.values())


# -- slides --------------------------------------------------------------------------------------


def test_outcomes_and_warnings_are_those_of_this_process(
    farm: Farm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a", "bad", "b", "bug", "c"]
    with join_cluster(str(farm.file), tmp_path, []) as cluster:
        found = list(run_job(partial(work, mark="!"), entries(*names), cluster))
    assert summary(found) == summary(list(run_job(partial(work, mark="!"), entries(*names))))
    assert [one.facts for one in found if one.slide_id == "a"] == [Letters(1)]
    assert caplog.text.count("unexpected error on bug") == 2
    assert not list(tmp_path.iterdir())


def test_only_the_slide_of_a_killed_worker_is_retried(farm: Farm, tmp_path: Path) -> None:
    names = [*(f"a{number}" for number in range(12)), "victim"]
    notes = tmp_path / "notes"
    notes.mkdir()
    with join_cluster(str(farm.file), tmp_path / "out", []) as cluster:
        run = run_job(partial(note_and_work, notes=notes), entries(*names), cluster)
        outcomes = [next(run) for _ in names[1:]]
        with Client(scheduler_file=str(farm.file), set_as_default=False) as client:
            # a result that is not released yet would be computed again
            wait_for(lambda: client.run_on_scheduler(count_tasks) == 1)
        kill_victim(notes)
        found = summary([*outcomes, *run])
    assert found == dict.fromkeys(names, ("ok", "done"))
    started = {name: len(list(notes.glob(f"{name}.*"))) for name in names}
    assert started == {**dict.fromkeys(names, 1), "victim": 2}


def test_a_slide_that_kills_every_worker_fails_alone(farm: Farm, tmp_path: Path) -> None:
    names = ["a", "die", "b", "c", "d"]
    with join_cluster(str(farm.file), tmp_path, []) as cluster:
        found = summary(list(run_job(work, entries(*names), cluster)))
    assert found.pop("die")[0] == "failed"
    assert found == dict.fromkeys("abcd", ("ok", "done"))


def test_a_slide_that_takes_too_long_fails_alone(farm: Farm, tmp_path: Path) -> None:
    names = ["hang", "a", "b", "bad", "c"]
    with join_cluster(str(farm.file), tmp_path, [], timeout=2.0) as cluster:
        found = summary(list(run_job(work, entries(*names), cluster)))
    status, message = found.pop("hang")
    assert status == "failed"
    assert message.startswith("hang: took longer than --slide-timeout 2 s")
    assert found.pop("bad") == ("failed", "bad: cannot be read")
    assert found == dict.fromkeys("abc", ("ok", "done"))
    assert not list(tmp_path.iterdir())


def test_a_result_that_cannot_be_written_stops_the_run(farm: Farm, tmp_path: Path) -> None:
    with (
        join_cluster(str(farm.file), tmp_path, []) as cluster,
        pytest.raises(OutputError, match="full: cannot be written"),
    ):
        list(run_job(work, entries("full", "a"), cluster))


def test_bags_are_byte_identical_although_a_worker_is_killed(
    farm: Farm, slides: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    subprocess.run(milpath("tile", slides, "--out", here, "-w", "1", *OPTIONS), check=True)
    victim = pid_of_a_worker(farm)
    command = milpath("tile", slides, "--out", there, "--scheduler", farm.file, "--json", *OPTIONS)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        first = run.stdout.readline()
        os.kill(victim, signal.SIGKILL)
        outcomes = [json.loads(line) for line in (first, *run.stdout)]
    assert run.returncode == 0
    assert sorted(one["slide_id"] for one in outcomes) == [f"s{number}" for number in range(6)]
    found = contents(there)
    assert {name for name in found if not name.endswith(".part")} == set(contents(here))
    assert {name: found[name] for name in contents(here)} == contents(here)


def test_annotations_with_relative_paths_are_found_by_workers(
    farm: Farm, slides: Path, tmp_path: Path
) -> None:
    (tmp_path / "drawn").mkdir()
    for number in range(2):
        ring = np.array([[0.0, 0.0], [300.0, 0.0], [300.0, 300.0 + number]])
        write_annotation(tmp_path / "drawn" / f"s{number}.geojson", [Polygon(ring)])
    given = [
        slides / "s0.tif",
        slides / "s1.tif",
        "--tissue-annotations",
        "drawn",
        "--json",
        *OPTIONS,
    ]
    for place in (["here", "-w", "1"], ["there", "--scheduler", farm.file]):
        command = milpath("tile", *given, "--out", *place)
        subprocess.run(command, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len(contents(tmp_path / "here")) == 4


def test_predictions_are_equal_within_rounding(farm: Farm, slides: Path, tmp_path: Path) -> None:
    from support.nn_tools import make_bundle, raw_tile
    from support.results import require_equal_predictions

    from milpath.nn.jobs import ClassifyJob

    spec = make_bundle(tmp_path / "model", members=2, tile=raw_tile(32)).spec
    some = [SlideEntry(slides / f"s{number}.tif", f"s{number}") for number in range(3)]
    here, there = tmp_path / "here", tmp_path / "there"
    inline = list(run_job(ClassifyJob(tmp_path / "model", spec.fingerprint, here), some))
    with join_cluster(str(farm.file), there, [tmp_path / "model" / "model.json"]) as cluster:
        job = ClassifyJob(tmp_path / "model", spec.fingerprint, there, cluster.threads)
        found = list(run_job(job, some, cluster))
    assert {one.status for one in [*found, *inline]} == {"ok"}
    assert set(contents(there)) == set(contents(here))
    assert len(contents(here)) == 6
    require_equal_predictions(here, there)


def test_ctrl_c_cancels_slides_that_are_not_started(farm: Farm, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    code = (
        # a background process of a shell ignores Ctrl-C by default
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from functools import partial; from pathlib import Path; from support.farm import *\n"
        "from milpath.runs import run_job; from milpath.runs.cluster import join_cluster\n"
        f"notes, names = Path({str(notes)!r}), [f's{{n}}' for n in range(2000)]\n"
        f"with join_cluster({str(farm.file)!r}, notes.parent / 'out', []) as cluster:\n"
        "    list(run_job(partial(note_and_work, notes=notes), entries(*names), cluster))\n"
    )
    env = {**os.environ, "PYTHONPATH": python_path()}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE) as run:
        wait_for(lambda: any(notes.glob("s9.*")))
        run.send_signal(signal.SIGINT)
        assert run.wait(30) != 0
    with Client(scheduler_file=str(farm.file), set_as_default=False) as client:
        wait_for(lambda: not client.run_on_scheduler(count_tasks))
    assert len(list(notes.iterdir())) < 1000
    assert not list((tmp_path / "out").iterdir())


def test_a_stop_starts_no_further_slides(farm: Farm, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    names = [f"s{number}" for number in range(500)]
    found: list[str] = []
    with join_cluster(str(farm.file), tmp_path / "out", []) as cluster:
        job = partial(note_and_work, notes=notes)
        for outcome in run_job(job, entries(*names), cluster, lambda: len(found) >= 3):
            found.append(outcome.slide_id)
    assert len(found) == 3
    with Client(scheduler_file=str(farm.file), set_as_default=False) as client:
        wait_for(lambda: not client.run_on_scheduler(count_tasks))
    assert len(list(notes.iterdir())) < 100
    assert not list((tmp_path / "out").iterdir())


# -- the cluster ---------------------------------------------------------------------------------


def test_slides_wait_for_a_worker_until_the_scheduler_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    farm = Farm(tmp_path)
    try:
        with join_cluster(str(farm.file), tmp_path / "out", []) as cluster:
            assert "no worker is connected to the scheduler yet" in caplog.text
            threading.Timer(1, farm.scheduler.kill).start()
            with pytest.raises(MilpathError, match="scheduler has ended, or was restarted; fini"):
                list(run_job(work, entries("a", "b"), cluster))
    finally:
        farm.stop()
    assert not list((tmp_path / "out").iterdir())


def test_a_run_whose_scheduler_ends_exits_as_one_of_which_some_slides_failed(
    slides: Path, tmp_path: Path
) -> None:
    with open_farm(tmp_path, workers=1) as farm:
        out = tmp_path / "out"
        words = ["--mpp", "1", "--patch-size", "16", "--out", out, "--scheduler", farm.file]
        command = milpath("tile", slides, *words)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as run:
            assert run.stdout is not None
            run.stdout.readline()
            farm.scheduler.kill()
            said = run.communicate()[1]
    assert run.returncode == 3
    assert said.endswith("finished results are kept, run the same command again\n")
    assert "Traceback" not in said
    assert 1 <= len(list(out.glob("*.h5"))) < 6
    assert not list(out.glob(".*"))
    (found,) = read_runlogs(out)
    assert found.how == "ended by MilpathError"


def test_packages_that_differ_are_one_line(farm: Farm, tmp_path: Path) -> None:
    with (
        join_cluster(str(farm.file), tmp_path, []) as cluster,
        pytest.raises(MilpathError, match=r"the cluster could not run .*; install the same"),
    ):
        list(run_job(Missing(), entries("a"), cluster))


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        ("here", "neither an address"),
        ("tcp://127.0.0.1:1", "no Dask scheduler answers"),
        ("nonsense://x", "no Dask scheduler answers"),
    ],
)
def test_a_missing_scheduler_raises_one_line(
    scheduler: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milpath.runs.cluster._CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(UsageError, match=words),
        join_cluster(scheduler, tmp_path, []),
    ):
        pass


# -- TLS -----------------------------------------------------------------------------------------


def make_certificate(folder: Path) -> dict[str, str]:
    """Make an authority and a certificate of it; return Dask's settings for a client."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command, which makes the certificates")
    folder.mkdir()
    new = ["-newkey", "rsa:2048", "-nodes"]
    sign = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
    for words in (
        ["req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority"],
        ["req", *new, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=node"],
        ["x509", "-req", "-in", "node.csr", *sign, "-out", "node.pem"],
    ):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)
    name = "DASK_DISTRIBUTED__COMM__TLS__"
    return {
        f"{name}CA_FILE": str(folder / "ca.pem"),
        f"{name}CLIENT__CERT": str(folder / "node.pem"),
        f"{name}CLIENT__KEY": str(folder / "node.key"),
    }


def test_a_tls_cluster_takes_its_own_certificates_and_no_others(
    slides: Path, tmp_path: Path
) -> None:
    ours, others = make_certificate(tmp_path / "ours"), make_certificate(tmp_path / "others")
    ca, cert, key = ours.values()
    options = ["--protocol", "tls", "--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key]
    farm = Farm(tmp_path, options)
    try:
        farm.add_worker()
        address = json.loads(farm.file.read_text())["address"]
        assert address.startswith("tls://")

        def tile(scheduler: str | Path, settings: dict[str, str]) -> tuple[int, str]:
            words = [slides / "s0.tif", slides / "s1.tif", *OPTIONS, "--out", tmp_path / "out"]
            run = subprocess.run(
                milpath("tile", *words, "--scheduler", scheduler),
                env={**os.environ, **settings},
                capture_output=True,
                text=True,
                check=False,
            )
            return run.returncode, run.stderr

        mixed = {**ours, **dict(list(others.items())[1:])}
        missing = {**ours, "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": str(tmp_path / "none")}
        for settings, words in (
            (others, "no Dask scheduler answers"),
            (mixed, "no Dask scheduler answers"),
            (missing, "set DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY to a readable PEM file (it is"),
            ({}, "set DASK_DISTRIBUTED__COMM__TLS__CA_FILE to a readable PEM file (it is not set)"),
        ):
            code, said = tile(address, settings)
            assert (code, said.count("\n")) == (2, 1)
            assert words in said
        assert not (tmp_path / "out").exists()
        code, said = tile(address, ours)
        assert code == 0
        assert said.endswith("tile: 2 done\n")
        code, said = tile(farm.file, ours)
        assert said.endswith("tile: 2 skipped\n")
        assert tile(farm.file, {})[0] == 2
        code, said = tile(address.replace("tls:", "tcp:"), ours)
        assert (code, said.count("\n")) == (2, 1)
    finally:
        farm.stop()


# -- what workers need ---------------------------------------------------------------------------


def test_a_worker_of_several_threads_raises(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="runs 2 tasks at a time in one process, expected 1; sta"):
        check_worker(requirements_of(tmp_path), worker(threads=2))


def test_a_worker_without_nanny_raises_where_slow_slides_end_it(tmp_path: Path) -> None:
    requirements = WorkerRequirements(__version__, tmp_path, (), timeout=60.0)
    assert check_worker(requirements, worker()) >= 1
    with pytest.raises(UsageError, match="w1 has no nanny, which replaces it"):
        check_worker(requirements, worker(nanny=None))


def test_a_worker_with_different_files_raises(tmp_path: Path) -> None:
    slide = tmp_path / "a.svs"
    slide.write_text("a slide")
    files = _sample_files([slide, tmp_path / "b.svs"])
    assert files == ((slide, 7),)
    assert check_worker(requirements_of(tmp_path, files), worker()) >= 1
    with pytest.raises(
        UsageError, match=r"w1 cannot access .*a\.svs, or has a different one; slides and res"
    ):
        check_worker(requirements_of(tmp_path, ((slide, 8),)), worker())
    with pytest.raises(
        UsageError, match=r"w1 cannot access .*; slides and results must have the same"
    ):
        check_worker(requirements_of(tmp_path / "elsewhere"), worker())


def test_a_worker_of_another_version_raises(tmp_path: Path) -> None:
    requirements = WorkerRequirements("0.0.0", tmp_path, ())
    with pytest.raises(UsageError, match=f"w1 has milpath {__version__}, expected 0.0.0"):
        check_worker(requirements, worker())


@pytest.mark.parametrize(
    ("scheduler", "other", "words"),
    [("1", "2", "w1 has milpath 2 inst"), (None, "1", "the scheduler has milpath not installed")],
)
def test_another_version_raises_before_the_start(
    scheduler: str | None, other: str, words: str, tmp_path: Path
) -> None:
    versions = {
        "client": {"packages": {"milpath": "1"}},
        "scheduler": {"packages": {"milpath": scheduler}},
        "workers": {"w1": {"packages": {"milpath": other}}},
    }
    client: Any = SimpleNamespace(get_versions=lambda packages: versions)
    with pytest.raises(UsageError, match=words):
        _check_workers(client, requirements_of(tmp_path))


def test_at_most_a_hundred_files_are_checked_one_per_folder(tmp_path: Path) -> None:
    files = [tmp_path / f"{number // 2:03d}" / f"{number}.svs" for number in range(500)]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    asked = _sample_files(files)
    assert 50 < len(asked) <= 100
    assert len({file.parent for file, _ in asked}) == len(asked)


class Missing:
    """A job that a worker cannot unpickle."""

    def __call__(self, item: WorkItem) -> Outcome:
        raise AssertionError

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (WorkItem, "missing")


def requirements_of(folder: Path, files: tuple[tuple[Path, int], ...] = ()) -> WorkerRequirements:
    return WorkerRequirements(__version__, folder, files)


def worker(threads: int = 1, nanny: str | None = "n1") -> Any:
    """As much of a Dask worker as is asked."""
    return SimpleNamespace(address="w1", state=SimpleNamespace(nthreads=threads), nanny=nanny)
