"""Pickles that describe tensors: a machine for the instructions that `torch.save` writes.

Python's unpickler can be kept from calling unknown functions, but still follows every other
instruction of a file: a few bytes make its memo gigabytes large. Here each instruction is looked up
in a table of those that describe tensors, numbers, text and containers, no function is ever called,
and anything else is refused.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pickletools import genops
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

REMEDY = "save a tensor, or a dict of tensors, with torch.save(features, path)"
"""What to do about a file that is refused."""

_MAX_STEPS = 200_000  # instructions of a pickle; a tensor takes about 40
_MAX_AXES = 8
_MAX_EDGE = 1 << 40

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


class RefusedError(Exception):
    """The file is not read; the text is the fact and the remedy."""


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class Storage:
    """Where the numbers of tensors are: `count` numbers of type `dtype` under `key`."""

    key: str
    dtype: str
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
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
class Tensor:
    """A view of a storage: first number, shape and strides, all counted in numbers."""

    storage: Storage
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


class Machine:
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
        self.storages: dict[str, Storage] = {}

    def run(self) -> Any:
        """Return the object: containers, plain values and `Tensor`; raises `RefusedError`."""
        try:
            for step, (opcode, arg, _) in enumerate(genops(self._file)):
                if step >= _MAX_STEPS:
                    raise RefusedError(f"holds more than {_MAX_STEPS} objects; {REMEDY}")
                if opcode.name == "STOP":
                    (root,) = self._stack
                    return root
                self._do(opcode.name, arg)
        except (ValueError, TypeError, IndexError, KeyError, AttributeError):
            pass
        raise RefusedError(f"its pickle is damaged or not of torch.save; {REMEDY}")

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
            raise RefusedError(
                f"holds Python objects that are not tensors ({name} in its pickle); {REMEDY}"
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
                raise RefusedError(f"holds a dict whose keys are not text; {REMEDY}")
            target[key] = value

    def _global(self, arg: str) -> None:
        self._name(arg.replace(" ", ".", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(f"{module}.{name}")

    def _name(self, name: str) -> None:
        if name not in _DTYPES and name not in (_REBUILD, _ORDERED_DICT):
            raise RefusedError(
                f"holds {shorten(name)}, but only tensors are read, since objects of other kinds "
                f"can run programs; {REMEDY}"
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
            raise RefusedError(f"reads the same data as two types; {REMEDY}")
        self._stack.append(storage)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
}
_IGNORED = {"PROTO", "FRAME"}
_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine._mark,
    "BINPUT": Machine._put,
    "LONG_BINPUT": Machine._put,
    "MEMOIZE": Machine._memoize,
    "BINGET": Machine._get,
    "LONG_BINGET": Machine._get,
    "TUPLE": Machine._tuple,
    "TUPLE1": lambda machine, _: machine._pack(1),
    "TUPLE2": lambda machine, _: machine._pack(2),
    "TUPLE3": lambda machine, _: machine._pack(3),
    "APPEND": Machine._append,
    "APPENDS": Machine._appends,
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_items,
    "GLOBAL": Machine._global,
    "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._reduce,
    "BUILD": Machine._build,
    "BINPERSID": Machine._load_persistent,
}


def _parse_storage(record: Any) -> Storage:
    """Check the record by which a pickle of `torch.save` refers to the numbers of a tensor."""
    kind, dtype, key, location, count, *view = record
    plain = kind == "storage" and isinstance(key, str) and isinstance(location, str)
    if not plain or not isinstance(dtype, _Global) or not _is_count(count, _MAX_EDGE):
        raise TypeError
    if view not in ([], [None]):
        raise RefusedError(f"holds a view of another tensor's data; {REMEDY}")
    return Storage(key, _DTYPES[dtype.name], count)


def _rebuild(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, flags: Any = None
) -> Tensor:
    """Check that a tensor lies within its storage, and takes no more memory."""
    if not isinstance(storage, Storage) or flags:
        raise RefusedError(f"holds a tensor of a kind that is not known; {REMEDY}")
    for numbers in (shape, strides):
        if not isinstance(numbers, tuple) or len(numbers) > _MAX_AXES:
            raise TypeError
    limits = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(_is_count(value, _MAX_EDGE) for value in limits):
        raise TypeError
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if count and (count > storage.count or last >= storage.count):
        raise RefusedError(
            f"a tensor of shape {shape} does not fit in its {storage.count} numbers; "
            "save it as torch.save(features.clone(), path)"
        )
    return Tensor(storage, offset, shape, strides)


def _is_count(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def shorten(value: object) -> str:
    """Make a value of an untrusted file short and printable for a message."""
    return ascii(str(value)[:60])[1:-1]
