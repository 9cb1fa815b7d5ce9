"""Arrays of NumPy's files are read as they were written; hostile ones are refused."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milpath.errors import StoredFileError
from milpath.store.npyfile import read_npy, read_npz
from tests.support.counting import peak_bytes

ARRAYS: dict[str, Any] = {
    "half": np.arange(6, dtype="f2").reshape(2, 3),
    "big-endian": np.arange(6, dtype=">f4").reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "no rows": np.empty((0, 5), "f4"),
    "one number": np.array(3),
    "texts": np.array(["a", "µm"]),
    "records": np.array([(1, 2.5), (3, 4.5)], [("x", "<i8"), ("level", "<f4")]),
    "truth": np.array([True, False]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    array = ARRAYS[name]
    np.save(tmp_path / "a.npy", array)
    read = read_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_arrays_of_an_archive_are_read_by_name(
    tmp_path: Path, save: Callable[..., None]
) -> None:
    save(tmp_path / "a.npz", **ARRAYS)
    read = read_npz(tmp_path / "a.npz")
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array)


def header(text: str, data: bytes = b"", version: int = 1) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + data


def plain(shape: object, descr: object = "<f4", order: object = False) -> str:
    return repr({"descr": descr, "fortran_order": order, "shape": shape})


def pickled() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([{}, None], object), allow_pickle=True)
    return out.getvalue()


FAULTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not an array that numpy.save wrote"),
    "text": (b"x,y\n1,2\n", "not an array that numpy.save wrote"),
    "version": (b"\x93NUMPY\x09\x00", "not an array that numpy.save wrote"),
    "no header": (b"\x93NUMPY\x01\x00\x10", "header is damaged"),
    "short header": (b"\x93NUMPY\x01\x00\x10\x00{", "header is damaged"),
    "long header": (header("{" + " " * 20_000 + "}", version=2), "header is damaged or too long"),
    "call": (header("open('x')"), "header is damaged"),
    "nested header": (header("(" * 9000), "header is damaged"),
    "keys": (header("{'descr': '<f4'}"), "header is damaged"),
    "objects": (pickled(), "can run programs"),
    "object record": (header(plain((1,), [("x", "|O")])), "can run programs"),
    "no type": (header(plain((1,), [])), "can run programs"),
    "inner shape": (header(plain((1,), [("x", "<f4", (1 << 40,))])), "can run programs"),
    "huge": (header(plain((1 << 30, 1024))), "declares 4398046511104 bytes"),
    "overflow": (header(plain((1 << 39, 1 << 39))), "declares"),
    "negative": (header(plain((-1,))), "no possible shape"),
    "axes": (header(plain((1,) * 40)), "no possible shape"),
    "text as shape": (header(plain("3")), "no possible shape"),
    "order": (header(plain((0,), order=2)), "no possible shape"),
    "short": (header(plain((2,)), bytes(7)), "declares 8 bytes for shape .2,., 7 are there"),
    "long": (header(plain((2,)), bytes(9)), "declares 8 bytes for shape .2,., 9 are there"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_no_plain_array_is_refused_in_one_line(
    tmp_path: Path, fault: str, packed: bool
) -> None:
    data, fact = FAULTS[fault]
    path = tmp_path / "a.np"
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", data)
    else:
        path.write_bytes(data)

    def read() -> None:
        with pytest.raises(StoredFileError, match=fact) as caught:
            (read_npz if packed else read_npy)(path)
        assert "\n" not in str(caught.value)

    assert peak_bytes(read) < 8 << 20


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, features=np.zeros((17 << 10, 1 << 10), "f4"))

    def read() -> None:
        with pytest.raises(StoredFileError, match="would unpack from"):
            read_npz(path)

    assert peak_bytes(read) < 8 << 20


def test_an_archive_that_declares_less_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, features=np.zeros((1 << 10, 1 << 10), "f4"))
    data = path.read_bytes()
    size = struct.pack("<I", (4 << 20) + 128)
    assert data.count(size) >= 1
    path.write_bytes(data.replace(size, struct.pack("<I", 256)))
    with pytest.raises(StoredFileError):
        read_npz(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, features=np.ones((64, 16)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(StoredFileError, match="cut short"):
        read_npz(path)


def test_a_damaged_archive_is_read_or_refused_and_never_ends_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, features=np.arange(12.0), coords=np.arange(4))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            read_npz(path)
        except StoredFileError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("read", [read_npy, read_npz])
def test_a_file_that_is_absent_or_a_folder_is_named(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    with pytest.raises(StoredFileError, match="a: there is no such file"):
        read(tmp_path / "a")
    with pytest.raises(StoredFileError, match="cannot be read"):
        read(tmp_path)
