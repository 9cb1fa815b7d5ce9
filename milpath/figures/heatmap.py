"""Heatmap: a prediction's scores as a raster on the slide.

A cell is one square of the slide, as wide as the stride of the patch grid; see `Heatmap.lattice`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from milpath.errors import StoredFileError, UsageError
from milpath.formats.prediction import Prediction
from milpath.patches.grid import PatchGrid
from milpath.slides.lattice import Lattice

Score = Literal["attention", "contribution"]
Scale = Literal["raw", "relative", "percentile"]
Floats = NDArray[np.float64]

_MAX_CELLS = 1 << 27  # of a raster: a gigabyte
_MAX_REACH = 64  # cells a patch covers along an axis; the finest grid of `GridParams` has 17


@dataclass(frozen=True)
class Heatmap:
    """Scores of a slide's patches on a raster, one cell a stride.

    Attributes
    ----------
    values : float64 array (rows, cols), NaN where there is no patch
    lattice : where the cells lie on the slide; a cell is as wide as the grid's stride
    label : what the numbers are, for a colour bar
    signed : whether they lie on both sides of 0 (contributions)
    scale : how the scores were scaled, see `score_patches`
    """

    values: Floats
    lattice: Lattice
    label: str
    signed: bool
    scale: Scale


@dataclass(frozen=True)
class PatchScores:
    """One number a patch.

    Attributes
    ----------
    values : float64 array (N,), in the order of the grid
    label, signed, scale : as in `Heatmap`
    """

    values: Floats
    label: str
    signed: bool
    scale: Scale


def render_heatmap(
    prediction: Prediction,
    score: Score = "attention",
    scale: Scale = "relative",
    class_name: str | None = None,
    member: int | None = None,
) -> Heatmap:
    """Lay the scores of a prediction's patches on a raster.

    Patches are scaled first and then averaged: where they overlap, a cell is the mean over the
    patches that cover it, weighted by the area they cover.

    Parameters and errors are those of `score_patches`; also

    Raises
    ------
    StoredFileError : a grid that no model of milpath gives
    """
    scores = score_patches(prediction, score, scale, class_name, member)
    return rasterize_scores(prediction.grid, scores)


def rasterize_scores(grid: PatchGrid, scores: PatchScores) -> Heatmap:
    """Scores of a grid's patches on its raster; raises as `spread` does."""
    return Heatmap(
        values=spread(grid, scores.values),
        lattice=grid.lattice,
        label=scores.label,
        signed=scores.signed,
        scale=scores.scale,
    )


def score_patches(
    prediction: Prediction,
    score: Score = "attention",
    scale: Scale = "relative",
    class_name: str | None = None,
    member: int | None = None,
) -> PatchScores:
    """The scores of a prediction's patches, in numbers that say what they are.

    Parameters
    ----------
    prediction : of one slide
    score : `attention` (sums to 1), or `contribution` to a class's logit (they sum to it, less
        the bias)
    scale : `relative` (the default): times the number of patches N. Attention then says how many
        times the slide's mean it is, and contributions have the logit less its bias for mean: the
        one scale that is comparable across slides, and that shows a slide on which the model is
        undecided as even. `percentile`: the share of the slide's patches below (ties count
        half), 0..100; by construction it paints a tenth of *every* slide hot. Contributions rank
        by size and keep their sign. `raw`: the numbers themselves
    class_name : whose contributions; the predicted one's by default
    member : of the ensemble; the members' mean by default

    Raises
    ------
    UsageError : no tissue and so nothing to show, or no such class or member
    StoredFileError : scores that no model of milpath gives
    """
    slide_id, count = prediction.slide.slide_id, len(prediction.grid)
    if count == 0:
        raise UsageError(f"{slide_id}: no tissue, so there is nothing to show")
    members = len(prediction.member_attention)
    if member is not None and not 0 <= member < members:
        raise UsageError(f"member {member}: the model has members 0 to {members - 1}")
    pick = slice(None) if member is None else slice(member, member + 1)
    signed = score == "contribution"
    if signed:
        name = _which_class(prediction, class_name)
        column = prediction.class_names.index(name)
        scores = prediction.member_contributions[pick, :, column].mean(axis=0)
    else:
        name = ""
        scores = prediction.member_attention[pick].mean(axis=0)
    if not np.isfinite(scores).all():
        raise StoredFileError(f"{slide_id}: a patch's score is not a number; predict it again")
    return PatchScores(_rescale(scores, scale), _label(name, scale), signed, scale)


