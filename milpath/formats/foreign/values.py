"""What a feature file of another tool says, and what a layout of such files offers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.formats.bag import BagHeader
from milpath.formats.model_spec import EncoderSpec
from milpath.patches.grid import PatchGrid
from milpath.slides.closing import Closing
from milpath.slides.facts import SlideFacts

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
    slide_mpp : µm per pixel of the slide at level 0, if the slide is available
    """

    encoder: str | None = None
    mpp: float | None = None
    patch_px: int | None = None
    slide_mpp: float | None = None


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
class Provenance:
    """What a file of milpath says of how its features were made.

    Parameters
    ----------
    slide : record of the slide
    grid : its N patches
    header : of the bag that they were made from
    encoder : that made them
    """

    slide: SlideFacts
    grid: PatchGrid
    header: BagHeader
    encoder: EncoderSpec


class FeatureRows(Protocol):
    """Features (N, D) that are read when rows of them are asked for; NumPy arrays are such too."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    @property
    def dtype(self) -> Any:
        """float16 or float32."""

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        """Read rows, a slice without a step or int64 indices; raise `StoredFileError`.

        They are finite.
        """


@dataclass(frozen=True, eq=False)
class SlideFeatures(Closing):
    """The features of one slide, open for reading; a context manager.

    Parameters
    ----------
    slide_id : name of the slide
    features : (N, D) float16 or float32
    coords_l0 : (N, 2) int64, x and y of each patch's top left corner in level-0 pixels from the
        corner of the canvas; None if the files do not hold them, or only in µm and the slide's
        `FeatureHints.slide_mpp` is not known
    patch_size_l0 : edge of a patch, level-0 pixels; None if unknown
    facts : what the features are
    size_l0 : (width, height) of the slide, level-0 pixels; None if unknown
    made : how they were made, in files of milpath
    verified : whether all that is read is compared with checksums of milpath
    files : closed with it
    """

    slide_id: str
    features: FeatureRows
    coords_l0: NDArray[np.int64] | None
    patch_size_l0: float | None
    facts: FeatureFacts
    size_l0: tuple[int, int] | None = None
    made: Provenance | None = None
    verified: bool = False
    files: ExitStack = field(default_factory=ExitStack)

    def __len__(self) -> int:
        return self.features.shape[0]

    def close(self) -> None:
        """Close its files."""
        self.files.close()


class Layout(Protocol):
    """A way in which a tool lays out the feature files of a cohort."""

    @property
    def name(self) -> str:
        """Of the layout, as messages say it."""

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the file of each slide by its id; empty if the folder is not of this layout."""
        ...

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        ...


def scale_to_l0(facts: FeatureFacts, hints: FeatureHints) -> float | None:
    """Return the edge of a patch in level-0 pixels, from that in µm; None if unknown."""
    if facts.mpp is None or facts.patch_px is None or hints.slide_mpp is None:
        return None
    return facts.patch_px * facts.mpp / hints.slide_mpp


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


def find_mpp(
    stated: float | None, hints: FeatureHints, patch_px: int | None, size_l0: float | None
) -> float | None:
    """Return µm per pixel as stated or given, or as the slide's and the size of a patch imply."""
    if stated is not None or not (hints.slide_mpp and patch_px and size_l0):
        return stated
    return size_l0 * hints.slide_mpp / patch_px
