"""Writing a tensor as `torch.save` of PyTorch does, without PyTorch."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.store.publishing import publish

_DATE = (1980, 1, 1, 0, 0, 0)  # so that the same tensor gives the same bytes


def publish_tensor(path: Path, values: NDArray[np.float32]) -> None:
    """Write a float32 array (N, D) that `torch.load(path, weights_only=True)` gives as a tensor.

    The file is a ZIP archive of the numbers and of a pickle that says how to put them together.

    Raises
    ------
    OutputError : it cannot be written; nothing is left behind
    """
    numbers = np.ascontiguousarray(values, "<f4")
    parts = {
        "data.pkl": _describe(*numbers.shape),
        "byteorder": b"little",
        "data/0": numbers.tobytes(),
        "version": b"3\n",
    }
    with publish(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}", _DATE), data)


def _describe(rows: int, columns: int) -> bytes:
    """Return the pickle, protocol 2, of a contiguous float tensor (rows, columns) in storage 0."""

    def whole(number: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", number)  # LONG1

    def text(word: str) -> bytes:
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += whole(rows * columns) + b"tQ"
    size = whole(rows) + whole(columns) + b"\x86"
    stride = whole(columns) + whole(1) + b"\x86"
    hooks = b"ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + whole(0) + size + stride
    return b"\x80\x02" + tensor + b"\x89" + hooks + b"tR."
