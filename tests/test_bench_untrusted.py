"""Hostile files and malformed slides end as they should: here some, in the long form all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from support.untrusted.hdf5 import hdf5_cases
from support.untrusted.slides import slide_cases
from support.untrusted.texts import text_cases
from support.untrusted.watch import Case, watch

from milpath.errors import UsageError

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "bench_untrusted.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")


@pytest.mark.slow
def test_no_stranger_s_file_ends_in_anything_but_a_line_or_success() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    told = {line["figure"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert set(told) == {
        *("hdf5", "texts", "slides", "tile zlib", "tile jpeg"),
        *("damage bag", "damage prediction", "damage weights"),
    }
    assert all(line["bad"] == 0 for line in told.values())
    assert min(told["slides"]["refused"], told["slides"]["accepted"]) > 2


def test_there_are_as_many_files_as_are_told_and_no_two_of_one_name() -> None:
    names = [case.name for cases in (hdf5_cases(), text_cases()) for case in cases]
    assert len(names) >= 400
    slides = [case.name for case in slide_cases()]
    assert len(slides) >= 500
    assert max(Counter([*names, *slides]).values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h5", "manifest"])
def test_a_harness_tells_what_it_ran_and_finds_nothing(name: str) -> None:
    script = SCRIPT.with_name(f"fuzz_{name}.py")
    done = subprocess.run(
        [sys.executable, str(script), "--seconds", "2", "--plain"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["harness"], told["engine"]) == (name, "own mutations, fixed seed")
    assert told["executions"] > told["refused"] > 0
    assert told["seconds"] >= 2


# -- the watch itself ------------------------------------------------------------------------------


def _write(folder: Path) -> Path:
    (folder / "x").write_bytes(b"")
    return folder / "x"


def content(path: Path) -> None:
    assert path.exists()


def refuse(path: Path) -> None:
    raise UsageError(f"{path.name}: no")


def refuse_in_two_lines(path: Path) -> None:
    raise UsageError(f"{path.name}:\nno")


def stumble(path: Path) -> None:
    raise ValueError(path.name)


def hang(path: Path) -> None:
    while path.exists():
        pass


def crash(path: Path) -> None:
    import os

    os.abort()


@pytest.mark.slow
def test_the_watch_tells_every_way_to_end(tmp_path: Path) -> None:
    ways = [content, refuse, refuse_in_two_lines, stumble, hang, crash, content]
    cases = [Case(way.__name__, _write, way, accepted=None) for way in ways]
    cases.append(Case("wrongly", _write, content))
    cases.append(Case("no words", _write, refuse, words="field"))
    endings = [verdict.ending for verdict in watch(islice(cases, None), tmp_path, seconds=2.0)]
    assert endings == [
        *("accepted", "refused", "wrong", "fault", "hang", "crash", "accepted", "wrong", "wrong"),
    ]
