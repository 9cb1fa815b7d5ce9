"""Tensors of `torch.save` are read without PyTorch; anything else in such a file is refused."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milpath.errors import StoredFileError
from milpath.store.torchfile import read_torch
from tests.support.counting import peak_bytes
from tests.support.foreign_tensors import (
    Recorder,
    Tensor,
    bfloat16,
    tensor,
    write_archive,
    write_legacy_torch,
    write_torch,
)

WRITERS: list[Callable[[Path, Any], Path]] = [write_torch, write_legacy_torch]
TYPES = ["float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]


def numbers(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).normal(size=shape) * 50).astype(dtype)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(5, 3), (1, 1), (0, 7), (), (2, 3, 4)])
def test_a_tensor_is_read_as_it_was_written(
    tmp_path: Path, write: Callable[..., Path], dtype: str, shape: tuple[int, ...]
) -> None:
    array = np.asarray(numbers(*shape, dtype="float32").astype(dtype))
    read = read_torch(write(tmp_path / "a.pt", tensor(array)))
    assert read.tensors[""].dtype == array.dtype
    np.testing.assert_array_equal(read.tensors[""], array)
    assert not read.values


@pytest.mark.parametrize("write", WRITERS)
def test_bfloat16_is_read_as_float32_without_a_loss(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    array = np.array([[1.0, -2.5, 0.15625], [np.inf, 3e38, -0.0]], np.float32)
    read = read_torch(write(tmp_path / "a.pt", bfloat16(array))).tensors[""]
    upper = (array.view(np.uint32) >> 16 << 16).view(np.float32)
    np.testing.assert_array_equal(read, upper)
    assert read.dtype == np.float32


@pytest.mark.parametrize("write", WRITERS)
def test_tensors_of_containers_have_names(tmp_path: Path, write: Callable[..., Path]) -> None:
    features, coords = numbers(4, 3), numbers(4, 2, dtype="int64")
    value = {
        "features": tensor(features, "0"),
        "more": {"coords": [tensor(coords, "1"), "x"]},
        "mpp": 0.5,
        "tile": 256,
        "none": (None, True),
    }
    read = read_torch(write(tmp_path / "a.pt", value))
    assert sorted(read.tensors) == ["features", "more/coords/0"]
    np.testing.assert_array_equal(read.tensors["features"], features)
    np.testing.assert_array_equal(read.tensors["more/coords/0"], coords)
    assert read.values == {
        "more/coords/1": "x",
        "mpp": 0.5,
        "tile": 256,
        "none/0": None,
        "none/1": True,
    }


@pytest.mark.parametrize("write", WRITERS)
def test_views_of_one_storage_are_read(tmp_path: Path, write: Callable[..., Path]) -> None:
    array = numbers(6, 4)
    value = {
        "rows": Tensor(array.ravel(), (2, 4), (4, 1), offset=8),
        "turned": Tensor(array.ravel(), (4, 6), (1, 4)),
    }
    read = read_torch(write(tmp_path / "a.pt", value)).tensors
    np.testing.assert_array_equal(read["rows"], array[2:4])
    np.testing.assert_array_equal(read["turned"], array.T)


def test_a_big_endian_file_is_read(tmp_path: Path) -> None:
    array = numbers(3, 2)
    recorder = Recorder()
    record = recorder.record(tensor(array))
    data = {"0": array.astype(">f4").tobytes()}
    path = write_archive(tmp_path / "a.pt", record, data, "big")
    np.testing.assert_array_equal(read_torch(path).tensors[""], array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_of_each_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    value = {"a": [1, 300, 1 << 20, 1 << 40, -5], "b": ("text", 0.25), "c": {}, "d": None}
    record = pickle.dumps(value, protocol)
    values = read_torch(write_archive(tmp_path / "a.pt", record, {})).values
    assert [values[f"a/{at}"] for at in range(5)] == value["a"]
    assert (values["b/0"], values["b/1"], values["d"]) == ("text", 0.25, None)


ORDERED = b"\x80\x02ccollections\nOrderedDict\n"
NAMED = b"(X\x01\x00\x00\x00aK\x07"  # a mark, "a" and 7


@pytest.mark.parametrize(
    "record",
    [
        ORDERED + b")R" + NAMED + b"u.",
        ORDERED + b"](" + NAMED[:1].replace(b"(", b"](") + NAMED[1:] + b"ee\x85R.",
        ORDERED + b")R" + NAMED + b"u}X\x09\x00\x00\x00_metadata)sb.",
    ],
    ids=["items", "pairs", "attribute"],
)
def test_an_ordered_dict_is_a_dict_however_it_is_recorded(tmp_path: Path, record: bytes) -> None:
    assert read_torch(write_archive(tmp_path / "a.pt", record, {})).values == {"a": 7}
    assert pickle.loads(record) == {"a": 7}


def test_files_of_pytorch_itself_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    array = numbers(7, 5)
    whole = torch.from_numpy(array)
    value = {"features": whole, "half": whole.half(), "brain": whole.bfloat16(), "part": whole[2:5]}
    for protocol in (2, 4):
        for new in (True, False):
            path = tmp_path / "a.pt"
            torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
            read = read_torch(path).tensors
            for name, made in value.items():
                np.testing.assert_array_equal(read[name], made.float().numpy())


def pickled(record: bytes) -> Callable[[Path], object]:
    return lambda path: write_archive(path, record, {"0": bytes(96)})


def saved(value: Any) -> Callable[[Path], object]:
    return lambda path: write_torch(path, value)


def cut(write: Callable[..., Path], bytes_left: float) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        write(path, tensor(numbers(64, 16)))
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * bytes_left)])

    return make


def compressed(path: Path) -> None:
    recorder = Recorder()
    record = recorder.record(Tensor(np.zeros(0, "f4"), (1 << 20,), (1,), count=1 << 20))
    write_archive(path, record, {"0": bytes(4 << 20)}, compression=zipfile.ZIP_DEFLATED)


def other_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("document.xml", "x")


def flipped(path: Path) -> None:
    write_torch(path, tensor(numbers(64, 16)))
    data = bytearray(path.read_bytes())
    at = data.find(b"archive/data/0") + 200
    data[at] ^= 1
    path.write_bytes(data)


def edited(write: Callable[..., Path], old: bytes, new: bytes) -> Callable[[Path], object]:
    """Write a tensor, and change the bytes of its file where `old` comes last."""

    def make(path: Path) -> None:
        before, _, after = write(path, tensor(ROW)).read_bytes().rpartition(old)
        assert before
        path.write_bytes(before + new + after)

    return make


def large_directory(path: Path) -> None:
    data = bytearray(write_torch(path, tensor(ROW)).read_bytes())
    data[-10:-6] = struct.pack("<I", 1 << 30)
    path.write_bytes(data)


def overlapping(path: Path) -> None:
    record = Recorder().record(tensor(ROW))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", record)
        archive.writestr("archive/data/0", bytes(4096))
        archive.filelist += 3 * archive.filelist[-1:]


def nested(path: Path) -> None:
    write_archive(path, b"\x80\x02" + b"]q\x00h\x00a" + b".", {})


class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit",))


LISTS = b"(]q\x00" + b"".join(
    b"](" + b"h%c" % level * 2000 + b"eq%c" % (level + 1) for level in range(6)
)
"""Lists, each of which holds the one before 2,000 times, and no value at all."""
ROW = np.arange(24, dtype="f4")
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "program": (pickled(pickle.dumps(Evil(), 2)), r"holds __builtin__\.exec, but only tensors"),
    "program in 4": (pickled(pickle.dumps(Evil(), 4)), r"holds builtins\.exec"),
    "array": (pickled(pickle.dumps(ROW, 2)), r"holds numpy.*_reconstruct"),
    "instance": (pickled(b"\x80\x02(i__main__\nX\n."), "not tensors .INST"),
    "object": (pickled(b"\x80\x02)\x81."), "not tensors .NEWOBJ"),
    "bytes": (pickled(pickle.dumps(b"abc", 4)), "not tensors .SHORT_BINBYTES"),
    "set": (pickled(pickle.dumps({1}, 4)), "not tensors .EMPTY_SET"),
    "function": (pickled(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n."), "not a tensor"),
    "called type": (pickled(b"\x80\x02ctorch\nFloatStorage\n)R."), "pickle is damaged"),
    "called text": (pickled(b"\x80\x02X\x01\x00\x00\x00a)R."), "pickle is damaged"),
    "empty": (pickled(b""), "pickle is damaged"),
    "no stop": (pickled(b"\x80\x02N"), "pickle is damaged"),
    "no mark": (pickled(b"\x80\x02t."), "pickle is damaged"),
    "two objects": (pickled(b"\x80\x02NN."), "pickle is damaged"),
    "far memo": (pickled(b"\x80\x02Nr\xff\xff\xff\x7fj\x00\x00\x00\x7f."), "pickle is damaged"),
    "long text": (pickled(b"\x80\x02\x8d" + b"\xff" * 7 + b"\x00."), "pickle is damaged"),
    "a tuple as key": (pickled(b"\x80\x02}))s."), "keys are not text"),
    "a list in itself": (nested, "deeper than 8"),
    "a loop": (pickled(b"\x80\x02]q\x00(" + b"h\x00" * 30_000 + b"e."), "deeper than 8"),
    "many values": (pickled(b"\x80\x02](" + b"N" * 30_000 + b"e."), "more than 20000 values"),
    "lists of one list": (pickled(b"\x80\x02" + LISTS + b"t."), "more than 20000 values"),
    "many lists": (pickled(b"\x80\x02" + b"]" * 3_000_000 + b"."), "more than 200000 objects"),
    "two names": (saved({"a/b": 1, "a": {"b": tensor(ROW)}}), "two values named a/b"),
    "a huge pickle": (pickled(b"N" * (5 << 20)), "more than tensors"),
    "large shape": (saved(Tensor(ROW, (25,), (1,))), "does not fit in its 24 numbers"),
    "repeated": (saved(Tensor(ROW, (1 << 30, 24), (0, 1))), "does not fit in its 24 numbers"),
    "past the end": (saved(Tensor(ROW, (2, 12), (13, 1))), "does not fit"),
    "offset": (saved(Tensor(ROW, (24,), (1,), offset=1)), "does not fit"),
    "negative offset": (saved(Tensor(ROW, (24,), (1,), offset=-1)), "pickle is damaged"),
    "negative stride": (saved(Tensor(ROW, (24,), (-1,))), "pickle is damaged"),
    "many axes": (saved(Tensor(ROW, (1,) * 64, (1,) * 64)), "pickle is damaged"),
    "unequal axes": (saved(Tensor(ROW, (24, 1), (1,))), "pickle is damaged"),
    "declared": (saved(Tensor(ROW, (1 << 30,), (1,), count=1 << 30)), "needs 4294967296 bytes"),
    "lost": (lambda p: write_archive(p, Recorder().record(tensor(ROW)), {}), "which has 0"),
    "type": (saved(Tensor(ROW, (24,), (1,), kind="ComplexFloatStorage")), "holds torch.Complex"),
    "two types": (
        saved([Tensor(ROW, (3,), (1,)), Tensor(ROW, (3,), (1,), kind="IntStorage")]),
        "same data as two types",
    ),
    "to be conjugated": (
        saved(Tensor(ROW, (24,), (1,), flags={"conj": True})),
        "a tensor of a kind that is not known",
    ),
    "view": (edited(write_legacy_torch, b"NtQ", b"\x88tQ"), "view of another tensor's data"),
    "two sizes": (
        edited(write_legacy_torch, struct.pack("<q", 24), struct.pack("<q", 23)),
        "two sizes for the same data",
    ),
    "unlisted data": (edited(write_legacy_torch, b"]q\x00", b"}q\x00"), "does not list|damaged"),
    "large directory": (large_directory, "more members than a file of features needs"),
    "overlapping": (overlapping, "declares more bytes than the file holds"),
    "byte order": (lambda p: write_torch(p, tensor(ROW), "middle"), "byte order"),
    "compressed": (compressed, "is compressed"),
    "another archive": (other_archive, "torch.save did not write"),
    "flipped": (flipped, "damaged"),
    "short": (cut(write_torch, 0.6), "cut short"),
    "short legacy": (cut(write_legacy_torch, 0.6), "cut short"),
    "short legacy pickle": (cut(write_legacy_torch, 0.02), "not a file of torch.save|damaged"),
    "big-endian legacy": (
        lambda p: write_legacy_torch(p, tensor(ROW), little=False),
        "not saved on a little-endian machine",
    ),
    "plain pickle": (lambda p: p.write_bytes(pickle.dumps([1.5])), "not a file of torch.save"),
    "text": (lambda p: p.write_text("hello"), "not a file of torch.save"),
    "nothing": (lambda p: p.write_bytes(b""), "not a file of torch.save"),
    "absent": (lambda p: None, "there is no such file"),
    "folder": (lambda p: p.mkdir(), "cannot be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_of_tensors_is_refused_in_one_line(tmp_path: Path, fault: str) -> None:
    make, fact = FAULTS[fault]
    path = tmp_path / "a.pt"
    make(path)
    with pytest.raises(StoredFileError, match=fact) as caught:
        read_torch(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("a.pt: ")


@pytest.mark.parametrize("write", WRITERS)
def test_a_damaged_file_is_read_or_refused_and_never_ends_otherwise(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    path = write(tmp_path / "a.pt", {"features": tensor(numbers(2, 3)), "mpp": 0.5})
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            read_torch(path)
        except StoredFileError:
            refused += 1
    assert refused > 60


@pytest.mark.parametrize(
    "fault", ["repeated", "declared", "far memo", "long text", "compressed", "two names"]
)
def test_a_hostile_file_takes_no_memory(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "a.pt"
    FAULTS[fault][0](path)

    def read() -> None:
        with pytest.raises(StoredFileError):
            read_torch(path)

    assert peak_bytes(read) < 8 << 20


@pytest.mark.parametrize("fault", ["many lists", "lists of one list", "many values", "a loop"])
def test_a_hostile_pickle_takes_little_memory(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "a.pt"
    FAULTS[fault][0](path)

    def read() -> None:
        with pytest.raises(StoredFileError):
            read_torch(path)

    assert peak_bytes(read) < 64 << 20
