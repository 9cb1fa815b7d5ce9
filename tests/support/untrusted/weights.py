"""Table of malicious, damaged and wrong files of an encoder's weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from milpath.nn.encoders.checkpoint import read_checkpoint
from milpath.store.weightsfile import open_weights
from support.checkpoints import draw_weights, small, write_checkpoint
from support.foreign_tensors import write_archive
from support.untrusted.watch import Case

ENCODER = small("uni")


def weights_cases() -> Iterator[Case]:
    """Yield every file, and the valid ones."""
    for suffix in ("safetensors", "bin"):
        yield from _changed_cases(suffix)
        for name, contents in BYTES.items():
            yield Case(f"{suffix}: {name}", partial(_write_bytes, f"w.{suffix}", contents), read)
    for name, contents in HEADERS.items():
        yield Case(f"header {name}", partial(_write_bytes, "w.safetensors", contents), read)
    for name, opcodes in PICKLES.items():
        yield Case(f"pickle {name}", partial(_write_pickle, opcodes), read)


def _changed_cases(suffix: str) -> Iterator[Case]:
    for name, change in VALID.items():
        write = partial(_write, f"w.{suffix}", change)
        yield Case(f"{suffix}: {name}", write, read, accepted=True)
    for name, change in CHANGES.items():
        write = partial(_write, f"w.{suffix}", change)
        yield Case(f"{suffix}: {name}", write, read, words="not the weights of UNI")
    for share in (0, 0.01, 0.3, 0.9, 0.999):
        yield Case(f"{suffix} cut at {share}", partial(_cut, f"w.{suffix}", share), read)


def read(path: Path) -> None:
    """Read a file of weights as milpath does."""
    with open_weights(path) as weights:
        checkpoint = read_checkpoint(path.name, weights, ENCODER)
        for names in checkpoint.sources.values():
            for name in names:
                weights.read(name)


Weights = dict[str, np.ndarray[Any, Any]]


@cache
def _valid() -> Weights:
    return dict(draw_weights(ENCODER))


def _write(name: str, change: Callable[[Weights], Weights], folder: Path) -> Path:
    return write_checkpoint(folder / name, change(_valid()))


def _cut(name: str, share: float, folder: Path) -> Path:
    path = _write(name, dict, folder)
    contents = path.read_bytes()
    path.write_bytes(contents[: int(share * len(contents))])
    return path


def _write_bytes(name: str, contents: Callable[[], bytes], folder: Path) -> Path:
    path = folder / name
    path.write_bytes(contents())
    return path


def _write_pickle(opcodes: bytes, folder: Path) -> Path:
    return write_archive(folder / "w.bin", opcodes, {})


def _without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def _with(**more: Any) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, **{k.replace("__", "."): v for k, v in more.items()}}


def _as(dtype: type) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value.astype(dtype) for key, value in weights.items()}


_ONE = np.zeros(1, np.float32)
VALID: dict[str, Callable[[Weights], Weights]] = {
    "valid": dict,
    "float16": _as(np.float16),
    "float64": _as(np.float64),
    "with a mask token": _with(mask_token=_ONE),
}

CHANGES: dict[str, Callable[[Weights], Weights]] = {
    "nothing": lambda _: {"other": _ONE},
    "no class token": _without("cls_token"),
    "no norm": _without("norm.weight"),
    "no bias of a block": _without("blocks.1.attn.qkv.bias"),
    "no last block": lambda weights: {k: v for k, v in weights.items() if "blocks.1." not in k},
    "one more weight": _with(other=_ONE),
    "one more block": _with(blocks__2__norm1__weight=_ONE),
    "a block of another name": _with(blocks__x__norm1__weight=_ONE),
    "1,000 blocks": lambda weights: {
        **weights,
        **{f"blocks.{k}.norm1.weight": _ONE[:0] for k in range(2, 1000)},
    },
    "a number": _with(cls_token=np.array(1, np.float32)),
    "another width": _with(cls_token=np.zeros((1, 1, 47), np.float32)),
    "a matrix transposed": lambda weights: {
        **weights,
        "blocks.0.mlp.fc1.weight": np.ascontiguousarray(weights["blocks.0.mlp.fc1.weight"].T),
    },
    "positions of no square": _with(pos_embed=np.zeros((1, 190, 48), np.float32)),
    "no positions": _with(pos_embed=np.zeros((1, 0, 48), np.float32)),
    "patches of 0 px": _with(patch_embed__proj__weight=np.zeros((48, 3, 0, 0), np.float32)),
    "queries of another width": _with(blocks__0__attn__qkv__weight=np.zeros((144, 47), np.float32)),
    "registers": _with(reg_token=np.zeros((1, 4, 48), np.float32)),
}


def _header(record: Any, data: bytes = b"", length: int | None = None) -> Callable[[], bytes]:
    text = record if isinstance(record, bytes) else json.dumps(record).encode()
    return lambda: struct.pack("<Q", len(text) if length is None else length) + text + data


def _entry(shape: list[int], low: int, high: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [low, high]}


HEADERS: dict[str, Callable[[], bytes]] = {
    "of 2^63 bytes": _header({}, length=1 << 63),
    "of 2^40 bytes": _header({}, length=1 << 40),
    "longer than the file": _header({}, length=100),
    "no JSON": _header(b"{"),
    "a list": _header([]),
    "deep": _header(b'{"a":' * 100_000),
    "too large": lambda: _header({f"n{k}": _entry([0], 0, 0) for k in range(100_000)})(),
    "shape of 2^62": _header({"cls_token": _entry([1 << 31, 1 << 31], 0, 4)}, bytes(4)),
    "shape of 10^12": _header({"cls_token": _entry([10**12], 0, 4 * 10**12)}, bytes(4)),
    "negative shape": _header({"cls_token": _entry([-1], 0, 4)}, bytes(4)),
    "offsets backwards": _header({"cls_token": _entry([1], 4, 0)}, bytes(4)),
    "offsets that overlap": _header({"a": _entry([1], 0, 4), "b": _entry([1], 0, 4)}, bytes(4)),
    "unknown numbers": _header({"cls_token": _entry([1], 0, 4, "F31")}, bytes(4)),
    "small floats": _header({"cls_token": _entry([4], 0, 4, "F8_E4M3")}, bytes(4)),
    "data left over": _header({"cls_token": _entry([1], 0, 4)}, bytes(64)),
}

PICKLES = {
    "that runs a program": b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.",
    "that reads a file": b"\x80\x02cbuiltins\nopen\nX\x0b\x00\x00\x00/etc/passwd\x85R.",
    "of a network": b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81.",
    "that has no end": b"\x80\x02]" + b"]" * 100_000,
    "of a great memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
}

BYTES: dict[str, Callable[[], bytes]] = {
    "empty": bytes,
    "zeros": lambda: bytes(100_000),
    "random": lambda: np.random.default_rng(0).bytes(100_000),
    "a web page": lambda: b"<html><body>404</body></html>",
    "a pointer of Git LFS": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "HDF5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(1000),
}
