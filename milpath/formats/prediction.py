"""Prediction: a model's output for one slide, with all that a heatmap needs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError, UsageError
from milpath.formats.existing import Existing
from milpath.formats.geometry import (
    Known,
    compare_annotations,
    compare_slides,
    find_difference,
    find_outside,
    read_geometry,
    write_geometry,
)
from milpath.formats.scores import BagScores
from milpath.patches.grid import PatchGrid
from milpath.patches.stain import read_normaliser, write_normaliser
from milpath.slides.facts import SlideFacts
from milpath.slides.names import is_printable
from milpath.store import SafeH5, open_h5, publish_h5

Floats = NDArray[np.float64]

_ROUNDING = 1e-3
_MPP_APART = 0.02  # relative difference of µm per pixel, beyond which it is said

MAX_DISTANCE = 1.25
"""Distance to the training set above which a prediction is warned of.

The 1 of the farthest training slide is that of a sample of its patches; all of them reach 1.1.
"""

NOT_CHECKED = "the slide was not checked: the files of its features do not identify it"
"""Said where a prediction of a slide that was not opened is shown on the slide of its name."""


@dataclass(frozen=True, kw_only=True)
class Prediction(BagScores):
    """Output of an ensemble for one slide: `BagScores` of its N patches, and where they lie.

    Attributes
    ----------
    slide : record of the slide
    grid : its N patches
    status : "ok", or "no_tissue" with N = 0; then `logits` and `probs` are NaN
    class_names : names of the C classes
    model : fingerprint of the model
    unreadable : number of patches left out because the slide's file is damaged there
    annotation : fingerprint of the tissue annotation; None if the tissue was detected
    features : mark of the file of features that it was made from; None if made from pixels
    in_training : whether the model was trained on this slide, so that it says nothing about others
    distance : of its patches to the training set, 1 = the largest of the training cohort's slides;
        None without patches, or where the model does not record its training set
    stain : what normalised the stain of its patches, as `milpath.patches.stain.write_normaliser`
        writes it; None if they are as scanned, or that is not known
    """

    slide: SlideFacts
    grid: PatchGrid
    status: Literal["ok", "no_tissue"]
    class_names: tuple[str, ...]
    model: str
    unreadable: int = 0
    annotation: str | None = None
    features: str | None = None
    in_training: bool = False
    distance: float | None = None
    stain: str | None = None

    @property
    def predicted(self) -> str | None:
        """Name of the most probable class; None without tissue."""
        return None if self.status == "no_tissue" else self.class_names[int(self.probs.argmax())]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against believing it, one phrase each."""
        found = ["the model was trained on this slide"] if self.in_training else []
        if self.distance is not None and self.distance > MAX_DISTANCE:
            found.append(
                f"unlike the training slides, {self.distance:.2f} times as far from them as the "
                "farthest of their own"
            )
        return tuple(found)

    @property
    def effective_patches(self) -> float:
        """Effective number of patches, 1 / Σ a_k² of the mean attention; 0 without tissue."""
        return float(1 / np.square(self.attention).sum()) if len(self.grid) else 0.0

    def select_member(self, member: int) -> Prediction:
        """Return the prediction of one member of the ensemble alone, 0 to M - 1."""
        pick = slice(member, member + 1)
        return replace(
            self,
            member_attention=self.member_attention[pick],
            member_contributions=self.member_contributions[pick],
            member_bias=self.member_bias[pick],
        )


def write_prediction(path: Path, prediction: Prediction) -> None:
    """Write a prediction file, complete or not at all; raises `OutputError`."""
    with publish_h5(path, "prediction") as h5:
        write_geometry(h5, prediction.slide, prediction.grid)
        h5.attrs["status"] = prediction.status
        h5.attrs["class_names"] = json.dumps(prediction.class_names, ensure_ascii=False)
        h5.attrs["model"] = prediction.model
        h5.attrs["unreadable"] = prediction.unreadable
        if prediction.annotation is not None:
            h5.attrs["annotation"] = prediction.annotation
        if prediction.features is not None:
            h5.attrs["features"] = prediction.features
        if prediction.in_training:
            h5.attrs["in_training"] = True
        if prediction.distance is not None:
            h5.attrs["distance"] = prediction.distance
        if prediction.stain is not None:
            h5.attrs["stain"] = prediction.stain
        h5.create_dataset("member_attention", data=prediction.member_attention)
        h5.create_dataset("member_contributions", data=prediction.member_contributions)
        h5.create_dataset("member_bias", data=prediction.member_bias)
        h5.create_dataset("probs", data=prediction.probs)


def read_prediction(path: Path) -> Prediction:
    """Read a prediction file.

    Raises
    ------
    StoredFileError : missing, damaged, modified outside milpath, or not a prediction
    """
    with open_h5(path, "prediction") as h5:
        slide, grid = read_geometry(h5)
        names = h5.require_json("class_names")
        status = h5.require_attr("status")
        if not _are_names(names):
            raise h5.refuse("attribute 'class_names' is not a list of names")
        if status not in ("ok", "no_tissue") or (status == "ok") != (len(grid) > 0):
            raise h5.refuse(f"attribute 'status' is {status!r} with {len(grid)} patches")
        bias = h5.read("member_bias", "float64", (None, len(names)))
        prediction = Prediction(
            slide=slide,
            grid=grid,
            status=status,
            class_names=tuple(names),
            member_attention=h5.read("member_attention", "float64", (len(bias), len(grid))),
            member_contributions=h5.read(
                "member_contributions", "float64", (len(bias), len(grid), len(names))
            ),
            member_bias=bias,
            model=str(h5.require_attr("model")),
            unreadable=_read_count(h5, "unreadable"),
            annotation=_read_text(h5, "annotation"),
            features=_read_text(h5, "features"),
            in_training=bool(h5.attr("in_training")),
            distance=_read_distance(h5),
            stain=_read_stain(h5),
        )
        valid = bias.size and _all_finite(prediction)
        if not valid or (len(grid) and not _sums_to_one(prediction.member_attention)):
            raise h5.refuse("its numbers cannot be the output of a model")
        return prediction


