"""Arrays of files that NumPy wrote, `.npy` and `.npz`, which need not be trusted.

NumPy itself allocates what the header of a file declares, and unpacks whatever an archive holds.
"""

from __future__ import annotations

import ast
import math
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError

_MAX_HEADER_BYTES = 10_000
_MAX_MEMBERS = 1_000
_MAX_UNPACKED_BYTES = 64 << 20
_MAX_UNPACKED_RATIO = 20  # features hardly shrink when they are packed
_BLOCK_BYTES = 1 << 20
_PLAIN_TYPE = re.compile(r"[<>|=]?([biuf][1248]|[SU][0-9]{1,4})")


def read_npy(path: Path) -> NDArray[Any]:
    """Read an array of numbers, texts, or records of them, as `numpy.save` wrote it.

    Raises
    ------
    StoredFileError : missing, cut short, of another kind, or with Python objects
    """
    try:
        with path.open("rb") as file:
            return _read_array(file, path.stat().st_size)
    except FileNotFoundError:
        raise StoredFileError(f"{path.name}: there is no such file; check the path") from None
    except OSError as error:
        raise StoredFileError(f"{path.name}: cannot be read ({error.strerror})") from None
    except _RefusedError as error:
        raise StoredFileError(f"{path.name}: {error}") from None


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of an archive of `numpy.savez` or `numpy.savez_compressed` by name.

    Raises
    ------
    StoredFileError : as `read_npy`; or it would unpack to far more bytes than it has
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_unpacked_size(members, path.stat().st_size)
            arrays = {}
            for info in members:
                with archive.open(info) as file:
                    arrays[info.filename.removesuffix(".npy")] = _read_array(file, info.file_size)
            return arrays
    except FileNotFoundError:
        raise StoredFileError(f"{path.name}: there is no such file; check the path") from None
    except OSError as error:
        raise StoredFileError(f"{path.name}: cannot be read ({error.strerror})") from None
    except _RefusedError as error:
        raise StoredFileError(f"{path.name}: {error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error):
        raise StoredFileError(
            f"{path.name}: not an archive of numpy.savez, or cut short; copy or save it again"
        ) from None


class _RefusedError(Exception):
    """The array is not read; the text is the fact and the remedy."""


def _check_unpacked_size(members: list[zipfile.ZipInfo], size: int) -> None:
    unpacked = sum(info.file_size for info in members)
    if unpacked > max(_MAX_UNPACKED_BYTES, _MAX_UNPACKED_RATIO * size):
        raise _RefusedError(
            f"would unpack from {size} bytes to {unpacked}; save it with numpy.savez"
        )
    if len(members) > _MAX_MEMBERS:
        raise _RefusedError(f"holds {len(members)} arrays; expected at most {_MAX_MEMBERS}")


def _read_array(file: IO[bytes], size: int) -> NDArray[Any]:
    """Read one array from its first byte; `size` bytes are there."""
    header, used = _read_header(file)
    dtype, shape = _parse_type(header["descr"]), header["shape"]
    plain = isinstance(shape, tuple) and all(
        isinstance(edge, int) and not isinstance(edge, bool) and 0 <= edge < 1 << 40
        for edge in shape
    )
    if not plain or len(shape) > 8 or not isinstance(header["fortran_order"], bool):
        raise _RefusedError("its header declares no possible shape; save it again with numpy.save")
    expected = math.prod(shape) * dtype.itemsize
    if expected != size - used:
        raise _RefusedError(
            f"its header declares {expected} bytes for shape {shape}, {size - used} are there; "
            "copy or save it again"
        )
    data = np.empty(expected, np.uint8)
    for at in range(0, expected, _BLOCK_BYTES):
        block = file.read(min(_BLOCK_BYTES, expected - at))
        if len(block) != min(_BLOCK_BYTES, expected - at):
            raise _RefusedError("cut short; copy or save it again")
        data[at : at + len(block)] = np.frombuffer(block, np.uint8)
    array = np.ndarray(shape, dtype, data.data, order="F" if header["fortran_order"] else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_header(file: IO[bytes]) -> tuple[dict[str, Any], int]:
    """Return what the header of an array declares, and the bytes that it takes."""
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8 or start[6] not in (1, 2, 3):
        raise _RefusedError("not an array that numpy.save wrote; save it again with numpy.save")
    kind = "<H" if start[6] == 1 else "<I"
    size = struct.calcsize(kind)
    field = file.read(size)
    length = struct.unpack(kind, field)[0] if len(field) == size else _MAX_HEADER_BYTES + 1
    text = file.read(length) if length <= _MAX_HEADER_BYTES else b""
    try:
        if len(text) != length or b"\\" in text:
            raise ValueError
        header = ast.literal_eval(text.decode("utf-8").strip())
        if sorted(header) != ["descr", "fortran_order", "shape"]:
            raise ValueError
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise _RefusedError(
            "its header is damaged or too long; save it again with numpy.save"
        ) from None
    return header, 8 + size + length


def _parse_type(descr: Any) -> np.dtype[Any]:
    """Return the type of an array, which may be a record of named plain fields."""
    fields = [("", descr)] if isinstance(descr, str) else descr
    try:
        kinds = [kind for _, kind in fields]
        if not kinds or not all(_PLAIN_TYPE.fullmatch(kind) for kind in kinds):
            raise ValueError
        return np.dtype(descr)
    except (ValueError, TypeError):
        raise _RefusedError(
            "holds Python objects or types other than plain numbers, which is not read since "
            "objects can run programs; save features.astype(numpy.float32) with numpy.save"
        ) from None
