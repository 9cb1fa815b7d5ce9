"""Heatmap: the scores of a prediction's patches as a raster on the slide.

A cell is one square of the slide, as wide as the stride of the patch grid, or a part of a patch
where patches lie anywhere; see `Heatmap.lattice`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from milpath.errors import StoredFileError, UsageError
from milpath.figures.score import Scale, Score
from milpath.formats.prediction import Prediction
from milpath.patches.grid import PatchGrid, require_places
from milpath.slides.lattice import Lattice

Floats = NDArray[np.float64]

_MAX_CELLS = 1 << 27  # cells of a raster: 1 GB
_MAX_REACH = 64  # cells that a patch covers along an axis; 17 on the finest grid of `GridParams`


@dataclass(frozen=True)
class Heatmap:
    """Scores of a slide's patches on a raster.

    Attributes
    ----------
    values : float64 array (rows, cols), NaN where there is no patch
    lattice : where the cells lie on the slide; a cell is as wide as the grid's stride
    label : what the values are, for a colour bar
    signed : whether values may be negative (contributions)
    scale : how the scores were scaled, see `score_patches`
    """

    values: Floats
    lattice: Lattice
    label: str
    signed: bool
    scale: Scale


@dataclass(frozen=True)
class PatchScores:
    """One score per patch.

    Attributes
    ----------
    values : float64 array (N,), in the order of the grid's patches
    label, signed, scale : as in `Heatmap`
    """

    values: Floats
    label: str
    signed: bool
    scale: Scale


def render_heatmap(
    prediction: Prediction,
    score: Score = Score.attention,
    scale: Scale = Scale.relative,
    class_name: str | None = None,
    member: int | None = None,
) -> Heatmap:
    """Rasterize the scores of a prediction's patches.

    Scores are scaled first and then averaged: where patches overlap, a cell is the mean over the
    patches that cover it, weighted by the covered area.

    Parameters and errors are those of `score_patches`, and

    Raises
    ------
    UsageError : the places of the patches are not known
    StoredFileError : the grid is not one that milpath writes
    """
    require_places(prediction.grid, prediction.slide.slide_id)
    scores = score_patches(prediction, score, scale, class_name, member)
    return rasterize_scores(prediction.grid, scores)


def rasterize_scores(grid: PatchGrid, scores: PatchScores) -> Heatmap:
    """Rasterize scores (N,) of a grid's N patches, one cell per stride; NaN without a patch.

    Raises
    ------
    UsageError : the places of the patches are not known
    StoredFileError : the grid is not one that milpath writes
    """
    require_places(grid, "the prediction")
    return Heatmap(
        values=_coverage_mean(grid, scores.values),
        lattice=grid.lattice,
        label=scores.label,
        signed=scores.signed,
        scale=scores.scale,
    )


def score_patches(
    prediction: Prediction,
    score: Score = Score.attention,
    scale: Scale = Scale.relative,
    class_name: str | None = None,
    member: int | None = None,
) -> PatchScores:
    """Compute one score per patch of a prediction.

    Parameters
    ----------
    prediction : of one slide
    score : `attention` (sums to 1), or `contribution` to a class's logit (sums to the logit minus
        the bias)
    scale : `relative` (default): multiplied by the number of patches N, so that attention is
        relative to the slide's mean, and the mean contribution is the logit minus the bias. The
        only scale that is comparable across slides; uniform attention is 1 everywhere.
        `percentile`: percentage of the slide's patches with a lower score (ties count half),
        0..100; by construction a tenth of *every* slide is above 90. Contributions are ranked by
        absolute value and keep their sign. `raw`: unchanged
    class_name : class of the contributions; by default the predicted class
    member : index of one member of the ensemble; by default the mean over the members

    Raises
    ------
    UsageError : the slide has no tissue, or no such class or member
    StoredFileError : a score is not finite
    """
    score, scale = Score(score), Scale(scale)  # plain strings too: a wrong one raises
    slide_id, count = prediction.slide.slide_id, len(prediction.grid)
    if count == 0:
        raise UsageError(f"{slide_id}: no tissue, so there are no patches to show")
    members = len(prediction.member_attention)
    if member is not None and not 0 <= member < members:
        raise UsageError(f"member {member}: the model has members 0 to {members - 1}")
    pick = slice(None) if member is None else slice(member, member + 1)
    signed = score is Score.contribution
    if signed:
        name = _choose_class(prediction, class_name)
        column = prediction.class_names.index(name)
        scores = prediction.member_contributions[pick, :, column].mean(axis=0)
    else:
        name = ""
        scores = prediction.member_attention[pick].mean(axis=0)
    if not np.isfinite(scores).all():
        raise StoredFileError(
            f"{slide_id}: a patch's score is not finite; classify the slide again"
        )
    return PatchScores(_rescale(scores, scale), _label(name, scale), signed, scale)


def _choose_class(prediction: Prediction, wanted: str | None) -> str:
    names = prediction.class_names
    chosen = prediction.predicted if wanted is None else wanted
    if chosen is None or chosen not in names:
        raise UsageError(f"no class {chosen!r}; the model's classes are {', '.join(names)}")
    return chosen


def _rescale(scores: Floats, scale: Scale) -> Floats:
    """Scale scores (N,); see `score_patches`."""
    if scale is Scale.raw:
        return scores
    if scale is Scale.relative:
        return scores * len(scores)
    ranks: Floats = (rankdata(np.abs(scores)) - 0.5) * (100 / len(scores)) * np.sign(scores)
    return ranks


def _label(class_name: str, scale: Scale) -> str:
    if class_name:
        return {
            Scale.raw: f"contribution to {class_name} (logit)",
            Scale.relative: f"contribution to {class_name} × number of patches (logit)",
            Scale.percentile: f"contribution to {class_name}, signed percentile within the slide",
        }[scale]
    return {
        Scale.raw: "attention",
        Scale.relative: "attention, relative to the slide's mean",
        Scale.percentile: "attention, percentile within the slide",
    }[scale]


def _coverage_mean(grid: PatchGrid, scores: Floats) -> Floats:
    """Average the scores of the patches that cover each cell, weighted by the covered area.

    A patch of side P covers ceil(P / stride) cells along an axis, the last one possibly in part,
    and one more if it is not aligned with the cells. There is one vectorised pass per covered cell,
    with the patches in the order of the raster's memory.

    Parameters
    ----------
    grid : N patches
    scores : (N,)

    Returns
    -------
    (rows, cols) array whose corner is `grid.origin_l0`, up to the last covered cell; NaN without a
    patch.

    Raises
    ------
    StoredFileError : more cells, or more cells per patch, than a grid of milpath has
    """
    stride, side = grid.stride_l0, grid.patch_size_l0
    refusal = StoredFileError(
        f"{len(grid):,} patches of {side} px, {stride} px apart, cannot be rasterized "
        f"(at most {_MAX_CELLS:,} cells, {_MAX_REACH} per patch); classify the slide again"
    )
    dense = stride <= side or grid.places == "free"  # few free patches may lie far apart
    if not (stride > 0 and dense and side <= (_MAX_REACH - 1) * stride):
        raise refusal
    first, offset = grid.lattice.locate(grid.coords)
    reach = -(-(side + int(offset.max())) // stride)
    rows, cols = (int(n) for n in first.max(axis=0) + reach)
    if first.min() < 0 or rows * cols > _MAX_CELLS:
        raise refusal
    cells = first[:, 0] * cols + first[:, 1]
    order = np.argsort(cells, kind="stable")
    cells, offset, scores = cells[order], offset[order], scores[order]
    total, area = np.zeros(rows * cols), np.zeros(rows * cols)
    steps = np.arange(reach)[:, None, None] * stride
    # (reach, N, 2): level-0 pixels of each cell, along y and x, that the patch covers
    covered = np.minimum(offset + side, steps + stride) - np.maximum(offset, steps)
    covered = covered.clip(0).astype(np.float64)
    for down in range(reach):
        for right in range(reach):
            where = cells + (down * cols + right)
            weight = covered[down, :, 0] * covered[right, :, 1]
            np.add.at(area, where, weight)
            np.add.at(total, where, weight * scores)
    mean: Floats = np.divide(total, area, out=np.full_like(total, np.nan), where=area > 0)
    used = area.reshape(rows, cols) > 0
    used_rows, used_cols = (np.flatnonzero(used.any(axis=axis)) for axis in (1, 0))
    return mean.reshape(rows, cols)[: used_rows[-1] + 1, : used_cols[-1] + 1]
