"""Tensors of a file that `torch.save` wrote, read without PyTorch and without unpickling it.

Such a file is a pickle, which names functions to call, beside the bytes of the tensors. Python's
unpickler can be kept from calling unknown functions, but still follows every other instruction of
the file: a few bytes make its memo gigabytes large. The pickle is therefore interpreted here:
each instruction is looked up in a table of those that describe tensors, numbers, text and
containers, no function is ever called, and anything else is refused.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickletools import genops
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError

_MAX_PICKLE_BYTES = 4 << 20  # a tensor takes about 200 bytes
_MAX_DIRECTORY_BYTES = 8 << 20  # of a ZIP archive
_MAX_STEPS = 200_000  # instructions of a pickle; a tensor takes about 40
_MAX_VALUES = 20_000
_MAX_DEPTH = 8  # of containers in containers
_MAX_AXES = 8
_MAX_EDGE = 1 << 40
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_REMEDY = "save a tensor, or a dict of tensors, with torch.save(features, path)"

_DTYPES = {
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": "bfloat16",
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.CharStorage": "<i1",
    "torch.ByteStorage": "<u1",
    "torch.ShortStorage": "<i2",
    "torch.IntStorage": "<i4",
    "torch.LongStorage": "<i8",
    "torch.BoolStorage": "|b1",
}
_REBUILD = "torch._utils._rebuild_tensor_v2"
_ORDERED_DICT = "collections.OrderedDict"


@dataclass(frozen=True)
class TorchContents:
    """What a file of `torch.save` holds.

    Parameters
    ----------
    tensors : by name; "" if the file is one tensor, else its key in the dict or its position in
        the list, and "a/b" in a container of a container. Read-only; bfloat16 is given as float32
    values : the numbers and texts, named likewise
    """

    tensors: dict[str, NDArray[Any]]
    values: dict[str, str | int | float | bool | None]


def read_torch(path: Path) -> TorchContents:
    """Read the tensors of a file that `torch.save` wrote; it need not be trusted.

    Files of PyTorch 1.6 and later (ZIP archives) and those before it are read. No more memory is
    taken than a few times the bytes of the file.

    Raises
    ------
    StoredFileError : missing, not a file of `torch.save`, cut short, or with objects other than
        tensors, numbers, texts, lists, tuples and dicts
    """
    with open_torch(path) as file:
        return file.read_all()


@contextmanager
def open_torch(path: Path) -> Iterator[TorchFile]:
    """Open a file that `torch.save` wrote, to read single tensors of it; it need not be trusted.

    Raises
    ------
    StoredFileError : as `read_torch` does, also from `TorchFile.read`
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            opener = _open_archive if start == b"PK\x03\x04" else _open_legacy
            yield TorchFile(*opener(file))
    except FileNotFoundError:
        raise StoredFileError(f"{path.name}: there is no such file; check the path") from None
    except OSError as error:
        raise StoredFileError(f"{path.name}: cannot be read ({error.strerror})") from None
    except _RefusedError as error:
        raise StoredFileError(f"{path.name}: {error}") from None


class TorchFile:
    """Values of an open file by name, see `TorchContents`; a tensor is read when asked for.

    Attributes
    ----------
    shapes : of the tensors
    """

    def __init__(self, root: object, load: _Load) -> None:
        self._load = load
        self._tensors: dict[str, _Tensor] = {}
        self._values: dict[str, Any] = {}
        for name, value in _walk(root):
            if name in self._tensors or name in self._values:
                raise _RefusedError(f"holds two values named {_shorten(name)}; {_REMEDY}")
            if isinstance(value, _Tensor):
                self._tensors[name] = value
            else:
                self._values[name] = value
        self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}

    def read(self, name: str) -> NDArray[Any]:
        """Read one tensor; bfloat16 is given as float32."""
        tensor = self._tensors[name]
        return tensor.view(self._load(tensor.storage))

    def read_all(self) -> TorchContents:
        """Read everything, the numbers that several tensors share once."""
        loaded: dict[str, NDArray[Any]] = {}
        tensors = {}
        for name, tensor in self._tensors.items():
            key = tensor.storage.key
            if key not in loaded:
                loaded[key] = self._load(tensor.storage)
            tensors[name] = tensor.view(loaded[key])
        return TorchContents(tensors, self._values)


