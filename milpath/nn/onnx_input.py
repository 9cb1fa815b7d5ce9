"""The input of an ONNX network, and how patches become it. Keras is not imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import UsageError
from milpath.nn.onnx_metadata import (
    Colours,
    Layout,
    OnnxMetadata,
    pick_stated,
    show_name,
)
from milpath.store.onnxfile import OnnxDescription, read_onnx

_TYPES = ("float32", "float16", "uint8")
_MAX_PATCH_PX = 4096
_MAX_FIXED_BATCH = 1024
_MIN_STD = 1e-4


@dataclass(frozen=True)
class OnnxOptions:
    """What a user states of an ONNX network; what is None is taken from the file.

    Attributes
    ----------
    variant : which of its outputs: the name of one that gives a vector per patch; of one that gives
        tokens, "NAME:cls" (the first token, where it is a class token) or "NAME:mean" (the mean of
        the patches' tokens)
    patch_px : patch side length, pixels; needed where the network takes any
    mean, std : of R, G, B on the scale 0..1; a patch becomes (patch / 255 - mean) / std
    allow_other : take patches of another size than the file states
    """

    variant: str | None = None
    patch_px: int | None = None
    mean: Colours | None = None
    std: Colours | None = None
    allow_other: bool = False


@dataclass(frozen=True)
class OnnxInput:
    """What the only input of a network takes.

    Attributes
    ----------
    name, dtype, layout : of the input
    batch : patches that it takes at a time; None for any number
    patch_px : patch side length, pixels
    scaling : mean and std, on the scale 0..1; None where it takes 0..255 itself
    """

    name: str
    dtype: str
    layout: Layout
    batch: int | None
    patch_px: int
    scaling: tuple[Colours, Colours] | None

    def shape(self, batch: int) -> tuple[int, int, int, int]:
        """Return the shape of that many patches in its layout."""
        side = self.patch_px
        return (batch, 3, side, side) if self.layout == "NCHW" else (batch, side, side, 3)

    def prepare(self, patches: NDArray[np.uint8]) -> NDArray[Any]:
        """Return patches (n, P, P, 3) uint8 with the axes, scale and type of the input."""
        axis = 1 if self.layout == "NCHW" else 3
        if self.layout == "NCHW":
            patches = patches.transpose(0, 3, 1, 2)
        if self.scaling is None:
            return np.ascontiguousarray(patches)
        prepared = np.empty(patches.shape, self.dtype)
        for colour, (mean, std) in enumerate(zip(*self.scaling, strict=True)):
            table = ((np.arange(256) / 255 - mean) / std).astype(self.dtype)
            place = (slice(None),) * axis + (colour,)
            prepared[place] = table[patches[place]]
        return prepared


def check_onnx(path: Path, options: OnnxOptions) -> tuple[OnnxDescription, OnnxMetadata, OnnxInput]:
    """Check what can be known of an ONNX file without running it, and without Keras.

    Parameters
    ----------
    path : the file; it need not be trusted
    options : what the user states

    Returns
    -------
    tuple : what the file holds, what it states for milpath, and what its network takes

    Raises
    ------
    UsageError : as `milpath.store.onnxfile.read_onnx`; onnxruntime is not installed; the network
        does not take patches, or something needed is not stated
    """
    found = read_onnx(path)
    _require_onnxruntime()
    stated = OnnxMetadata(path, found.metadata)
    return found, stated, _find_input(path, found, stated, options)


def _require_onnxruntime() -> None:
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime"
        reason = "is not installed" if missing else f"cannot be imported ({str(error)[:200]})"
        raise UsageError(
            f"an ONNX file is run by onnxruntime, which {reason}; pip install 'milpath[onnx]'"
        ) from None


def _find_input(
    path: Path, found: OnnxDescription, stated: OnnxMetadata, options: OnnxOptions
) -> OnnxInput:
    """Return what the network's only input takes; raises `UsageError`."""
    if len(found.inputs) != 1:
        titles = ", ".join(show_name(each.name) for each in found.inputs[:8]) or "none"
        raise UsageError(
            f"{path.name}: has {len(found.inputs)} inputs ({titles}), expected one that takes "
            "patches; export the encoder of images alone"
        )
    (value,) = found.inputs
    fact = f"{path.name}: its input {show_name(value.name)} is {value.describe()}"
    if value.dtype not in _TYPES:
        raise UsageError(f"{fact}; expected {', '.join(_TYPES[:-1])} or {_TYPES[-1]}")
    if value.shape is None or len(value.shape) != 4:
        raise UsageError(f"{fact}; expected patches, (n, 3, P, P) or (n, P, P, 3)")
    layout = _find_layout(fact, value.shape, stated)
    batch = value.shape[0]
    if batch is not None and batch > _MAX_FIXED_BATCH:
        raise UsageError(f"{fact}; expected at most {_MAX_FIXED_BATCH} patches at a time")
    sides = value.shape[2:] if layout == "NCHW" else value.shape[1:3]
    patch_px = _find_patch_px(path, fact, {side for side in sides if side}, stated, options)
    scaling = _find_scaling(path, value.dtype, stated, options)
    return OnnxInput(value.name, value.dtype, layout, batch, patch_px, scaling)


def _find_layout(fact: str, shape: tuple[int | None, ...], stated: OnnxMetadata) -> Layout:
    """Return where the colours are, by the only axis that can hold three."""
    names: dict[Layout, int] = {"NCHW": 1, "NHWC": 3}
    sure: list[Layout] = [layout for layout, axis in names.items() if shape[axis] == 3]
    possible: list[Layout] = [layout for layout, axis in names.items() if shape[axis] in (3, None)]
    if not possible:
        raise UsageError(f"{fact}; expected three colours, (n, 3, P, P) or (n, P, P, 3)")
    if stated.layout is not None:
        if stated.layout not in possible:
            raise UsageError(f"{fact}, but its metadata say milpath.layout {stated.layout}")
        return stated.layout
    for found in (sure, possible):
        if len(found) == 1:
            return found[0]
    raise UsageError(
        f"{fact}, which does not say where the colours are; export it with an axis of 3, or store "
        "milpath.layout (NCHW or NHWC) in its metadata"
    )


def _find_patch_px(
    path: Path, fact: str, fixed: set[int], stated: OnnxMetadata, options: OnnxOptions
) -> int:
    if len(fixed) > 1:
        raise UsageError(f"{fact}; expected square patches")
    if fixed:
        (side,) = fixed
        if options.patch_px not in (None, side):
            raise UsageError(
                f"{fact}: it takes patches of {side} px only, not {options.patch_px}; leave "
                f"--patch-size out, or tile again with --patch-size {side}"
            )
        if stated.patch_px not in (None, side):
            raise UsageError(f"{fact}, but its metadata say milpath.patch_px {stated.patch_px:g}")
    else:
        side = pick_stated(path, "patch size", options.patch_px, stated.patch_px)
        if stated.patch_px not in (None, side) and not options.allow_other:
            raise UsageError(
                f"{path.name}: was made for patches of {stated.patch_px:g} px, not of "
                f"{side:g} px; tile again with --patch-size {stated.patch_px:g}, or apply it to "
                "them all the same with --allow-mpp"
            )
    if side is None:
        raise UsageError(
            f"{fact}, which takes patches of any size; give --patch-size, the size in pixels that "
            "it was made for"
        )
    if side != int(side) or not 1 <= side <= _MAX_PATCH_PX:
        raise UsageError(f"{path.name}: patches of {side:g} px; expected 1 to {_MAX_PATCH_PX}")
    return int(side)


def _find_scaling(
    path: Path, dtype: str, stated: OnnxMetadata, options: OnnxOptions
) -> tuple[Colours, Colours] | None:
    """Return mean and std; None for a network that takes 0..255."""
    mean = pick_stated(path, "mean", options.mean, stated.mean)
    std = pick_stated(path, "std", options.std, stated.std)
    if dtype == "uint8":
        if options.mean or options.std:
            raise UsageError(
                f"{path.name}: takes patches of 0..255 and scales them itself; leave --mean and "
                "--std out"
            )
        return None
    if mean is None or std is None:
        missing = " and ".join(
            name for name, value in (("--mean", mean), ("--std", std)) if value is None
        )
        raise UsageError(
            f"{path.name}: does not say how patches are scaled; give {missing} as R,G,B on the "
            "scale 0..1, as its model card states (of ImageNet: 0.485,0.456,0.406 and "
            "0.229,0.224,0.225; for patches of 0..1: 0,0,0 and 1,1,1)"
        )
    _check_colours("mean", mean, 0)
    _check_colours("std", std, _MIN_STD)
    return mean, std


def _check_colours(name: str, values: Colours, least: float) -> None:
    if not all(least <= each <= 1 for each in values):
        raise UsageError(
            f"{name} {','.join(f'{each:g}' for each in values)}: expected three numbers on the "
            "scale 0..1; divide those of a scale 0..255 by 255"
        )
