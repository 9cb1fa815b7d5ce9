"""A file exists complete or not at all, and untrusted HDF5 files are read safely."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.untrusted.tamper import Index, edited, tamper, write_footer_with

from milpath import __version__
from milpath.errors import MilpathError, OutputError, StoredFileError
from milpath.store import (
    SafeH5,
    fingerprint,
    open_h5,
    publish,
    publish_h5,
    publish_json,
    publish_text,
)
from milpath.store.integrity import read_footer

# -- writing ---------------------------------------------------------------------------------------


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_publish_writes_the_complete_file_and_nothing_else(tmp_path: Path) -> None:
    publish_text(tmp_path / "new" / "ü.txt", "grün\n")
    assert (tmp_path / "new" / "ü.txt").read_bytes() == "grün\n".encode()
    assert names_in(tmp_path / "new") == ["ü.txt"]


def test_a_published_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    publish_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def fail_midway(path: Path, error: type[BaseException]) -> None:
    with publish(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, StoredFileError])
def test_a_block_that_raises_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, error: type[BaseException]
) -> None:
    (tmp_path / "old").write_text("old")
    for name in ("old", "new"):
        with pytest.raises(error):
            fail_midway(tmp_path / name, error)
    assert names_in(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_an_hdf5_block_that_raises_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError), publish_h5(tmp_path / "a.h5", "bag") as h5:
        h5["x"] = object()
    assert names_in(tmp_path) == []


def test_the_same_contents_give_the_same_bytes_at_any_time(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        with publish_h5(tmp_path / name, "bag") as h5:
            h5["x"] = np.arange(9)
            h5.attrs["z"], h5.attrs["a"] = 1, 2
        time.sleep(1.1)  # HDF5's own timestamps are in seconds
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_file_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    with publish(tmp_path / "a") as file:
        file.write(b"x")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").exists()


def test_a_file_in_place_of_a_folder_raises_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(
        OutputError, match=r"^a\.txt: cannot be written \(.+\); nothing was left behind$"
    ):
        publish_text(tmp_path / "out" / "a.txt", "x")
    with pytest.raises(OutputError, match="cannot be written"):
        publish_text(tmp_path / "out" / "sub" / "a.txt", "x")


def test_a_folder_in_place_of_a_file_raises_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written"):
        publish_text(tmp_path / "a.txt", "x")
    assert names_in(tmp_path) == ["a.txt"]


def test_a_read_only_folder_raises_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:  # root can write to a read-only folder
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(OutputError, match=r"\(Permission denied\)"):
        publish_text(tmp_path / "a.txt", "x")


def test_json_with_nan_raises_and_is_not_written(tmp_path: Path) -> None:
    publish_json(tmp_path / "a.json", {"ü": [1, 2.5, None]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"ü": [1, 2.5, None]}
    with pytest.raises(ValueError, match="Out of range"):
        publish_json(tmp_path / "b.json", {"x": float("nan")})
    assert names_in(tmp_path) == ["a.json"]


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from milpath.errors import OutputError
from milpath.store import publish_h5
folder, free = Path(sys.argv[1]), resource.RLIM_INFINITY
for limit in (0, 1, 100, 4096, 8000, 20_000, 70_000, 100_000, 190_000, 10_000_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, free))
    try:
        with publish_h5(folder / "x.h5", "bag") as h5:
            raw = h5.create_dataset("p", (0, 100), "u1", maxshape=(None, 100), chunks=(64, 100))
            for row in range(2000):
                raw.resize(row + 1, axis=0)
                raw[row] = row % 256
            h5["q"] = np.arange(100)
        message = "written"
    except OutputError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, free))
    print(limit, message, [path.name for path in folder.iterdir()])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on file sizes")
def test_a_disk_that_is_full_at_any_byte_raises_an_output_error_without_a_crash(
    tmp_path: Path,
) -> None:
    code = [sys.executable, "-W", "error", "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *refused, written = done.stdout.splitlines()
    assert len(refused) == 9
    assert all(line.endswith("(File too large); nothing was left behind []") for line in refused)
    assert written == "10000000 written ['x.h5']"


# -- reading ---------------------------------------------------------------------------------------

Change = Callable[[h5py.File, Path], None]


def made(folder: Path, change: Change | None = None) -> Path:
    path = folder / "a.h5"
    with publish_h5(path, "bag") as h5:
        h5["x"] = np.arange(10, dtype=np.int64).reshape(5, 2)
        h5.attrs["n"], h5.attrs["word"], h5.attrs["json"] = 3, "süß", '{"a": [1]}'
    if change is not None:
        with edited(path) as h5:
            change(h5, folder)
    return path


def test_read_returns_what_was_written(tmp_path: Path) -> None:
    with open_h5(made(tmp_path), "bag") as h5:
        assert h5.read("x", "int64", (None, 2)).tolist() == np.arange(10).reshape(5, 2).tolist()
        assert h5.read("x", "int64", (5, None), slice(1, 3)).tolist() == [[2, 3], [4, 5]]
        scattered = h5.read("x", "int64", (5, None), np.array([4, 0, 0]))
        assert scattered.tolist() == [[8, 9], [0, 1], [0, 1]]
        assert scattered.flags.writeable
        with pytest.raises(StoredFileError, match="cannot be read"):
            h5.read("x", "int64", (5, None), np.array([5]))
        assert (h5.require_attr("n"), h5.attr("word"), h5.attr("no"), h5.require_json("json")) == (
            *(3, "süß", None),
            {"a": [1]},
        )
        assert h5.require_attr("milpath_version") == __version__
        assert h5.shape("x") == (5, 2)
        assert "x" in h5
        assert "y" not in h5


def _replace(name: str, make: Callable[[h5py.File], None]) -> Change:
    def change(h5: h5py.File, _: Path) -> None:
        del h5[name]
        make(h5)

    return change


def _external_link(h5: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.zeros((5, 2), np.int64)
    del h5["x"]
    h5["x"] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def _soft_link(h5: h5py.File, _: Path) -> None:
    h5["y"] = h5["x"][:]
    del h5["x"]
    h5["x"] = h5py.SoftLink("/y")


def _external_storage(h5: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(range(80)))
    del h5["x"]
    h5.create_dataset("x", (5, 2), np.int64, external=[(str(folder / "secret"), 0, 80)])


def _virtual(h5: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.zeros((5, 2), np.int64)
    layout = h5py.VirtualLayout((5, 2), np.int64)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (5, 2))
    del h5["x"]
    h5.create_virtual_dataset("x", layout)


NOT_ALLOWED: dict[str, Change] = {
    "external_link": _external_link,
    "soft_link": _soft_link,
    "external_storage": _external_storage,
    "virtual": _virtual,
    "filter": _replace(
        "x", lambda h5: h5.create_dataset("x", data=np.zeros((5, 2), "i8"), compression="gzip")
    ),
    "strings": _replace("x", lambda h5: h5.create_dataset("x", data=["a"])),
    "group": _replace("x", lambda h5: h5.create_group("x")),
    "columns": _replace("x", lambda h5: h5.create_dataset("x", (9, 4), "i8", chunks=(9, 2))),
    "unwritten": _replace("x", lambda h5: h5.create_dataset("x", (9, 2), "i8", chunks=(3, 2))),
    "array": lambda h5, _: h5.attrs.update(list=np.arange(3)),
    "empty": lambda h5, _: h5.attrs.update(nothing=h5py.Empty("f8")),
    "not_finite": lambda h5, _: h5.attrs.update(x=np.nan),
    "sparse": _replace("x", lambda h5: h5.create_dataset("x", (1 << 33, 2), "i8", chunks=(64, 2))),
}


@pytest.mark.parametrize("fault", NOT_ALLOWED)
def test_anything_but_plain_numbers_gets_no_footer_and_is_not_read(
    tmp_path: Path, fault: str
) -> None:
    path = made(tmp_path)
    with pytest.raises(ValueError), edited(path) as h5:  # noqa: PT011 (the text of some is pydantic's)
        NOT_ALLOWED[fault](h5, tmp_path)
    with pytest.raises(
        StoredFileError, match=r"^a\.h5: was modified outside milpath: no integrity"
    ):
        next(opened(path))


FAULTS: dict[str, tuple[Change, str]] = {
    "dtype": (
        _replace("x", lambda h5: h5.create_dataset("x", data=np.zeros((5, 2)))),
        "is float64, expected int64",
    ),
    "columns": (
        _replace("x", lambda h5: h5.create_dataset("x", data=np.zeros((5, 3), "i8"))),
        r"has shape \(5, 3\)",
    ),
    "dimensions": (
        _replace("x", lambda h5: h5.create_dataset("x", data=np.zeros(5, "i8"))),
        r"has shape \(5,\)",
    ),
    "absent": (_replace("x", lambda h5: None), "is missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_dataset_of_another_type_or_shape_raises(tmp_path: Path, fault: str) -> None:
    change, text = FAULTS[fault]
    with (
        open_h5(made(tmp_path, change), "bag") as h5,
        pytest.raises(StoredFileError, match=rf"^a\.h5: 'x' {text}"),
    ):
        h5.read("x", "int64", (None, 2))


def test_attributes_that_are_missing_or_not_json_raise(tmp_path: Path) -> None:
    def change(h5: h5py.File, _: Path) -> None:
        h5.attrs["text"], h5.attrs["deep"] = "not json", "[" * 100_000

    with open_h5(made(tmp_path, change), "bag") as h5:
        for name in ("text", "deep"):
            with pytest.raises(StoredFileError, match=f"'{name}' is not JSON"):
                h5.require_json(name)
        with pytest.raises(StoredFileError, match="'no' is missing"):
            h5.require_attr("no")


def opened(path: Path) -> Iterator[SafeH5]:
    with open_h5(path, "bag") as h5:
        yield h5


@pytest.mark.parametrize(
    ("attrs", "text"),
    [
        ({"milpath_kind": "prediction"}, "expected a bag file, this is a prediction file"),
        ({"milpath_kind": None}, "an HDF5 file that milpath did not write"),
        ({"milpath_format": 4}, "has format 4; this milpath reads format 2 to 3; update milpath"),
        (
            {"milpath_format": 1},
            "has format 1; this milpath reads format 2 to 3; make this bag again",
        ),
        ({"milpath_format": None}, "'milpath_format' is missing"),
        ({"milpath_format": "x"}, "has format x; this milpath reads format 2 to 3"),
    ],
)
def test_a_file_of_another_kind_or_format_raises(
    tmp_path: Path, attrs: dict[str, object], text: str
) -> None:
    def change(h5: h5py.File, _: Path) -> None:
        for name, value in attrs.items():
            del h5.attrs[name]
            if value is not None:
                h5.attrs[name] = value

    path = made(tmp_path, change)
    with pytest.raises(StoredFileError, match=text):
        next(opened(path))


def test_a_file_that_is_not_hdf5_raises(tmp_path: Path) -> None:
    path = made(tmp_path)
    whole = path.read_bytes()
    for data in (b"", b"text", whole[: len(whole) // 2], whole[1:]):
        path.write_bytes(data)
        with pytest.raises(StoredFileError, match=r"a\.h5: not a bag file, or damaged"):
            next(opened(path))
    for missing in (tmp_path / "none.h5", tmp_path):
        with pytest.raises(StoredFileError, match="there is no such bag file"):
            next(opened(missing))


def read_all(path: Path) -> list[object]:
    """Read everything in a file of `made`."""
    with open_h5(path, "bag") as h5:
        data = [h5.read(name, dtype, shape).tolist() for name, dtype, shape in SHAPES]
        return [
            *data,
            h5.require_attr("n"),
            h5.require_attr("word"),
            h5.require_json("json"),
            h5.dataset_attr("z", "k"),
        ]


SHAPES = [("x", "int64", (5, 2)), ("y", "uint8", (9000,)), ("z", "float32", ())]


def add_datasets(h5: h5py.File, _: Path) -> None:
    h5.create_dataset("y", data=np.arange(9000, dtype=np.uint8), chunks=(4000,))
    h5["z"] = np.float32(0.5)
    h5["z"].attrs["k"] = 1.5


def test_damage_in_any_byte_raises(tmp_path: Path) -> None:
    path = made(tmp_path, add_datasets)
    whole = path.read_bytes()
    read_all(path)
    with path.open("r+b", buffering=0) as file:
        for place in range(0, len(whole), 7):
            os.pwrite(file.fileno(), bytes([whole[place] ^ 1 << place % 8]), place)
            with pytest.raises(MilpathError, match=r"^a\.h5: [^\n]*damaged[^\n]*$"):
                read_all(path)
            os.pwrite(file.fileno(), whole[place : place + 1], place)
    read_all(path)


def test_a_file_that_is_cut_anywhere_raises(tmp_path: Path) -> None:
    path = made(tmp_path, add_datasets)
    for size in range(path.stat().st_size - 1, 0, -11):
        os.truncate(path, size)
        with pytest.raises(MilpathError, match=r"^a\.h5: "):
            read_all(path)


def test_a_file_that_another_program_modified_is_not_called_damaged(tmp_path: Path) -> None:
    path = made(tmp_path)
    with h5py.File(path, "r+") as h5:
        h5.attrs["note"] = "seen"
    with pytest.raises(StoredFileError, match="was modified outside milpath") as caught:
        read_all(path)
    assert "damaged" not in str(caught.value)
    with h5py.File(path, "w") as h5:  # of another program, with the oldest header
        h5["x"] = np.arange(3)
    with pytest.raises(StoredFileError, match="or it is of another program") as caught:
        read_all(path)
    assert "damaged" not in str(caught.value)


def test_a_file_that_is_cut_short_is_called_damaged(tmp_path: Path) -> None:
    path = made(tmp_path, add_datasets)
    with path.open("rb") as file:
        h5_bytes = read_footer(file).h5_bytes
    for size, fact in (
        (path.stat().st_size - 1, "its integrity footer is incomplete"),
        (h5_bytes - 1, f"cut short: {h5_bytes - 1} of at least {h5_bytes} bytes"),
        (50, "its HDF5 header is damaged"),
        (0, "no HDF5 file"),
    ):
        os.truncate(path, size)
        with pytest.raises(StoredFileError, match=rf"not a bag file, or damaged \({fact}\)"):
            read_all(path)


def test_a_file_that_was_edited_and_got_a_new_footer_is_read(tmp_path: Path) -> None:
    *_, n, word, found, k = read_all(made(tmp_path, add_datasets))
    assert (n, word, found, k) == (3, "süß", {"a": [1]}, 1.5)


FORGED: dict[str, tuple[Callable[[Index], object], str]] = {
    "outside": (lambda i: i["datasets"]["x"].update(extents=[[1 << 40, 80]]), "'x' declares more"),
    "beyond": (lambda i: i["datasets"]["x"].update(extents=[[0, 1 << 50]]), "'x' declares more"),
    "huge": (lambda i: i["datasets"]["x"].update(shape=[1 << 60, 1 << 60]), "'x' declares more"),
    "again": (
        lambda i: i["datasets"]["x"].update(shape=[10**5], extents=[[0, 80]] * 10**4),
        "'x' declares more",
    ),
    "pieces": (
        lambda i: i["datasets"]["x"].update(extents=[[k, 1] for k in range(80)]),
        "'x' declares more",
    ),
    "negative": (lambda i: i["datasets"]["x"].update(shape=[-5, 2]), "datasets.x.shape.0"),
    "empty_extent": (lambda i: i["datasets"]["x"].update(extents=[[0, 0]]), "extents.0.1"),
    "dimensions": (lambda i: i["datasets"]["x"].update(shape=[1] * 9), "datasets.x.shape"),
    "objects": (lambda i: i["datasets"]["x"].update(dtype="|O"), "datasets.x.dtype"),
    "big_endian": (lambda i: i["datasets"]["x"].update(dtype=">i8"), "datasets.x.dtype"),
    "list": (lambda i: i["attrs"].update(n=[1]), "attrs.n"),
    "nan": (lambda i: i["attrs"].update(n=float("nan")), "attrs.n"),
    "more": (lambda i: i.update(code="x"), "code"),
    "none": (lambda i: i.clear(), "attrs"),
}


@pytest.mark.parametrize("fault", FORGED)
def test_a_forged_footer_that_declares_more_than_the_file_holds_raises(
    tmp_path: Path, fault: str
) -> None:
    change, text = FORGED[fault]
    path = made(tmp_path)
    tamper(path, change)
    with pytest.raises(StoredFileError, match=rf"^a\.h5: [^\n]*{re.escape(text)}[^\n]*$"):
        next(opened(path))


@pytest.mark.parametrize("index", [b"", b"[" * 100_000, b"{" * (1 << 20), b"\xff\0", b"[]"])
def test_a_footer_without_a_valid_index_raises(tmp_path: Path, index: bytes) -> None:
    path = made(tmp_path)
    write_footer_with(path, index)
    with pytest.raises(StoredFileError, match="its integrity footer is not valid"):
        next(opened(path))


def test_other_programs_do_not_see_the_footer(tmp_path: Path) -> None:
    with h5py.File(made(tmp_path, add_datasets)) as h5:
        assert sorted(h5) == ["x", "y", "z"]
        assert h5["y"][8999] == 8999 % 256


@given(data=st.data())
def test_any_rows_that_are_read_are_those_of_the_array(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shape = data.draw(st.tuples(st.integers(0, 3000), st.integers(1, 9)))
    chunks = data.draw(st.none() | st.tuples(st.integers(100, 4000), st.just(shape[1])))
    values = np.random.default_rng(0).integers(0, 1 << 40, shape)
    path = tmp_path_factory.mktemp("rows") / "a.h5"
    with publish_h5(path, "bag") as h5:
        maxshape = None if chunks is None else (None, shape[1])
        h5.create_dataset("x", data=values, chunks=chunks, maxshape=maxshape)
    low, high = sorted((data.draw(st.integers(0, shape[0])), data.draw(st.integers(0, shape[0]))))
    places = st.integers(0, max(0, shape[0] - 1))
    rows = np.array(data.draw(st.lists(places, max_size=20 if shape[0] else 0)), np.int64)
    with open_h5(path, "bag") as found:
        assert np.array_equal(found.read("x", "int64", shape), values)
        assert np.array_equal(found.read("x", "int64", shape, slice(low, high)), values[low:high])
        assert np.array_equal(found.read("x", "int64", shape, rows), values[rows])


# -- fingerprints ----------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)  # fmt: skip


@given(one=values, two=values)
def test_fingerprints_are_equal_exactly_when_the_values_are(one: object, two: object) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    assert (fingerprint(one) == fingerprint(two)) is same
    assert fingerprint(one) == fingerprint(json.loads(json.dumps(one)))
    assert fingerprint(one, two) != fingerprint([one, two])


def test_a_fingerprint_does_not_depend_on_the_order_of_keys_or_on_the_process() -> None:
    assert fingerprint({"a": 1, "b": 0.1}) == fingerprint({"b": 0.1, "a": 1})
    code = "from milpath.store import fingerprint; print(fingerprint({'a': 1, 'b': 0.1}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint({"a": 1, "b": 0.1})