class _RefusedError(Exception):
    """The file is not read; the text is the fact and the remedy."""


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    """Where the numbers of tensors are: `count` numbers of type `dtype` under `key`."""

    key: str
    dtype: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * (2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize)

    def decode(self, data: bytes, byte_order: Literal["<", ">"]) -> NDArray[Any]:
        """Return the numbers, 1-D; bfloat16 as float32, whose upper half it is."""
        kind = "<u2" if self.dtype == "bfloat16" else self.dtype
        numbers = np.frombuffer(data, np.dtype(kind).newbyteorder(byte_order))
        if self.dtype == "bfloat16":
            return (numbers.astype("<u4") << 16).view("<f4")
        if self.dtype == "|b1":
            return numbers.view("u1") != 0
        return numbers.astype(kind, copy=False)


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage: first number, shape and strides, all counted in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Return the tensor, a read-only view of the numbers of its storage."""
        if 0 in self.shape:
            return np.empty(self.shape, numbers.dtype)
        strides = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.shape, strides, writeable=False
        )


_Load = Callable[[_Storage], NDArray[Any]]
"""Reads the numbers of a storage."""


def _open_archive(file: IO[bytes]) -> tuple[object, _Load]:
    """Read what a file of PyTorch 1.6 or later describes, and how to read its numbers."""
    size = file.seek(0, io.SEEK_END)
    _check_directory_size(file, size)
    with _refuse_damage():
        archive = zipfile.ZipFile(file)  # of a file that the caller closes
        members = {info.filename: info for info in archive.infolist()}
        prefix = _find_prefix(members)
        _check_members(archive.infolist(), size)
        root = _Machine(io.BytesIO(_read_pickle_member(archive, members, prefix))).run()
        order = _read_byte_order(archive, members.get(f"{prefix}byteorder"))

    def load(storage: _Storage) -> NDArray[Any]:
        info = members.get(f"{prefix}data/{storage.key}")
        if info is None or info.file_size < storage.nbytes:
            raise _RefusedError(
                f"a tensor needs {storage.nbytes} bytes of data/{_shorten(storage.key)}, "
                f"which has {0 if info is None else info.file_size}; copy or save it again"
            )
        with _refuse_damage():
            return storage.decode(archive.read(info)[: storage.nbytes], order)

    return root, load


@contextmanager
def _refuse_damage() -> Iterator[None]:
    """Refuse the file if its archive turns out to be damaged in this scope."""
    try:
        yield
    except (zipfile.BadZipFile, EOFError, struct.error, RuntimeError, ValueError) as error:
        raise _RefusedError(
            f"the ZIP archive of torch.save is cut short, damaged or without checksums "
            f"({_shorten(error)}); copy it, or save it again with checksums "
            "(torch.serialization.set_crc32_options)"
        ) from None


def _check_directory_size(file: IO[bytes], size: int) -> None:
    """Refuse an archive that declares a huge directory, which `zipfile` reads at once."""
    file.seek(max(0, size - (1 << 16) - 22))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise _RefusedError(
            "the ZIP archive of torch.save is cut short (its directory is missing); "
            "copy or save it again"
        )
    declared = struct.unpack_from("<I", tail, at + 12)[0]
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\x06\x07":  # a larger record stands before it
        declared = struct.unpack_from("<Q", tail, at - 76 + 40)[0]
    if declared > _MAX_DIRECTORY_BYTES:
        raise _RefusedError(f"has more members than a file of features needs; {_REMEDY}")


def _find_prefix(members: dict[str, zipfile.ZipInfo]) -> str:
    """Return the folder of `data.pkl` in the archive, with its slash."""
    found = [name for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(found) != 1:
        raise _RefusedError(f"a ZIP archive that torch.save did not write; {_REMEDY}")
    return found[0].removesuffix("data.pkl")


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse compressed members, and more bytes than the file has."""
    for info in members:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise _RefusedError(
                f"{_shorten(info.filename)} is compressed, which torch.save never does; {_REMEDY}"
            )
    if sum(info.file_size for info in members) > size:
        raise _RefusedError(f"declares more bytes than the file holds; {_REMEDY}")