class SlideMismatchError(UsageError):
    """A prediction was made from a different slide; `fact` is the message without its remedy."""

    def __init__(self, fact: str, remedy: str) -> None:
        self.fact = fact
        super().__init__(f"{fact}; {remedy}")


def check_same_slide(prediction: Prediction, slide: Known, name: str, remedy: str) -> None:
    """Raise `SlideMismatchError` unless a prediction was made from a slide.

    Parameters
    ----------
    prediction : to compare with the slide
    slide : the slide, or its record
    name : of the slide, for the message
    remedy : last part of the message
    """
    difference = find_mismatch(prediction, slide)
    if difference is not None:
        raise SlideMismatchError(
            f"the prediction of {prediction.slide.slide_id} was made from a different slide than "
            f"{name} ({difference})",
            remedy,
        )


def find_mismatch(prediction: Prediction, slide: Known) -> str | None:
    """Say why a prediction was not made from a slide; None if it was.

    A prediction whose slide was not opened was made from the slide of its name and size, if all
    its patches lie there.
    """
    difference = find_difference(prediction.slide, slide)
    size = slide.known_size
    if difference is not None or prediction.slide.identified or size is None:
        return difference
    row = None if prediction.grid.places == "unknown" else find_outside(prediction.grid, size)
    if row is None:
        return None
    x, y = prediction.grid.coords[row].tolist()
    return f"patch {row} at ({x}, {y}) lies outside its {size[0]} x {size[1]} px"


def describe_unchecked(prediction: Prediction, mpp: tuple[float | None, float | None]) -> str:
    """Say that the slide under a prediction was not checked, and whether its resolution differs.

    Parameters
    ----------
    prediction : of a slide that was not opened
    mpp : (x, y) µm per pixel in the file of the slide of its name; None where missing
    """
    record, x = prediction.slide, mpp[0]
    if x is None or abs(x / record.mpp_x - 1) <= _MPP_APART:
        return NOT_CHECKED
    return f"{NOT_CHECKED}; it has {x:.4g} µm per pixel, but they say {record.mpp_x:.4g}"


def find_prediction(
    path: Path,
    slide: SlideFacts,
    model: str,
    annotation: str | None = None,
    features: str | None = None,
) -> Existing[Prediction]:
    """Find the prediction of a model for a slide.

    Parameters
    ----------
    path : its place
    slide, model, annotation, features : as in `Prediction`
    """
    if not path.exists():
        return Existing()
    try:
        found = read_prediction(path)
    except StoredFileError:
        return Existing.stale("the prediction was damaged, or made by another version of milpath")
    changes = compare_slides(found.slide, slide)
    changes += compare_annotations(found.annotation, annotation)
    if found.features != features:
        changes.append("the features differ")
    if found.model != model:
        changes.append("the model differs")
    if found.unreadable:  # the slide may have been copied again, as the message advises
        changes.append(f"{found.unreadable} patches could not be read the last time")
    return Existing.stale(", ".join(changes)) if changes else Existing.current(found)


def _are_names(value: object) -> bool:
    """Return whether a value is a list of different printable strings."""
    if not isinstance(value, list):
        return False
    names = {name for name in value if isinstance(name, str) and is_printable(name)}
    return len(names) == len(value)


def _read_count(h5: SafeH5, name: str) -> int:
    value = h5.require_attr(name)
    if not isinstance(value, int) or value < 0:
        raise h5.refuse(f"attribute {name!r} is not a number of patches")
    return value


def _read_distance(h5: SafeH5) -> float | None:
    value = h5.attr("distance")
    if value is not None and not (isinstance(value, float) and 0 <= value < np.inf):
        raise h5.refuse("attribute 'distance' is not a distance")
    return value


def _read_text(h5: SafeH5, name: str) -> str | None:
    value = h5.attr(name)
    if value is not None and not (isinstance(value, str) and is_printable(value)):
        raise h5.refuse(f"attribute {name!r} is not text")
    return value


def _read_stain(h5: SafeH5) -> str | None:
    value = h5.attr("stain")
    try:
        return None if value is None else write_normaliser(read_normaliser(value))
    except ValueError:
        raise h5.refuse("attribute 'stain' is not a stain normaliser") from None


def _sums_to_one(attention: Floats) -> bool:
    """Return whether each row is non-negative and sums to 1, within the rounding of float32."""
    sums = attention.sum(axis=1)
    return bool((attention >= 0).all() and (np.abs(sums - 1) < _ROUNDING).all())


def _all_finite(prediction: Prediction) -> bool:
    arrays = (
        prediction.member_attention,
        prediction.member_contributions,
        prediction.member_bias,
    )
    return all(bool(np.isfinite(array).all()) for array in arrays)
