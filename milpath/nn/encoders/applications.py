"""The networks of `keras.applications` as frozen encoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from milpath.errors import UsageError
from milpath.nn.engine import keras
from milpath.store.untrusted import check_untrusted_hdf5


def build_application(name: str, patch_px: int, weights: str | None) -> keras.Model:
    """Build a network of `keras.applications` with its own preprocessing and a mean over positions.

    Parameters
    ----------
    name : lower-case key of `list_applications`
    patch_px : patch side length, pixels
    weights : "imagenet" (Keras downloads them), a Keras weights file of the network without its
        top, or None for random ones

    Raises
    ------
    UsageError : the weights are not available or do not fit
    """
    build, preprocess = list_applications()[name]
    if weights not in (None, "imagenet"):
        if not Path(weights).is_file():
            raise UsageError(f"weights {weights!r}: no such file; give imagenet or a weights file")
        check_untrusted_hdf5(Path(weights))
    shape = (patch_px, patch_px, 3)
    try:
        network = build(include_top=False, weights=weights, pooling="avg", input_shape=shape)
    except Exception as error:  # Keras raises bare Exceptions for a failed download
        raise UsageError(_explain(name, weights, error)) from None
    patch = keras.Input(shape, name="patch")
    return keras.Model(patch, network(preprocess(patch)), name=name)


def _explain(name: str, weights: str | None, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    if weights == "imagenet" and "URL" in reason:
        return (
            f"encoder {name}: the ImageNet weights cannot be downloaded (no network?); give a "
            "weights file with --weights"
        )
    return f"encoder {name} cannot be built with weights {weights} ({reason})"


def list_applications() -> dict[str, tuple[Callable[..., keras.Model], Callable[[Any], Any]]]:
    """List the networks of `keras.applications`: lower-case name to (builder, preprocessing)."""
    found = {}
    for name in dir(keras.applications):
        build = getattr(keras.applications, name)
        if name[0].isupper() and callable(build):
            family = getattr(keras.applications, build.__module__.rpartition(".")[2])
            found[name.lower()] = (build, family.preprocess_input)
    return found
