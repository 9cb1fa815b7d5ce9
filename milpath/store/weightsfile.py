"""Weights of a network in a file of another program, read one by one without running code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.store.torchfile import open_torch

_MAX_HEADER_BYTES = 2 << 20  # of safetensors; a weight takes about 100
_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL")


class Weights(Protocol):
    """Weights of an open file by name.

    Attributes
    ----------
    shapes : of the weights
    """

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights by name."""

    def read(self, name: str) -> NDArray[Any]:
        """Read one weight."""


@contextmanager
def open_weights(path: Path) -> Iterator[Weights]:
    """Open a file of weights, of safetensors or `torch.save`; it need not be trusted.

    Nothing but names and shapes is read before a weight is asked for.

    Raises
    ------
    StoredFileError : missing, damaged, or a file of another kind
    """
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as weights:
            yield weights
    else:
        with open_torch(path) as torch:
            yield torch


class _Safetensors:
    def __init__(self, path: Path, file: Any) -> None:
        self._path, self._file = path, file
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name in file.keys():  # noqa: SIM118 - not a dict
            part = file.get_slice(name)
            if part.get_dtype() not in _DTYPES:
                raise StoredFileError(
                    f"{path.name}: {name[:60]!a} holds {part.get_dtype()} numbers; "
                    f"expected one of {', '.join(_DTYPES)}"
                )
            self.shapes[name] = tuple(part.get_shape())

    def read(self, name: str) -> NDArray[Any]:
        return np.asarray(self._file.get_tensor(name))


@contextmanager
def _open_safetensors(path: Path) -> Iterator[Weights]:
    from safetensors import SafetensorError, safe_open

    _check_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            yield _Safetensors(path, file)
    except SafetensorError as error:
        raise StoredFileError(
            f"{path.name}: not a safetensors file, or damaged ({_shorten(error)}); copy it again"
        ) from None


def _check_header(path: Path) -> None:
    """Refuse a file that declares a huge header, which would be read at once."""
    try:
        with path.open("rb") as file:
            declared = int.from_bytes(file.read(8), "little")
    except FileNotFoundError:
        raise StoredFileError(f"{path.name}: there is no such file; check the path") from None
    except OSError as error:
        raise StoredFileError(f"{path.name}: cannot be read ({error.strerror})") from None
    if declared > min(_MAX_HEADER_BYTES, path.stat().st_size):
        raise StoredFileError(
            f"{path.name}: not a safetensors file, or cut short (it declares a header of "
            f"{declared} bytes); copy it again"
        )


def _shorten(error: object) -> str:
    return ascii(" ".join(str(error).split())[:100])[1:-1]
