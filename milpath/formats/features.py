"""Features of one slide by one encoder, in an HDF5 file of their own.

Layout: that of TRIDENT, `/features` (N, D) contiguous float16 or float32, and `/coords` (N, 2)
int64 with its attributes; beside them those of the bag, and a record of the encoder as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from milpath.errors import StoredFileError
from milpath.formats.bag import BagHeader, Origin, read_header, write_header
from milpath.formats.existing import Existing
from milpath.formats.geometry import read_geometry, write_geometry
from milpath.formats.model_spec import EncoderSpec
from milpath.params import describe_violation
from milpath.patches.grid import PatchGrid
from milpath.slides.facts import SlideFacts
from milpath.store import fingerprint, open_h5, publish_h5
from milpath.store.datasets import StoredH5

_MAX_LOSS = 1e-3  # of the spread of features over patches, by rounding to float16
_MIN_SPREAD = 1e-6  # standard deviation of features over patches


class Tiled(Protocol):
    """What patches are of: a bag, or a `Tiling`."""

    @property
    def slide(self) -> SlideFacts:
        """Record of the slide."""

    @property
    def grid(self) -> PatchGrid:
        """Where its patches lie."""

    @property
    def header(self) -> BagHeader:
        """How they were cut; the codec of its parameters is that of the pixels, "none" without."""


@dataclass(frozen=True, eq=False)
class Tiling:
    """A slide and its patches, of which no bag needs to exist; see `Tiled`."""

    slide: SlideFacts
    grid: PatchGrid
    header: BagHeader


def write_features(
    path: Path, tiled: Tiled, batches: Iterable[NDArray[Any]], encoder: EncoderSpec
) -> None:
    """Write the features of a slide's patches, complete or not at all.

    They are stored as float16, or as float32 where float16 loses more than `_MAX_LOSS` of their
    spread over the patches.

    Parameters
    ----------
    path : final path of the file
    tiled : N patches and their slide, such as an open bag
    batches : arrays (n, D) in the order of the patches, N rows in all
    encoder : that made them

    Raises
    ------
    StoredFileError : features are not finite or do not differ
    OutputError : the file cannot be written; nothing is left behind
    ValueError : not N rows of D
    """
    parts = [np.asarray(each, np.float32) for each in batches]
    features = np.concatenate([np.zeros((0, encoder.dim), np.float32), *parts])
    slide_id = tiled.slide.slide_id
    if len(features) != len(tiled.grid):
        raise ValueError(f"{len(features)} rows of features for {len(tiled.grid)} patches")
    stored = _choose_dtype(features, slide_id, encoder)
    with publish_h5(path, "features") as h5:
        write_geometry(h5, tiled.slide, tiled.grid)
        write_header(h5, tiled.header)
        h5.attrs["encoder"] = encoder.model_dump_json()
        h5.attrs["made_by"] = features_fingerprint(tiled.header.fingerprint, encoder)
        dataset = h5.create_dataset("features", data=stored)
        dataset.attrs["encoder"], dataset.attrs["name"] = encoder.name, slide_id


def features_fingerprint(bag: str, encoder: EncoderSpec) -> str:
    """Return a fingerprint of the features that an encoder gives.

    Parameters
    ----------
    bag : fingerprint of the slide and its tiling, see `bag_fingerprint`
    encoder : that made them
    """
    return fingerprint("features", bag, encoder.model_dump(mode="json"))


def find_features(path: Path, origin: Origin, encoder: EncoderSpec) -> Existing[Tiling]:
    """Find the features of a slide by an encoder at a path.

    Parameters
    ----------
    path : where they would be
    origin : of the slide's patches
    encoder : that would make them

    Returns
    -------
    What they are of, where they are current.
    """
    if not path.exists():
        return Existing()
    try:
        with open_h5(path, "features") as h5:
            slide, grid = read_geometry(h5)
            tiling = Tiling(slide, grid, read_header(h5, len(grid)))
            found, made_by = read_encoder(h5), h5.require_attr("made_by")
    except StoredFileError:
        return Existing.stale("the features were damaged, or made by another version of milpath")
    if made_by == features_fingerprint(origin.fingerprint, encoder):
        return Existing.current(tiling)
    if found.model_dump() == encoder.model_dump():
        old = Origin.of_stored(tiling.slide, tiling.header)
        return Existing.stale(old.describe_change(origin))
    without_digest = found.model_copy(update={"digest": None})  # 32 digits say nothing to people
    differences = "; ".join(without_digest.compare(encoder))
    return Existing.stale("the encoder differs" + (f" ({differences})" if differences else ""))


def read_encoder(h5: StoredH5[Any]) -> EncoderSpec:
    """Read which encoder made the features of a file; raises `StoredFileError`."""
    try:
        return EncoderSpec.model_validate(h5.require_json("encoder"))
    except ValidationError as error:
        name, fact = describe_violation(error)
        raise h5.refuse(f"attribute 'encoder': {f'{name} {fact}'.strip()}") from None


def _choose_dtype(
    features: NDArray[np.float32], slide_id: str, encoder: EncoderSpec
) -> NDArray[np.floating[Any]]:
    """Round features (N, D) as `round_features`; raise `StoredFileError` if they are useless."""
    name = f"{slide_id}: {encoder.name}"
    if not np.isfinite(features).all():
        remedy = "check its weights"
        if encoder.compute == "float16":
            remedy = "give --precision bfloat16 or float32"
        raise StoredFileError(f"{name} gives features that are not finite; {remedy}")
    spread = _measure_spread(features)
    if len(features) > 1 and spread < _MIN_SPREAD:
        raise StoredFileError(
            f"{name} gives the same features for all {len(features)} patches (they differ by "
            f"{spread:.1g}); check its weights"
        )
    return round_features(features)


def round_features(features: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    """Give the features (N, D) of a slide as a file holds them, float16 or float32."""
    if len(features) == 0:
        return features.astype(np.float16)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite where float16 overflows
        half = features.astype(np.float16)
        loss = _root_mean_square(half.astype(np.float32) - features)
    scale = _measure_spread(features) if len(features) > 1 else _root_mean_square(features)
    return half if loss <= _MAX_LOSS * scale else features


def _measure_spread(features: NDArray[np.float32]) -> float:
    return _root_mean_square(features - features.mean(axis=0)) if len(features) else 0.0


def _root_mean_square(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
