"""Hostile texts and HDF5 files and malformed slides end in success or in one clear line."""

from __future__ import annotations

import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
from support.untrusted.hdf5 import foreign_cases, hdf5_cases
from support.untrusted.layouts import layout_cases
from support.untrusted.slides import slide_cases
from support.untrusted.texts import text_cases
from support.untrusted.watch import Case, CaseResult, watch
from support.untrusted.weights import weights_cases

from milpath.errors import UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")


def compress(path: Path) -> None:
    """Keep a processor busy for about a second, as a reference for the others."""
    noise = np.random.default_rng(0).integers(0, 16, 12 << 20, dtype=np.uint8)
    zlib.compress(noise.tobytes(), 6)


def read_all(cases: Iterable[Case], folder: Path) -> tuple[CaseResult, list[CaseResult]]:
    """Return the results of `compress` and of each case, all in one process."""
    reference, *results = watch(chain([Case("compress", _write, compress, True)], cases), folder)
    return reference, results


@pytest.mark.slow
@pytest.mark.parametrize(
    ("generate", "every", "relative_time", "mib"),
    [
        (hdf5_cases, 1, 3, 300),
        (foreign_cases, 1, 3, 300),
        (layout_cases, 5, 3, 300),
        (text_cases, 1, 10, 300),
        (weights_cases, 1, 3, 300),
        (slide_cases, 61, 20, 1024),
    ],
    ids=["hdf5", "foreign", "layouts", "texts", "weights", "slides"],
)
def test_every_untrusted_file_is_accepted_or_refused_in_one_line_with_bounded_time_and_memory(
    generate: Callable[[], Iterable[Case]],
    every: int,
    relative_time: float,
    mib: float,
    tmp_path: Path,
) -> None:
    reference, results = read_all(islice(generate(), 0, None, every), tmp_path)
    assert reference.ending == "accepted"
    assert [one for one in results if one.ending not in ("accepted", "refused")] == []
    assert [one for one in results if one.seconds > relative_time * reference.seconds] == []
    assert [one for one in results if one.mib > mib] == []
    assert min(Counter(one.ending for one in results).values()) > 2


def test_the_generators_write_more_than_900_files_with_unique_names() -> None:
    names = [case.name for cases in (hdf5_cases(), text_cases()) for case in cases]
    assert len(names) >= 400
    slides = [case.name for case in slide_cases()]
    assert len(slides) >= 500
    assert max(Counter([*names, *slides]).values()) == 1


# -- the watch itself ------------------------------------------------------------------------------


def _write(folder: Path) -> Path:
    (folder / "x").write_bytes(b"")
    return folder / "x"


def accept(path: Path) -> None:
    assert path.exists()


def refuse(path: Path) -> None:
    raise UsageError(f"{path.name}: no")


def refuse_in_two_lines(path: Path) -> None:
    raise UsageError(f"{path.name}:\nno")


def fail(path: Path) -> None:
    raise ValueError(path.name)


def hang(path: Path) -> None:
    while path.exists():
        pass


def crash(path: Path) -> None:
    import os

    os.abort()


def endings(cases: Iterable[Case], folder: Path, **options: float) -> Iterator[str]:
    folder.mkdir()
    return (result.ending for result in watch(cases, folder, **options))


@pytest.mark.slow
def test_the_watch_reports_every_kind_of_ending(tmp_path: Path) -> None:
    ways = [accept, refuse, refuse_in_two_lines, fail, crash, accept]
    cases = [Case(way.__name__, _write, way, accepted=None) for way in ways]
    cases.append(Case("accepted, not refused", _write, accept))
    cases.append(Case("refused in other words", _write, refuse, words="field"))
    assert list(endings(cases, tmp_path / "some")) == [
        *("accepted", "refused", "wrong", "fault", "crash", "accepted", "wrong", "wrong"),
    ]
    hanging = [Case("hang", _write, hang, accepted=None)]
    assert list(endings(hanging, tmp_path / "hanging", seconds=0.5)) == ["hang"]
