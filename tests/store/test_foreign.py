"""HDF5 files of other programs are read as h5py reads them, and no file harms the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milpath.errors import StoredFileError
from milpath.store import publish_h5
from milpath.store.foreign import ForeignH5, ForeignProbe, open_foreign_h5, undo_filters
from milpath.store.probe import MEMORY_BYTES

RNG = np.random.default_rng(0)
NUMBERS = RNG.integers(-5, 5, (107, 6)).astype(np.int32)


@pytest.fixture(scope="module")
def probe() -> Iterator[ForeignProbe]:
    with ForeignProbe() as one:
        yield one


def draw(path: Path, libver: Any = None, **options: Any) -> Path:
    with h5py.File(path, "w", libver=libver) as h5:
        h5.create_dataset("x", data=options.pop("data", NUMBERS), **options)
    return path


def read_any(h5: ForeignH5, name: str, rows: Any = slice(None)) -> Any:
    return h5.read(name, h5.dtype(name), h5.shape(name), rows)


# -- what is read is what h5py reads ---------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunks of rows": {"chunks": (10, 6)},
    "one row per chunk, growing": {"chunks": (1, 6), "maxshape": (None, 6)},
    "chunks of columns": {"chunks": (25, 4)},
    "a chunk larger than the data": {"chunks": (1000, 7), "maxshape": (None, None)},
    "gzip": {"chunks": (10, 4), "compression": "gzip"},
    "gzip, shuffled": {"chunks": (10, 6), "compression": "gzip", "shuffle": True},
    "shuffled": {"chunks": (10, 6), "shuffle": True},
    "lzf": {"chunks": (50, 6), "compression": "lzf"},
    "lzf that makes nothing smaller": {"data": RNG.random((107, 6)), "compression": "lzf"},
    "lzf of long runs": {"data": np.zeros((9000, 3)), "compression": "lzf"},
    "lzf, shuffled": {"chunks": (50, 6), "compression": "lzf", "shuffle": True},
    "big-endian": {"data": RNG.random((107, 6)).astype(">f4")},
    "big-endian, gzip": {"data": RNG.random((107, 6)).astype(">f8"), "compression": "gzip"},
    "float16": {"data": RNG.random((107, 6)).astype(np.float16)},
    "uint64": {"data": RNG.integers(0, 1 << 63, (107, 6), np.uint64)},
    "truth values": {"data": NUMBERS > 0},
    "no rows": {"data": NUMBERS[:0]},
    "no rows, growing": {"data": NUMBERS[:0], "chunks": (1, 6), "maxshape": (None, 6)},
    "three axes": {"data": RNG.random((20, 5, 4)), "chunks": (7, 2, 3), "compression": "gzip"},
    "one axis": {"data": np.arange(300), "chunks": (64,), "compression": "gzip"},
}


@pytest.mark.parametrize("libver", [None, "latest"])
@pytest.mark.parametrize("way", WAYS)
def test_numbers_stored_in_any_way_are_read_as_h5py_reads_them(
    tmp_path: Path, probe: ForeignProbe, way: str, libver: str | None
) -> None:
    path = draw(tmp_path / "a.h5", libver, **WAYS[way])
    with h5py.File(path) as h5:
        expected = h5["x"][()]
    with open_foreign_h5(path, probe) as found:
        assert not found.verified
        assert found.shape("x") == expected.shape
        assert np.dtype(found.dtype("x")) == expected.dtype.newbyteorder("<")
        np.testing.assert_array_equal(read_any(found, "x"), expected)
        np.testing.assert_array_equal(read_any(found, "x", slice(13, 61)), expected[13:61])
        rows = RNG.integers(0, max(1, len(expected)), min(40, len(expected)))
        np.testing.assert_array_equal(read_any(found, "x", rows), expected[rows])


def test_values_in_groups_scalars_texts_and_small_datasets_are_read(
    tmp_path: Path, probe: ForeignProbe
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as h5:
        h5["a/b/x"], h5["one"] = NUMBERS, np.float32(0.5)
        h5["texts"], h5["fixed"] = ["Å", "b"], np.array([b"cd", b"e"])
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3,))
        small = h5py.h5d.create(h5.id, b"small", h5py.h5t.NATIVE_INT64, space, compact)
        small.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(3))
    with open_foreign_h5(path, probe) as found:
        assert sorted(found.names) == ["a/b/x", "fixed", "one", "small", "texts"]
        np.testing.assert_array_equal(read_any(found, "a/b/x"), NUMBERS)
        assert read_any(found, "one") == np.float32(0.5)
        assert read_any(found, "small").tolist() == [0, 1, 2]
        assert found.read_texts("texts") == ["Å", "b"]
        assert found.read_texts("fixed") == ["cd", "e"]
        assert "small" in found
        assert "a/b" not in found


def test_truth_values_are_0_or_1_whatever_byte_is_stored(
    tmp_path: Path, probe: ForeignProbe
) -> None:
    path = draw(tmp_path / "a.h5", data=np.ones(9, np.bool_))
    data = path.read_bytes()
    assert data.count(bytes([1] * 9)) == 1
    path.write_bytes(data.replace(bytes([1] * 9), bytes([0, 2, 255] * 3)))
    with open_foreign_h5(path, probe) as found:
        assert read_any(found, "x").view(np.uint8).tolist() == [0, 1, 1] * 3


def test_attributes_are_plain_python_values_and_others_are_left_out(
    tmp_path: Path, probe: ForeignProbe
) -> None:
    values: dict[str, Any] = {
        "int": np.int32(3), "float": 0.25, "text": "µm", "bytes": np.bytes_(b"ab"),
        "flag": True, "pair": np.array([1.5, 2.0]), "names": ["a", "b"], "one": np.array([7]),
    }  # fmt: skip
    path = draw(tmp_path / "a.h5")
    with h5py.File(path, "r+") as h5:
        for holder in (h5, h5["x"]):
            holder.attrs.update(values)
            holder.attrs["none"], holder.attrs["long"] = h5py.Empty("f4"), np.arange(65)
            holder.attrs["place"] = h5["x"].ref
    expected = values | {"int": 3, "bytes": "ab", "pair": [1.5, 2.0], "one": [7]}
    with open_foreign_h5(path, probe) as found:
        assert found.attrs == found.dataset_attrs("x") == expected
        assert found.attr("text") == found.dataset_attr("x", "text") == "µm"
        assert found.attr("none") is None
        assert type(found.attr("flag")) is bool


def test_a_file_of_milpath_is_read_by_its_checksums_without_a_child_process(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.h5"
    with publish_h5(path, "bag") as h5:
        h5["x"] = NUMBERS
    with ForeignProbe() as one, open_foreign_h5(path, one) as found:
        assert found.verified
        np.testing.assert_array_equal(read_any(found, "x"), NUMBERS)
        assert found.attr("milpath_kind") == "bag"
        assert one._process is None
    data = bytearray(path.read_bytes())
    data[data.index(NUMBERS.tobytes())] ^= 1
    path.write_bytes(data)
    with open_foreign_h5(path) as found, pytest.raises(StoredFileError, match="'x' cannot be read"):
        read_any(found, "x")
    path.write_bytes(bytes(data).replace(b'"attrs"', b'"attrz"'))
    with (
        pytest.raises(StoredFileError, match="damaged after milpath wrote it"),
        open_foreign_h5(path),
    ):
        pass


@given(st.binary(max_size=3000), st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_undoing_filters_gives_back_the_bytes_or_an_error(data: bytes, cut: int) -> None:
    packed = zlib.compress(data)
    if data:
        assert undo_filters(packed, ["gzip"], len(data), 1) == data
        with pytest.raises(OSError, match="chunk"):
            undo_filters(packed, ["gzip"], len(data) + 1, 1)
        if len(data) > 1:
            with pytest.raises(OSError, match="larger"):
                undo_filters(packed, ["gzip"], len(data) - 1, 1)
    for name in ("gzip", "lzf", "shuffle"):
        with suppress(OSError, zlib.error):
            assert len(undo_filters(data[cut:], [name], len(data), 4)) == len(data)


def test_a_chunk_that_expands_without_end_is_not_expanded(
    tmp_path: Path, probe: ForeignProbe
) -> None:
    path = draw(tmp_path / "a.h5", data=np.zeros((8, 8)), chunks=(8, 8), compression="gzip")
    with h5py.File(path, "r+") as h5:
        h5["x"].id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 28)))
    with (
        open_foreign_h5(path, probe) as found,
        pytest.raises(StoredFileError, match="larger than it should be"),
    ):
        read_any(found, "x")


# -- faults ----------------------------------------------------------------------------------------


def add(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with h5py.File(draw(path), "r+") as h5:
            change(h5)

    return write


def nest(h5: h5py.File) -> None:
    group: Any = h5
    for _ in range(50):
        group = group.create_group("g")


def cut(path: Path) -> None:
    path.write_bytes(draw(path, data=np.zeros(9999)).read_bytes()[:5000])


def many_attrs(h5: h5py.File) -> None:
    for number in range(1100):
        h5["x"].attrs[f"a{number}"] = number


def add_bfloat16(h5: h5py.File) -> None:
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    h5py.h5d.create(h5.id, b"y", kind, h5py.h5s.create_simple((3,))).write(
        h5py.h5s.ALL, h5py.h5s.ALL, np.ones(3, np.float32)
    )


def leave_out_a_chunk(h5: h5py.File) -> None:
    made = h5.create_dataset("y", (30,), "f4", chunks=(10,))
    made[:10] = made[20:] = 1


WHOLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: None, "there is no such file; check the path"),
    "folder": (lambda path: path.mkdir(), "there is no such file; check the path"),
    "text": (lambda path: path.write_text("slide,label\n"), "is no HDF5 file; expected"),
    "empty": (lambda path: path.touch(), "is no HDF5 file; expected"),
    "signature only": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(999)), "damaged"),
    "cut": (cut, "is cut short"),
    "deep": (add(nest), "holds groups in groups"),
    "attributes": (add(many_attrs), "holds more than 1000 attributes"),
    "groups": (
        add(lambda h5: [h5.create_group(f"{n}") for n in range(20_001)]),
        "holds more than 20000",
    ),
}
ONE: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "soft link": (lambda h5: h5.__setitem__("y", h5py.SoftLink("/x")), "'y' is a link"),
    "external": (lambda h5: h5.__setitem__("y", h5py.ExternalLink("b", "/")), "'y' is a link"),
    "type": (lambda h5: h5.__setitem__("y", h5["x"].dtype), "'y' is no dataset"),
    "compound": (lambda h5: h5.create_dataset("y", 3, [("a", "i4")]), "other values than plain"),
    "complex": (lambda h5: h5.create_dataset("y", 3, "c8"), "other values than plain"),
    "long float": (lambda h5: h5.create_dataset("y", 3, "f16"), "other values than plain"),
    "bfloat16": (add_bfloat16, "a number type that NumPy lacks, such as bfloat16"),
    "a chunk is missing": (leave_out_a_chunk, "declares more numbers than the file holds"),
    "never written": (lambda h5: h5.create_dataset("y", (9, 9), "f4"), "declares more numbers"),
    "bomb": (
        lambda h5: h5.create_dataset("y", (1 << 40,), "f4", chunks=(1 << 28,)),
        "declares more numbers",
    ),
    "zeros": (
        lambda h5: h5.create_dataset("y", data=np.zeros(9 << 20), compression="gzip"),
        "declares more numbers",
    ),
    "checksum": (
        lambda h5: h5.create_dataset("y", data=NUMBERS, fletcher32=True),
        "another filter .3. than gzip or lzf",
    ),
    "empty": (lambda h5: h5.create_dataset("y", data=h5py.Empty("f4")), "without a shape"),
    "texts": (lambda h5: h5.create_dataset("y", data=["a"]), "'y' holds texts, expected float32"),
    "integers": (lambda h5: h5.create_dataset("y", data=[1]), "'y' is int64, expected float32"),
    "absent": (lambda h5: None, "'y' is missing"),
}


@pytest.mark.parametrize("fault", WHOLE)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, probe: ForeignProbe, fault: str
) -> None:
    write, words = WHOLE[fault]
    write(tmp_path / "a.h5")
    with (
        pytest.raises(StoredFileError, match=rf"^a\.h5: .*{words}") as caught,
        open_foreign_h5(tmp_path / "a.h5", probe),
    ):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("libver", [None, "latest"])
def test_a_file_damaged_anywhere_is_read_or_refused_in_one_line(
    tmp_path: Path, probe: ForeignProbe, libver: str | None
) -> None:
    path = draw(tmp_path / "a.h5", libver, chunks=(10, 4), compression="gzip", shuffle=True)
    with h5py.File(path, "r+") as h5:
        h5["y"], h5["texts"], h5.attrs["names"] = NUMBERS[:3], ["a", "b"], ["c", "d"]
    whole = path.read_bytes()
    messages: list[str] = []
    for place in RNG.integers(0, len(whole), 300).tolist():
        data = bytearray(whole)
        data[place] ^= 1 << int(RNG.integers(0, 8))
        path.write_bytes(data)
        try:
            with open_foreign_h5(path, probe) as found:
                for name in found.names:
                    found.shape(name)
                    if found.dtype(name) != "str":
                        read_any(found, name)
        except StoredFileError as error:
            messages.append(str(error))
    assert all(message.isprintable() for message in messages)
    assert 10 < len(messages) < 290


@pytest.mark.parametrize("fault", ONE)
def test_a_dataset_that_cannot_be_read_is_refused_by_its_name_and_the_others_are_read(
    tmp_path: Path, probe: ForeignProbe, fault: str
) -> None:
    change, words = ONE[fault]
    add(change)(tmp_path / "a.h5")
    with open_foreign_h5(tmp_path / "a.h5", probe) as found:
        np.testing.assert_array_equal(read_any(found, "x"), NUMBERS)
        with pytest.raises(StoredFileError, match=rf"^a\.h5: .*{words}"):
            found.read("y", "float32", (None,))


def test_rows_and_shapes_that_a_file_lacks_are_refused(tmp_path: Path, probe: ForeignProbe) -> None:
    with open_foreign_h5(draw(tmp_path / "a.h5"), probe) as found:
        with pytest.raises(StoredFileError, match=r"has shape .107, 6., expected"):
            found.read("x", "int32", (None, 2))
        with pytest.raises(StoredFileError, match="no such row"):
            found.read("x", "int32", (None, 6), np.array([107]))
        with pytest.raises(StoredFileError, match="'x' is int32, expected texts"):
            found.read_texts("x")


def test_a_group_in_itself_is_visited_once(tmp_path: Path, probe: ForeignProbe) -> None:
    add(lambda h5: h5.create_group("g").__setitem__("again", h5["/"]))(tmp_path / "a.h5")
    with open_foreign_h5(tmp_path / "a.h5", probe) as found:
        assert found.names == ["x"]


def test_a_name_with_control_characters_is_escaped_in_the_message(
    tmp_path: Path, probe: ForeignProbe
) -> None:
    with open_foreign_h5(draw(tmp_path / "a.h5"), probe) as found:
        assert str(found.refuse("\x1b[2J\n")).startswith(r"a.h5: \x1b[2J\n; ")


# -- the file changes, or ends the child process ---------------------------------------------------


def test_a_file_that_changes_between_its_description_and_the_reading_is_refused(
    tmp_path: Path, probe: ForeignProbe
) -> None:
    path = draw(tmp_path / "a.h5")
    with open_foreign_h5(path, probe) as found:
        with h5py.File(path, "r+") as h5:
            h5["more"] = NUMBERS
        with pytest.raises(StoredFileError, match=r"a\.h5: was changed while it was read"):
            read_any(found, "x")
    other = probe.describe(draw(tmp_path / "b.h5"))

    class Stale(ForeignProbe):
        def describe(self, path: Path) -> Any:
            return other

    with pytest.raises(StoredFileError, match="was changed"), open_foreign_h5(path, Stale()):
        pass


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_a_file_that_ends_the_child_process_is_refused_and_the_next_one_is_read(
    tmp_path: Path,
) -> None:
    start = (
        "import os, signal, sys; sys.stdin.readline(); os.kill(os.getpid(), signal.SIG{})".format
    )
    for name in ("SEGV", "KILL", "PROF"):
        code = [sys.executable, "-c", start(name)]
        process = subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with ForeignProbe() as one:
            one._process = process
            path = draw(tmp_path / "a.h5")
            with pytest.raises(StoredFileError, match=r"^a\.h5: the HDF5 library does not finish"):
                one.describe(path)
            assert list(one.describe(path).datasets) == ["x"]


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_signals_to_all_processes_of_a_command_do_not_end_the_child_process(
    tmp_path: Path,
) -> None:
    with ForeignProbe() as one:
        path = draw(tmp_path / "a.h5")
        one.describe(path)
        process = one._process
        assert process is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            assert list(one.describe(path).datasets) == ["x"]
        assert one._process is process


def test_a_file_that_is_still_written_is_refused_as_such(
    tmp_path: Path, probe: ForeignProbe
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as h5:
        h5["x"] = NUMBERS
        h5.flush()
        with (
            pytest.raises(StoredFileError, match=r"^a\.h5: is still open for writing"),
            open_foreign_h5(path, probe),
        ):
            pass
    with open_foreign_h5(path, probe) as found:
        np.testing.assert_array_equal(read_any(found, "x"), NUMBERS)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_child_process_has_limits_of_memory_and_time_and_ends_with_its_parent(
    tmp_path: Path,
) -> None:
    with ForeignProbe() as one:
        one.describe(draw(tmp_path / "a.h5"))
        assert one._process is not None
        limits = Path(f"/proc/{one._process.pid}/limits").read_text().splitlines()
        (space,) = (line for line in limits if line.startswith("Max address space"))
        assert MEMORY_BYTES < int(space.split()[3]) < MEMORY_BYTES + (4 << 30)
        (core,) = (line for line in limits if line.startswith("Max core"))
        assert core.split()[4] == "0"
        process = one._process
    assert process.poll() is not None


LOOP = """
import json, sys, time
from milpath.store import probe
def loop(path):
    while path:
        pass
probe.describe_file = loop
probe.main()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a limit of processor time")
def test_a_description_that_never_ends_is_ended_by_its_limit_of_processor_time(
    tmp_path: Path,
) -> None:
    path = draw(tmp_path / "a.h5")
    done = subprocess.run(
        [sys.executable, "-c", LOOP],
        input=json.dumps([str(path), 0.3]).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode < 0
    assert not done.stdout


def test_modules_in_the_current_folder_are_not_imported_by_the_child_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = draw(tmp_path / "a.h5")
    for name in ("h5py", "numpy", "milpath", "sitecustomize", "json"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w').close()\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    with ForeignProbe() as one:
        assert list(one.describe(Path(path.name)).datasets) == ["x"]
    assert not (tmp_path / "executed").exists()
