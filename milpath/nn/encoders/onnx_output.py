"""The outputs of an ONNX network, and how they become features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from milpath.errors import UsageError
from milpath.nn.onnx_metadata import show_name
from milpath.store.onnxtrial import TriedOutput

_MAX_DIM = 1 << 16


@dataclass(frozen=True)
class OnnxOutput:
    """A vector that a network gives per patch.

    Attributes
    ----------
    name : of the output
    kind : "vector" (n, D), also with axes of length 1; "cls" or "mean" of tokens (n, T, D)
    dim : D
    tokens : of "mean": how many there are in the end that belong to patches
    alone : whether it is the only vector, which needs no variant
    """

    name: str
    kind: Literal["vector", "cls", "mean"]
    dim: int
    tokens: int = 0
    alone: bool = False

    @property
    def variant(self) -> str | None:
        """What tells it from the network's other vectors; None if it is the only one, as it is."""
        return None if self.alone and self.kind == "vector" else self.title

    @property
    def title(self) -> str:
        """What chooses it among several: NAME, NAME:cls or NAME:mean."""
        return self.name if self.kind == "vector" else f"{self.name}:{self.kind}"

    def pick(self, found: NDArray[Any]) -> NDArray[np.float32]:
        """Return the features (n, D) of an output."""
        if self.kind == "cls":
            found = found[:, 0]
        elif self.kind == "mean":
            found = found[:, -self.tokens :].mean(axis=1, dtype=np.float32)
        return found.reshape(len(found), self.dim).astype(np.float32, copy=False)


def _list_outputs(
    tried: Mapping[str, TriedOutput], batch: int, patch_px: int
) -> dict[str, OnnxOutput]:
    """Return each vector per patch that the network gives, by what chooses it as a variant."""
    found = []
    for name, each in tried.items():
        if each.dtype not in ("float16", "float32", "float64") or each.shape[:1] != (batch,):
            continue
        shape = each.shape
        large = [length for length in shape[1:] if length != 1]
        if len(shape) == 2 or (len(shape) == 4 and len(large) <= 1):
            found.append(OnnxOutput(name, "vector", math.prod(shape[1:])))
        elif len(shape) == 3:
            found += _list_token_outputs(name, shape[1], shape[2], patch_px)
    return {each.title: each for each in found if 1 <= each.dim <= _MAX_DIM}


def _list_token_outputs(name: str, count: int, dim: int, patch_px: int) -> list[OnnxOutput]:
    """Return the vectors of tokens: a square grid of patches comes last, other tokens before."""
    if count == 1:
        return [OnnxOutput(name, "vector", dim)]
    side = math.isqrt(count)
    if side == 0 or patch_px % side:
        return []
    mean = OnnxOutput(name, "mean", dim, side * side)
    return [mean] if side * side == count else [OnnxOutput(name, "cls", dim), mean]


def choose_output(
    path: Path,
    tried: Mapping[str, TriedOutput],
    batch: int,
    patch_px: int,
    variant: str | None,
) -> OnnxOutput:
    """Return the output that gives the features.

    Parameters
    ----------
    path : for messages
    tried : all outputs, from a trial with `batch` patches of `patch_px` px
    variant : what chooses one of several, see `OnnxOutput.title`

    Raises
    ------
    UsageError : none gives a vector per patch; several do and none is chosen; no such variant; or
        its numbers are not finite, or differ from run to run
    """
    outputs = _list_outputs(tried, batch, patch_px)
    if not outputs:
        shapes = ", ".join(
            f"{show_name(name)} {each.dtype} {each.shape}" for name, each in list(tried.items())[:8]
        )
        raise UsageError(
            f"{path.name}: gives no vector per patch ({shapes or 'no output'}); expected floats "
            "(n, D), or tokens (n, T, D); export it with its pooling"
        )
    output = _find_variant(path, outputs, variant)
    _require_sound(path, output.name, tried[output.name])
    return replace(output, alone=len(outputs) == 1)


def _find_variant(path: Path, outputs: dict[str, OnnxOutput], variant: str | None) -> OnnxOutput:
    choices = ", ".join(
        f"{show_name(title)} ({each.dim} numbers)" for title, each in list(outputs.items())[:8]
    )
    if variant is None:
        if len(outputs) > 1:
            raise UsageError(
                f"{path.name}: gives several vectors per patch; choose one with --variant: "
                f"{choices}"
            )
        return next(iter(outputs.values()))
    short = [each for each in outputs.values() if each.kind == variant]
    found = outputs.get(variant) or (short[0] if len(short) == 1 else None)
    if found is None:
        raise UsageError(f"{path.name}: has no variant {variant!r}; it has {choices}")
    return found


def _require_sound(path: Path, name: str, tried: TriedOutput) -> None:
    if not tried.finite:
        raise UsageError(
            f"{path.name}: {show_name(name)} gives numbers that are not finite; its weights are "
            "damaged, or float16 is too narrow for them"
        )
    if not tried.same:
        raise UsageError(
            f"{path.name}: {show_name(name)} gives a patch other numbers in another place of the "
            "batch, or each time; export it for inference (eval mode)"
        )
