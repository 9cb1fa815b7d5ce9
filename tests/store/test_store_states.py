"""After any sequence of changes, each stored file is read as it was written, or raises."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.store import discard, open_h5, publish_h5

NAMES = st.sampled_from(["a.h5", "b.h5", "c.h5"])
ROWS = st.integers(0, 3000)
PARAMS = st.integers(0, 3)

Contents = tuple[int, int]
"""Number of rows and parameters: they determine the contents of a file."""


class Killed(BaseException):
    """Stands for a process that ends here."""


def values_of(contents: Contents) -> NDArray[np.int64]:
    rows, params = contents
    return np.random.default_rng(params).integers(0, 1 << 40, (rows, 2))


def write(path: Path, contents: Contents, stop_at: int | None = None) -> None:
    values = values_of(contents)
    with publish_h5(path, "bag") as h5:
        h5.attrs["params"] = contents[1]
        data = h5.create_dataset("x", (0, 2), np.int64, maxshape=(None, 2), chunks=(512, 2))
        for step, low in enumerate(range(0, len(values), 500)):
            if step == stop_at:
                raise Killed
            data.resize(min(low + 500, len(values)), axis=0)
            data[low:] = values[low : low + 500]
        if stop_at is not None:
            raise Killed


class Store(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.whole: dict[str, Contents] = {}
        self.broken: set[str] = set()
        self.left: set[str] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def _file(self, data: Any) -> Path | None:
        names = sorted({*self.whole, *self.broken})
        return self.folder / data.draw(st.sampled_from(names)) if names else None

    def _break(self, path: Path) -> None:
        self.whole.pop(path.name, None)
        self.broken.add(path.name)

    @rule(name=NAMES, rows=ROWS, params=PARAMS)
    def write_file(self, name: str, rows: int, params: int) -> None:
        write(self.folder / name, (rows, params))
        self.whole[name] = rows, params
        self.broken.discard(name)

    @rule(name=NAMES, rows=ROWS, params=PARAMS, stop_at=st.integers(0, 7))
    def interrupt_writing(self, name: str, rows: int, params: int, stop_at: int) -> None:
        with pytest.raises(Killed):
            write(self.folder / name, (rows, params), stop_at)

    @rule(name=NAMES, rows=ROWS, size=st.floats(0, 1))
    def kill_while_writing(self, name: str, rows: int, size: float) -> None:
        """Leave an incomplete temporary file, as a killed process does."""
        with tempfile.TemporaryDirectory() as other:
            write(Path(other) / name, (rows, 9))
            data = (Path(other) / name).read_bytes()
        part = self.folder / f".{name}.{len(self.left)}.part"
        part.write_bytes(data[: int(len(data) * size)])
        self.left.add(part.name)

    @precondition(lambda self: self.whole)
    @rule(data=st.data())
    def write_again_to_the_same_bytes(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.whole)))
        before = (self.folder / name).read_bytes()
        write(self.folder / name, self.whole[name])
        assert (self.folder / name).read_bytes() == before

    @precondition(lambda self: self.whole)
    @rule(data=st.data(), bit=st.integers(0, 7))
    def damage_a_byte(self, data: Any, bit: int) -> None:
        path = self.folder / data.draw(st.sampled_from(sorted(self.whole)))
        place = data.draw(st.integers(0, path.stat().st_size - 1))
        with path.open("r+b") as file:
            file.seek(place)
            (value,) = file.read(1)
            file.seek(place)
            file.write(bytes([value ^ 1 << bit]))
        self._break(path)

    @rule(data=st.data(), share=st.floats(0, 0.999))
    def cut_file(self, data: Any, share: float) -> None:
        if path := self._file(data):
            os.truncate(path, int(path.stat().st_size * share))
            self._break(path)

    @precondition(lambda self: self.whole)
    @rule(data=st.data())
    def modify_with_another_program(self, data: Any) -> None:
        path = self.folder / data.draw(st.sampled_from(sorted(self.whole)))
        with h5py.File(path, "r+") as h5:
            h5.attrs["params"] = 77
        self._break(path)

    @rule(data=st.data())
    def delete_file(self, data: Any) -> None:
        if path := self._file(data):
            discard(path)
            self.whole.pop(path.name, None)
            self.broken.discard(path.name)

    @precondition(lambda self: self.whole)
    @rule(data=st.data(), to=NAMES)
    def copy_file(self, data: Any, to: str) -> None:
        """Copy all datasets but one to a new file, as embedding does."""
        name = data.draw(st.sampled_from(sorted(self.whole)))
        with open_h5(self.folder / name, "bag") as old, publish_h5(self.folder / to, "bag") as h5:
            old.copy(h5, without="features")
            h5["features"] = np.ones(3)
        # the contents are the same, the bytes are not
        contents = self.whole[name]
        self._read(to, contents)
        write(self.folder / to, contents)
        self.whole[to] = contents
        self.broken.discard(to)

    def _read(self, name: str, contents: Contents) -> None:
        values = values_of(contents)
        with open_h5(self.folder / name, "bag") as h5:
            assert h5.require_attr("params") == contents[1]
            assert np.array_equal(h5.read("x", "int64", (None, 2)), values)
            rows = np.arange(0, len(values), 7)
            assert np.array_equal(h5.read("x", "int64", (None, 2), rows), values[rows])

    @invariant()
    def each_file_is_read_as_written_or_raises(self) -> None:
        for name, contents in self.whole.items():
            self._read(name, contents)
        for name in self.broken:
            with pytest.raises(StoredFileError, match=rf"^{name}: .*(damaged|modified outside)"):
                self._read(name, (0, 0))

    @invariant()
    def there_are_no_other_files(self) -> None:
        assert {path.name for path in self.folder.iterdir()} == {
            *self.whole, *self.broken, *self.left,
        }  # fmt: skip


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