def _which_class(prediction: Prediction, wanted: str | None) -> str:
    names = prediction.class_names
    chosen = prediction.predicted if wanted is None else wanted
    if chosen is None or chosen not in names:
        raise UsageError(f"no class {chosen!r}; the model's classes are {', '.join(names)}")
    return chosen


def _rescale(scores: Floats, scale: Scale) -> Floats:
    """(N,) scores in their scale; see `score_patches`."""
    if scale == "raw":
        return scores
    if scale == "relative":
        return scores * len(scores)
    ranks: Floats = (rankdata(np.abs(scores)) - 0.5) * (100 / len(scores)) * np.sign(scores)
    return ranks


def _label(class_name: str, scale: Scale) -> str:
    if class_name:
        return {
            "raw": f"contribution to {class_name} (logit)",
            "relative": f"contribution to {class_name} × number of patches (logit)",
            "percentile": f"contribution to {class_name}, signed percentile within the slide",
        }[scale]
    return {
        "raw": "attention",
        "relative": "attention, relative to the slide's mean",
        "percentile": "attention, percentile within the slide",
    }[scale]


def spread(grid: PatchGrid, scores: Floats) -> Floats:
    """The mean score over each cell of the grid's lattice, weighted by the covered area.

    A patch of side P covers ceil(P / stride) cells an axis, the last perhaps in part; one more when
    it lies off the lattice. All patches are added at once, one pass for each of those cells.

    Parameters
    ----------
    grid : N patches
    scores : (N,)

    Returns
    -------
    (rows, cols) array that starts at `grid.origin_l0` and holds every covered cell; NaN where
    there is no patch.

    Raises
    ------
    StoredFileError : numbers that no grid of milpath has (the prediction came from elsewhere)
    """
    stride, side = grid.stride_l0, grid.patch_size_l0
    refusal = StoredFileError(
        f"{len(grid):,} patches of {side} px, {stride} px apart, cannot be laid on a raster "
        f"(at most {_MAX_CELLS:,} cells, {_MAX_REACH} a patch); make the prediction again"
    )
    if not 0 < stride <= side <= (_MAX_REACH - 1) * stride:
        raise refusal
    first, offset = grid.lattice.locate(grid.coords)
    reach = -(-(side + int(offset.max())) // stride)
    rows, cols = (int(n) for n in first.max(axis=0) + reach)
    if first.min() < 0 or rows * cols > _MAX_CELLS:
        raise refusal
    total, area = np.zeros((rows, cols)), np.zeros((rows, cols))
    steps = np.arange(reach)[:, None, None] * stride
    # (reach, N, 2): level-0 pixels of each cell, along y and x, that the patch covers
    covered = np.minimum(offset + side, steps + stride) - np.maximum(offset, steps)
    covered = covered.clip(0).astype(np.float64)
    for down in range(reach):
        for right in range(reach):
            where = (first[:, 0] + down, first[:, 1] + right)
            weight = covered[down, :, 0] * covered[right, :, 1]
            np.add.at(area, where, weight)
            np.add.at(total, where, weight * scores)
    mean: Floats = np.divide(total, area, out=np.full_like(total, np.nan), where=area > 0)
    used_rows, used_cols = np.nonzero(area)
    return mean[: used_rows.max() + 1, : used_cols.max() + 1]