def _read_pickle_member(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], prefix: str
) -> bytes:
    info = members[f"{prefix}data.pkl"]
    if info.file_size > _MAX_PICKLE_BYTES:
        raise _RefusedError(f"holds more than tensors ({info.file_size} bytes of it); {_REMEDY}")
    return archive.read(info)


def _read_byte_order(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> Literal["<", ">"]:
    """Return "<" or ">"; files of PyTorch before 2.1 do not say it."""
    if info is None:
        return "<"
    text = archive.read(info) if info.file_size < 16 else b""
    if text not in (b"little", b"big"):
        raise _RefusedError(f"names a byte order that is neither little nor big; {_REMEDY}")
    return ">" if text == b"big" else "<"


def _open_legacy(file: IO[bytes]) -> tuple[object, _Load]:
    """Read a file of PyTorch before 1.6: five pickles, then the storages one after the other."""
    head = io.BytesIO(file.read(_MAX_PICKLE_BYTES))
    try:
        magic = _Machine(head).run()
    except _RefusedError:
        magic = None
    if magic != _LEGACY_MAGIC or isinstance(magic, bool):
        raise _RefusedError(f"not a file of torch.save; {_REMEDY}")
    protocol, system = _Machine(head).run(), _Machine(head).run()
    if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict):
        raise _RefusedError(f"of a version of torch.save that is not known; {_REMEDY}")
    if system.get("little_endian") is not True:
        raise _RefusedError(f"not saved on a little-endian machine; {_REMEDY}")
    machine = _Machine(head)
    root = machine.run()
    keys = _Machine(head).run()
    if not isinstance(keys, list) or not _names_each(keys, machine.storages):
        raise _RefusedError(f"does not list the data of its tensors; {_REMEDY}")
    at, places = head.tell(), {}
    for key in keys:
        places[key] = at
        at += 8 + machine.storages[key].nbytes
    if file.seek(0, io.SEEK_END) < at:
        raise _RefusedError("cut short: ends within the numbers; copy or save it again")
    return root, lambda storage: _read_legacy_storage(file, places[storage.key], storage)


def _names_each(keys: list[Any], storages: dict[str, _Storage]) -> bool:
    known = all(isinstance(key, str) and key in storages for key in keys)
    return known and len(keys) == len(storages) == len(set(keys))


def _read_legacy_storage(file: IO[bytes], at: int, storage: _Storage) -> NDArray[Any]:
    file.seek(at)
    if struct.unpack("<q", file.read(8))[0] != storage.count:
        raise _RefusedError(f"declares two sizes for the same data; {_REMEDY}")
    return storage.decode(file.read(storage.nbytes), "<")


def _walk(root: object) -> Iterator[tuple[str, object]]:
    """Yield what is not a container by name, depth first; containers may hold one another."""
    left: list[tuple[tuple[str, ...], object]] = [((), root)]
    visits = 0
    while left:
        names, value = left.pop()
        if isinstance(value, dict | list | tuple):
            items = list(value.items() if isinstance(value, dict) else enumerate(value))
            visits += len(items)
            if visits > _MAX_VALUES or len(names) >= _MAX_DEPTH:
                raise _RefusedError(
                    f"holds more than {_MAX_VALUES} values, or containers deeper than "
                    f"{_MAX_DEPTH}; {_REMEDY}"
                )
            left.extend(((*names, str(key)), item) for key, item in reversed(items))
        elif value is None or isinstance(value, _Tensor | str | int | float):
            yield "/".join(names), value
        else:
            raise _RefusedError(f"holds something that is not a tensor; {_REMEDY}")


