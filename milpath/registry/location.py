"""Where the weights of a published encoder lie on this machine."""

from __future__ import annotations

from pathlib import Path

from milpath.errors import UsageError
from milpath.registry.published import PublishedEncoder


def locate_weights(encoder: PublishedEncoder, weights: Path | None = None) -> Path:
    """Find the file of an encoder's weights.

    Parameters
    ----------
    encoder : of the registry
    weights : the file, or a folder with it, or with a folder of the encoder's name that holds it

    Raises
    ------
    UsageError : there is no such file
    """
    if weights is None:
        raise UsageError(
            f"{encoder.name}: give the file of its weights ({encoder.file} of "
            f"{encoder.repository}) with --weights"
        )
    if weights.is_file():
        return weights
    for place in (weights / encoder.file, weights / encoder.name / encoder.file):
        if place.is_file():
            return place
    raise UsageError(
        f"--weights {weights}: no such file, nor a folder with {encoder.file} or "
        f"{encoder.name}/{encoder.file}"
    )
