"""After any failure a file is the old or the new one; temporary files are removed later."""

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


class FailingSystem:
    """Counts calls to the system, and makes call number `at` fail."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, code: int) -> None:
        self.at = at
        self.code = code
        self.count = 0
        for name in STEPS:
            patch.setattr(os, name, self._failing(getattr(os, name)))
        system = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                system.step()
                return super().write(data)

            def truncate(self, size: int | None = None) -> int:
                system.step()
                return super().truncate(size)

        def opened(path: Path, mode: str) -> io.BufferedIOBase:
            if mode == "rb":  # for the verification
                return io.BufferedReader(io.FileIO(path))
            return io.BufferedRandom(Raw(path, mode))

        patch.setattr(Path, "open", opened)

    def step(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise OSError(self.code, os.strerror(self.code))

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if real is not os.close:  # which closes even if it fails
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
    """Write with one failing step; return whether there was such a step, and the message."""
    message = ""
    with pytest.MonkeyPatch.context() as patch:
        system = FailingSystem(patch, step, code)
        try:
            write(path)
        except OutputError as error:
            message = str(error)
    return system.count >= step, message


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("write", [write_plain, write_hdf5])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_of_any_step_leaves_the_old_or_the_new_file(
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
        reached, message = fail_at(step, code, write, path)
        if not reached:
            break
        found = path.read_bytes() if path.exists() else None
        assert found in ({old} if message.endswith("; nothing was left behind") else states)
        assert message == "" or (os.strerror(code) in message and "\n" not in message)
        assert found == new or message
        require_writable(folder / "out")  # removes a temporary file whose removal failed
        assert [each.name for each in (folder / "out").iterdir()] in (["x"], [])
    assert 8 < step < 1000


def test_a_folder_that_cannot_be_synchronised_is_ignored(
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


def test_a_file_that_was_written_short_or_damaged_raises_and_is_removed(
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


def interrupt_and_wait(functions: Set[CodeType], reached: list[str]) -> None:
    with defer_signals(functions):
        interrupt(reached)
        time.sleep(5)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Handle Ctrl-C, also in a background job whose shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_is_deferred_until_the_given_functions_have_returned() -> None:
    for functions, expected in (({interrupt.__code__}, ["its end"]), (set(), [])):
        reached: list[str] = []
        with pytest.raises(KeyboardInterrupt):
            interrupt_and_wait(functions, reached)
        assert reached == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def write_and_wait(path: Path) -> None:
    with publish_h5(path, "bag") as h5:
        h5["x"] = np.arange(9)
        time.sleep(5)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_hdf5_writes_raises_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = writing._ErrorKeepingFile._try
    calls: list[int] = []

    def interrupted(file: writing._ErrorKeepingFile, action: Callable[[], object]) -> None:
        calls.append(id(file))
        if calls.count(id(file)) == 3:  # of one file: another test's may be closed here as garbage
            signal.raise_signal(signal.SIGINT)
        real(file, action)

    monkeypatch.setattr(writing._ErrorKeepingFile, "_try", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_and_wait(tmp_path / "a.h5")
    assert len(calls) > 3
    assert not list(tmp_path.iterdir())


# -- temporary files -------------------------------------------------------------------------------

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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no boot id")
def test_a_temporary_file_is_removed_only_after_its_writer_has_ended(tmp_path: Path) -> None:
    with begin_writing(tmp_path / "sub" / "a") as writer:
        require_writable(tmp_path)
        assert len(parts(tmp_path)) == 1
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(parts(tmp_path)) == 1
        require_writable(tmp_path)
        assert not parts(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "sub"]


def test_a_temporary_file_of_another_machine_is_kept_for_a_week(
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


def test_without_locks_a_temporary_file_of_a_running_writer_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporary, "take_lock", lambda number: None)
    with publish(tmp_path / "a") as file:
        file.write(b"x")
        monkeypatch.undo()
        require_writable(tmp_path)
        assert len(parts(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_temporary_file_that_is_removed_before_it_is_locked_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = temporary.take_lock
    removed: list[Path] = []

    def remove_first(number: int) -> bool | None:
        if not removed:
            removed.extend(parts(tmp_path))
            removed[0].unlink()
        return real(number)

    monkeypatch.setattr(temporary, "take_lock", remove_first)
    publish_text(tmp_path / "a", "x")
    assert len(removed) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_files_of_other_programs_are_never_removed(tmp_path: Path) -> None:
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


def test_a_folder_that_was_removed_raises_an_output_error(tmp_path: Path) -> None:
    require_folder(tmp_path)
    with pytest.raises(OutputError, match="the folder of results is gone"):
        require_folder(tmp_path / "gone")
