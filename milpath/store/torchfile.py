"""Tensors of a file that `torch.save` wrote, read without PyTorch and without unpickling it.

Such a file is a pickle, which names functions to call, beside the bytes of the tensors. The pickle
is interpreted by `milpath.store.torchpickle`, which calls none.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.store.torchpickle import REMEDY, Machine, RefusedError, Storage, Tensor, shorten

_MAX_PICKLE_BYTES = 4 << 20  # a tensor takes about 200 bytes
_MAX_DIRECTORY_BYTES = 8 << 20  # of a ZIP archive
_MAX_VALUES = 20_000
_MAX_DEPTH = 8  # of containers in containers
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


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
    except RefusedError as error:
        raise StoredFileError(f"{path.name}: {error}") from None


class TorchFile:
    """Values of an open file by name, see `TorchContents`; a tensor is read when asked for.

    Attributes
    ----------
    shapes : of the tensors
    """

    def __init__(self, root: object, load: _Load) -> None:
        self._load = load
        self._tensors: dict[str, Tensor] = {}
        self._values: dict[str, Any] = {}
        for name, value in _walk(root):
            if name in self._tensors or name in self._values:
                raise RefusedError(f"holds two values named {shorten(name)}; {REMEDY}")
            if isinstance(value, Tensor):
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


_Load = Callable[[Storage], NDArray[Any]]
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
        root = Machine(io.BytesIO(_read_pickle_member(archive, members, prefix))).run()
        order = _read_byte_order(archive, members.get(f"{prefix}byteorder"))

    def load(storage: Storage) -> NDArray[Any]:
        info = members.get(f"{prefix}data/{storage.key}")
        if info is None or info.file_size < storage.nbytes:
            raise RefusedError(
                f"a tensor needs {storage.nbytes} bytes of data/{shorten(storage.key)}, "
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
        raise RefusedError(
            f"the ZIP archive of torch.save is cut short, damaged or without checksums "
            f"({shorten(error)}); copy it, or save it again with checksums "
            "(torch.serialization.set_crc32_options)"
        ) from None


def _check_directory_size(file: IO[bytes], size: int) -> None:
    """Refuse an archive that declares a huge directory, which `zipfile` reads at once."""
    file.seek(max(0, size - (1 << 16) - 22))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise RefusedError(
            "the ZIP archive of torch.save is cut short (its directory is missing); "
            "copy or save it again"
        )
    declared = struct.unpack_from("<I", tail, at + 12)[0]
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\x06\x07":  # a larger record stands before it
        declared = struct.unpack_from("<Q", tail, at - 76 + 40)[0]
    if declared > _MAX_DIRECTORY_BYTES:
        raise RefusedError(f"has more members than a file of features needs; {REMEDY}")


def _find_prefix(members: dict[str, zipfile.ZipInfo]) -> str:
    """Return the folder of `data.pkl` in the archive, with its slash."""
    found = [name for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(found) != 1:
        raise RefusedError(f"a ZIP archive that torch.save did not write; {REMEDY}")
    return found[0].removesuffix("data.pkl")


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse compressed members, and more bytes than the file has."""
    for info in members:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise RefusedError(
                f"{shorten(info.filename)} is compressed, which torch.save never does; {REMEDY}"
            )
    if sum(info.file_size for info in members) > size:
        raise RefusedError(f"declares more bytes than the file holds; {REMEDY}")


def _read_pickle_member(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], prefix: str
) -> bytes:
    info = members[f"{prefix}data.pkl"]
    if info.file_size > _MAX_PICKLE_BYTES:
        raise RefusedError(f"holds more than tensors ({info.file_size} bytes of it); {REMEDY}")
    return archive.read(info)


def _read_byte_order(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> Literal["<", ">"]:
    """Return "<" or ">"; files of PyTorch before 2.1 do not say it."""
    if info is None:
        return "<"
    text = archive.read(info) if info.file_size < 16 else b""
    if text not in (b"little", b"big"):
        raise RefusedError(f"names a byte order that is neither little nor big; {REMEDY}")
    return ">" if text == b"big" else "<"


def _open_legacy(file: IO[bytes]) -> tuple[object, _Load]:
    """Read a file of PyTorch before 1.6: five pickles, then the storages one after the other."""
    head = io.BytesIO(file.read(_MAX_PICKLE_BYTES))
    try:
        magic = Machine(head).run()
    except RefusedError:
        magic = None
    if magic != _LEGACY_MAGIC or isinstance(magic, bool):
        raise RefusedError(f"not a file of torch.save; {REMEDY}")
    protocol, system = Machine(head).run(), Machine(head).run()
    if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict):
        raise RefusedError(f"of a version of torch.save that is not known; {REMEDY}")
    if system.get("little_endian") is not True:
        raise RefusedError(f"not saved on a little-endian machine; {REMEDY}")
    machine = Machine(head)
    root = machine.run()
    keys = Machine(head).run()
    if not isinstance(keys, list) or not _names_each(keys, machine.storages):
        raise RefusedError(f"does not list the data of its tensors; {REMEDY}")
    at, places = head.tell(), {}
    for key in keys:
        places[key] = at
        at += 8 + machine.storages[key].nbytes
    if file.seek(0, io.SEEK_END) < at:
        raise RefusedError("cut short: ends within the numbers; copy or save it again")
    return root, lambda storage: _read_legacy_storage(file, places[storage.key], storage)


def _names_each(keys: list[Any], storages: dict[str, Storage]) -> bool:
    known = all(isinstance(key, str) and key in storages for key in keys)
    return known and len(keys) == len(storages) == len(set(keys))


def _read_legacy_storage(file: IO[bytes], at: int, storage: Storage) -> NDArray[Any]:
    file.seek(at)
    if struct.unpack("<q", file.read(8))[0] != storage.count:
        raise RefusedError(f"declares two sizes for the same data; {REMEDY}")
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
                raise RefusedError(
                    f"holds more than {_MAX_VALUES} values, or containers deeper than "
                    f"{_MAX_DEPTH}; {REMEDY}"
                )
            left.extend(((*names, str(key)), item) for key, item in reversed(items))
        elif value is None or isinstance(value, Tensor | str | int | float):
            yield "/".join(names), value
        else:
            raise RefusedError(f"holds something that is not a tensor; {REMEDY}")
