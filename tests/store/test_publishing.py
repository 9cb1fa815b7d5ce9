"""Whatever fails or dies, a file is the old one or the new one; what is left over is swept."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import pytest

from milpath.errors import OutputError
from milpath.store import (
    publish,
    publish_h5,
    publish_text,
    require_folder,
    require_writable,
    temporary,
    writing,
)
from milpath.store.signals import defer_signals

STEPS = ("mkdir", "open", "close", "fsync", "chmod", "replace", "unlink")


class Shim:
    """Counts what is asked of the system, and lets the `at`th time fail."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, code: int) -> None:
        self.at = at
        self.code = code
        self.count = 0
        for name in STEPS:
            patch.setattr(os, name, self._failing(getattr(os, name)))
        shim = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                shim.step()
                return super().write(data)

            def truncate(self, size: int | None = None) -> int:
                shim.step()
                return super().truncate(size)

        def opened(path: Path, mode: str) -> io.BufferedIOBase:
            if mode == "rb":  # to be verified
                return io.BufferedReader(io.FileIO(path))
            return io.BufferedRandom(Raw(path, mode))

        patch.setattr(Path, "open", opened)

    def step(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise OSError(self.code, os.strerror(self.code))

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if real is not os.close:  # which always closes, whatever it says
                self.step()
                return real(*arguments, **options)
            real(*arguments)
            return self.step()

        return call


def write_plain(path: Path) -> None:
    with publish(path) as file:
        file.write(b"new" * 10_000)


def write_hdf5(path: Path) -> None:
    with publish_h5(path, "bag") as h5:
        for name in "abc":
            h5[name] = np.arange(3000)


def fail_at(step: int, code: int, write: Callable[[Path], None], path: Path) -> tuple[bool, str]:
    """Write with one step failing; whether there was such a step, and what was said."""
    said = ""
    with pytest.MonkeyPatch.context() as patch:
        shim = Shim(patch, step, code)
        try:
            write(path)
        except OutputError as error:
            said = str(error)
    return shim.count >= step, said


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("write", [write_plain, write_hdf5])
@pytest.mark.parametrize("old", [None, b"old"])
def test_whichever_step_fails_the_file_is_the_old_one_or_the_new_one(
    write: Callable[[Path], None], code: int, old: bytes | None, tmp_path: Path
) -> None:
    write(tmp_path / "new")
    new = (tmp_path / "new").read_bytes()
    states = {old, new}
    for step in range(1, 1000):
        folder = tmp_path / str(step)
        if old is not None:
            (folder / "out").mkdir(parents=True)
            (folder / "out" / "x").write_bytes(old)
        path = folder / "out" / "x"
        there, said = fail_at(step, code, write, path)
        if not there:
            break
        found = path.read_bytes() if path.exists() else None
        assert found in ({old} if said.endswith("; nothing was left") else states)
        assert said == "" or (os.strerror(code) in said and "\n" not in said)
        assert found == new or said
        require_writable(folder / "out")  # sweeps a part whose removal was what failed
        assert [each.name for each in (folder / "out").iterdir()] in (["x"], [])
    assert 8 < step < 1000


def test_a_folder_that_cannot_be_synced_at_all_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    calls: list[int] = []

    def refuse(number: int) -> None:
        calls.append(number)
        if len(calls) == 2:
            raise OSError(errno.EINVAL, "Invalid argument")
        real(number)

    monkeypatch.setattr(os, "fsync", refuse)
    publish_text(tmp_path / "a", "x")
    assert (len(calls), (tmp_path / "a").read_text()) == (2, "x")


def test_a_file_that_arrives_short_or_damaged_never_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    for harm in (b"", None):

        def spoil(number: int, harm: bytes | None = harm) -> None:
            if harm is None:
                os.pwrite(number, bytes(64), 0)
            elif os.fstat(number).st_size > 10:
                os.ftruncate(number, os.fstat(number).st_size - 10)
            real(number)

        monkeypatch.setattr(os, "fsync", spoil)
        with pytest.raises(OutputError, match="cannot be read back"):
            write_hdf5(tmp_path / "a.h5")
        assert not list(tmp_path.iterdir())


# -- signals ---------------------------------------------------------------------------------------


def interrupt(reached: list[str]) -> None:
    signal.raise_signal(signal.SIGINT)
    reached.append("its end")


def interrupt_and_wait(fragile: Set[CodeType], reached: list[str]) -> None:
    with defer_signals(fragile):
        interrupt(reached)
        time.sleep(5)


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C is heard, also where a shell's background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_waits_until_code_that_cannot_bear_it_has_returned() -> None:
    for fragile, expected in (({interrupt.__code__}, ["its end"]), (set(), [])):
        reached: list[str] = []
        with pytest.raises(KeyboardInterrupt):
            interrupt_and_wait(fragile, reached)
        assert reached == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def write_and_wait(path: Path) -> None:
    with publish_h5(path, "bag") as h5:
        h5["x"] = np.arange(9)
        time.sleep(5)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_while_hdf5_writes_ends_the_block_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = writing._SteadyFile._try
    calls: list[int] = []

    def interrupted(file: writing._SteadyFile, action: Callable[[], object]) -> None:
        calls.append(0)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        real(file, action)

    monkeypatch.setattr(writing._SteadyFile, "_try", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_and_wait(tmp_path / "a.h5")
    assert len(calls) > 3
    assert not list(tmp_path.iterdir())


# -- leftovers -------------------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from milpath.store import publish
with publish(Path(sys.argv[1])) as file:
    file.write(b"half")
    print("here", flush=True)
    time.sleep(60)
"""


def begin_writing(path: Path) -> subprocess.Popen[str]:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "here\n"
    return writer


def parts(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a week must pass")
def test_a_dead_writer_s_part_is_swept_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    with begin_writing(tmp_path / "sub" / "a") as writer:
        require_writable(tmp_path)
        assert len(parts(tmp_path)) == 1
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(parts(tmp_path)) == 1
        require_writable(tmp_path)
        assert not parts(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "sub"]


def test_a_part_of_another_machine_is_left_alone_until_it_was_silent_for_a_week(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begin_writing(tmp_path / "a") as writer:
        writer.kill()
        writer.wait()
        monkeypatch.setattr(temporary, "host_tag", lambda folder: "another")
        (part,) = parts(tmp_path)
        require_writable(tmp_path)
        assert part.exists()
        eight_days = time.time() - 8 * 24 * 3600
        os.utime(part, (eight_days, eight_days))
        require_writable(tmp_path)
        assert not part.exists()


def test_where_there_are_no_locks_nothing_is_swept_that_may_be_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporary, "take_lock", lambda number: None)
    with publish(tmp_path / "a") as file:
        file.write(b"x")
        monkeypatch.undo()
        require_writable(tmp_path)
        assert len(parts(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_part_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = temporary.take_lock
    swept: list[Path] = []

    def sweep_first(number: int) -> bool | None:
        if not swept:
            swept.extend(parts(tmp_path))
            swept[0].unlink()
        return real(number)

    monkeypatch.setattr(temporary, "take_lock", sweep_first)
    publish_text(tmp_path / "a", "x")
    assert len(swept) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_files_that_are_not_milpath_s_are_never_swept(tmp_path: Path) -> None:
    for name in (".a.part", "milpath-1.part", ".milpath-notes"):
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, (0, 0))
    require_writable(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_long_name_that_fits_is_written(tmp_path: Path) -> None:
    name = "ü" * 127
    publish_text(tmp_path / name, "x")
    with pytest.raises(OutputError, match="File name too long"):
        publish_text(tmp_path / f"{name}ü", "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_that_has_gone_is_an_output_error(tmp_path: Path) -> None:
    require_folder(tmp_path)
    with pytest.raises(OutputError, match="the folder of results is gone"):
        require_folder(tmp_path / "gone")
