"""What a feature file of another tool says, and what a layout of such files offers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError

_T = TypeVar("_T", str, int, float)
_TOLERANCE = 0.01  # µm per pixel are rounded where they are stated


@dataclass(frozen=True)
class FeatureHints:
    """What the user says where the files are silent.

    Parameters
    ----------
    encoder : name of the network that made the features
    mpp : µm per pixel of the patch as it was encoded
    patch_px : edge of the patch as it was encoded, pixels
    patch_size_l0 : edge of the patch, level-0 pixels
    """

    encoder: str | None = None
    mpp: float | None = None
    patch_px: int | None = None
    patch_size_l0: int | None = None


@dataclass(frozen=True)
class FeatureFacts:
    """What the features are; None where neither the file nor the user says it.

    Parameters
    ----------
    layout : name of the layout that they were read from
    dim : numbers per patch
    encoder : name of the network that made them
    patch_px : edge of the patch as it was encoded, pixels
    mpp : µm per pixel of the patch as it was encoded
    tool : program that wrote them
    variant, revision, digest : of the encoder
    """

    layout: str
    dim: int
    encoder: str | None
    patch_px: int | None
    mpp: float | None
    tool: str
    variant: str | None = None
    revision: str | None = None
    digest: str | None = None


@dataclass(frozen=True, eq=False)
class SlideFeatures:
    """The features of one slide.

    Parameters
    ----------
    slide_id : name of the slide
    features : (N, D) float16 or float32
    coords_l0 : (N, 2) int64, x and y of each patch's top left corner in level-0 pixels from the
        corner of the canvas; None if the files do not hold them
    patch_size_l0 : edge of a patch, level-0 pixels; None if unknown
    facts : what the features are
    """

    slide_id: str
    features: NDArray[np.float16] | NDArray[np.float32]
    coords_l0: NDArray[np.int64] | None
    patch_size_l0: float | None
    facts: FeatureFacts


class Layout(Protocol):
    """A way in which a tool lays out the feature files of a cohort."""

    name: str

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the file of each slide by its id; empty if the folder is not of this layout."""
        ...

    def read(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Read one slide's features; raises `StoredFileError`."""
        ...


def settle(path: Path, what: str, stated: _T | None, hint: _T | None) -> _T | None:
    """Return what a file states, else what the user says, else None.

    Raises
    ------
    StoredFileError : they differ; `what` names the value, such as "µm per pixel"
    """
    if stated is None or hint is None:
        return hint if stated is None else stated
    near = isinstance(stated, float) and abs(stated - hint) <= _TOLERANCE * abs(stated)
    same = near or stated == hint
    if not same:
        raise StoredFileError(
            f"{path.name}: its {what} is {stated}, but {hint} was given; leave that option out, or "
            "check that these are the features you mean"
        )
    return stated