class _Machine:
    """Interpret one pickle that describes tensors; it calls nothing and imports nothing.

    Parameters
    ----------
    file : in memory, so that no length that the pickle declares is allocated
    """

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # stacks below each open mark
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def run(self) -> Any:
        """Return the object: containers, plain values and `_Tensor`; raises `_RefusedError`."""
        try:
            for step, (opcode, arg, _) in enumerate(genops(self._file)):
                if step >= _MAX_STEPS:
                    raise _RefusedError(f"holds more than {_MAX_STEPS} objects; {_REMEDY}")
                if opcode.name == "STOP":
                    (root,) = self._stack
                    return root
                self._do(opcode.name, arg)
        except (ValueError, TypeError, IndexError, KeyError, AttributeError):
            pass
        raise _RefusedError(f"its pickle is damaged or not of torch.save; {_REMEDY}")

    def _do(self, name: str, arg: Any) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _LITERALS:
            self._stack.append(arg)
        elif name in _STEPS:
            _STEPS[name](self, arg)
        elif name not in _IGNORED:
            raise _RefusedError(
                f"holds Python objects that are not tensors ({name} in its pickle); {_REMEDY}"
            )

    def _mark(self, _: Any) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._put(len(self._memo))

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _tuple(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def _pack(self, count: int) -> None:
        items = [self._stack.pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _append(self, _: Any) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._pop_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise TypeError
        target.extend(items)

    def _set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _set_items(self, _: Any) -> None:
        self._update(self._pop_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise TypeError
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise _RefusedError(f"holds a dict whose keys are not text; {_REMEDY}")
            target[key] = value

    def _global(self, arg: str) -> None:
        self._name(arg.replace(" ", ".", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(f"{module}.{name}")

    def _name(self, name: str) -> None:
        if name not in _DTYPES and name not in (_REBUILD, _ORDERED_DICT):
            raise _RefusedError(
                f"holds {_shorten(name)}, but only tensors are read, since objects of other kinds "
                f"can run programs; {_REMEDY}"
            )
        self._stack.append(_Global(name))

    def _reduce(self, _: Any) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Global) or not isinstance(args, tuple):
            raise TypeError
        if function.name == _ORDERED_DICT:
            self._stack.append({})
            self._update([part for pairs in args for key, item in pairs for part in (key, item)])
        elif function.name == _REBUILD:
            self._stack.append(_rebuild(*args))
        else:
            raise TypeError

    def _build(self, _: Any) -> None:
        """Skip what PyTorch attaches to the dict of a network's weights."""
        state, target = self._stack.pop(), self._stack[-1]
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise TypeError

    def _load_persistent(self, _: Any) -> None:
        storage = _parse_storage(self._stack.pop())
        if self.storages.setdefault(storage.key, storage) != storage:
            raise _RefusedError(f"reads the same data as two types; {_REMEDY}")
        self._stack.append(storage)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
}
_IGNORED = {"PROTO", "FRAME"}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._memoize,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._pack(1),
    "TUPLE2": lambda machine, _: machine._pack(2),
    "TUPLE3": lambda machine, _: machine._pack(3),
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._load_persistent,
}


def _parse_storage(record: Any) -> _Storage:
    """Check the record by which a pickle of `torch.save` refers to the numbers of a tensor."""
    kind, dtype, key, location, count, *view = record
    plain = kind == "storage" and isinstance(key, str) and isinstance(location, str)
    if not plain or not isinstance(dtype, _Global) or not _is_count(count, _MAX_EDGE):
        raise TypeError
    if view not in ([], [None]):
        raise _RefusedError(f"holds a view of another tensor's data; {_REMEDY}")
    return _Storage(key, _DTYPES[dtype.name], count)


def _rebuild(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, flags: Any = None
) -> _Tensor:
    """Check that a tensor lies within its storage, and takes no more memory."""
    if not isinstance(storage, _Storage) or flags:
        raise _RefusedError(f"holds a tensor of a kind that is not known; {_REMEDY}")
    for numbers in (shape, strides):
        if not isinstance(numbers, tuple) or len(numbers) > _MAX_AXES:
            raise TypeError
    limits = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(_is_count(value, _MAX_EDGE) for value in limits):
        raise TypeError
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if count and (count > storage.count or last >= storage.count):
        raise _RefusedError(
            f"a tensor of shape {shape} does not fit in its {storage.count} numbers; "
            "save it as torch.save(features.clone(), path)"
        )
    return _Tensor(storage, offset, shape, strides)


def _is_count(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def _shorten(value: object) -> str:
    """Make a value of an untrusted file short and printable for a message."""
    return ascii(str(value)[:60])[1:-1]
