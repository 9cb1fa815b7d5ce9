"""Heatmap: a prediction's scores as a raster on the slide, and the picture of it.

Here (x, y) of the slide becomes [row, col] of an array, the way back from `milpath.grid`. A cell
stands for one square of the slide, `Heatmap.origin_l0 + cell_l0 * (col, row)`, and is painted
exactly there: each pixel of a picture takes the cell that its centre lies in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion
from scipy.stats import rankdata

from milpath.errors import StoredFileError, UsageError
from milpath.grid import PatchGrid
from milpath.overview import Overview, read_thumbnail
from milpath.prediction import Prediction
from milpath.sheet import (
    DPI,
    INK,
    Sheet,
    draw_scale_bar,
    enlarge,
    finish_sheet,
    open_sheet,
    place_picture,
    printable,
    write_png,
)
from milpath.slide import Slide

if TYPE_CHECKING:  # costs a second: loaded when the first picture is drawn
    from matplotlib.colors import ListedColormap, Normalize

Score = Literal["attention", "contribution"]
Scale = Literal["raw", "relative", "percentile"]
Floats = NDArray[np.float64]

_MOST_CELLS = 1 << 27  # of a raster: a gigabyte
_MOST_REACH = 64  # cells a patch covers along an axis; the finest grid of `GridParams` has 17


@dataclass(frozen=True)
class Heatmap:
    """Scores of a slide's patches on a raster, one cell a stride.

    Attributes
    ----------
    values : float64 array (rows, cols), NaN where there is no patch
    origin_l0 : (x, y) of the top-left corner of cell [0, 0], level-0 pixels
    cell_l0 : side of a cell (the grid's stride), level-0 pixels
    label : what the numbers are, for a colour bar
    signed : whether they lie on both sides of 0 (contributions)
    scale : how the scores were scaled, see `score_patches`
    """

    values: Floats
    origin_l0: tuple[int, int]
    cell_l0: int
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


def rasterize(
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
    return lay_scores(prediction.grid, scores)


def lay_scores(grid: PatchGrid, scores: PatchScores) -> Heatmap:
    """Scores of a grid's patches on its raster; raises as `spread` does."""
    return Heatmap(
        values=spread(grid, scores.values),
        origin_l0=grid.origin_l0,
        cell_l0=grid.stride_l0,
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
        f"(at most {_MOST_CELLS:,} cells, {_MOST_REACH} a patch); make the prediction again"
    )
    if not 0 < stride <= side <= (_MOST_REACH - 1) * stride:
        raise refusal
    first, offset = np.divmod(grid.coords - np.asarray(grid.origin_l0), stride)
    reach = -(-(side + int(offset.max())) // stride)
    cols, rows = (int(n) for n in first.max(axis=0) + reach)
    if first.min() < 0 or rows * cols > _MOST_CELLS:
        raise refusal
    total, area = np.zeros((rows, cols)), np.zeros((rows, cols))
    steps = np.arange(reach)[:, None, None] * stride
    # (reach, N, 2): level-0 pixels of each cell, along x and y, that the patch covers
    covered = np.minimum(offset + side, steps + stride) - np.maximum(offset, steps)
    covered = covered.clip(0).astype(np.float64)
    for down in range(reach):
        for right in range(reach):
            where = (first[:, 1] + down, first[:, 0] + right)
            weight = covered[down, :, 1] * covered[right, :, 0]
            np.add.at(area, where, weight)
            np.add.at(total, where, weight * scores)
    mean: Floats = np.divide(total, area, out=np.full_like(total, np.nan), where=area > 0)
    used_rows, used_cols = np.nonzero(area)
    return mean[: used_rows.max() + 1, : used_cols.max() + 1]


# -- colours -------------------------------------------------------------------------------------


def colour_scale(heatmap: Heatmap, palette: str | None = None) -> tuple[Normalize, ListedColormap]:
    """How values become colours; the weak ones are the more transparent, so tissue stays visible.

    The relative scales have limits that do not follow the slide (attention: a tenth to ten times
    the mean, logarithmic; contributions: at least ± 1 logit), so that an even slide looks even.

    Parameters
    ----------
    heatmap : whose values
    palette : one of matplotlib's colour maps; by default viridis, and RdBu_r for signed values
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    place = np.linspace(0, 1, 256)
    size = np.nan_to_num(np.abs(heatmap.values))
    colours = colormaps[palette or ("RdBu_r" if heatmap.signed else "viridis")](place)
    colours[:, 3] = 0.15 + 0.6 * (np.abs(2 * place - 1) if heatmap.signed else place)
    if heatmap.scale == "percentile":
        top = 100.0
    elif heatmap.scale == "relative" and heatmap.signed:
        top = max(1.0, float(np.nanpercentile(np.abs(heatmap.values), 99)))
    else:
        top = float(size.max()) or 1.0
    norm = Normalize(-top if heatmap.signed else 0.0, top, clip=True)
    if heatmap.scale == "relative" and not heatmap.signed:
        norm = LogNorm(0.1, 10.0, clip=True)
    return norm, ListedColormap(colours)


def paint(heatmap: Heatmap, overview: Overview) -> NDArray[np.uint8]:
    """The overview with the heatmap laid over it, (rows, cols, 3)."""
    rows, cols = overview.rgb.shape[:2]
    picked = []
    for axis, count in ((1, rows), (0, cols)):
        centre = overview.origin_l0[axis] + (np.arange(count) + 0.5) * overview.cell_l0[axis]
        picked.append(np.floor((centre - heatmap.origin_l0[axis]) / heatmap.cell_l0).astype(int))
    row, col = picked
    inside_row = (row >= 0) & (row < heatmap.values.shape[0])
    inside_col = (col >= 0) & (col < heatmap.values.shape[1])
    values = np.full((rows, cols), np.nan)
    values[np.ix_(inside_row, inside_col)] = heatmap.values[
        np.ix_(row[inside_row], col[inside_col])
    ]
    shown = np.isfinite(values)
    norm, colours = colour_scale(heatmap)
    rgba = colours(norm(values[shown]))
    painted = overview.rgb.copy()
    mixed = rgba[:, :3] * 255 * rgba[:, 3:] + painted[shown] * (1 - rgba[:, 3:])
    painted[shown] = np.rint(mixed).astype(np.uint8)
    rim = shown & ~binary_erosion(shown, border_value=1)
    painted[rim] = painted[rim] // 2 + 64  # tells a weak score from none, on white glass too
    return painted


# -- the overlay ---------------------------------------------------------------------------------


def overlay_title(prediction: Prediction) -> str:
    """Two lines: slide, predicted class and its probability; what the attention rests on."""
    if prediction.predicted is None:
        return f"{prediction.slide.slide_id}: no tissue"
    count, effective = len(prediction.grid), max(1, round(prediction.effective_patches))
    sure = f"{np.max(prediction.probs):.2f}"
    if len(prediction.member_bias) > 1:
        sure += f" ± {np.max(prediction.spread):.2f} over the ensemble"
    return (
        f"{prediction.slide.slide_id}: {prediction.predicted} {sure}\n"
        f"attention rests on about {effective:,} of {count:,} patches"
    )


def render_overlay(
    slide: Slide,
    heatmap: Heatmap,
    title: str,
    *,
    max_px: int = 1000,
    side_by_side: bool = True,
) -> Image.Image:
    """The picture people look at: the slide, and beside it the slide under its heatmap.

    Parameters
    ----------
    slide : the one that was predicted
    heatmap : of its prediction
    title : first line large, further lines small; see `overlay_title`
    max_px : longer side of one panel, pixels
    side_by_side : also show the slide bare (left, or above when the slide is wide)
    """
    overview = enlarge(read_thumbnail(slide, max_px), max_px)
    rows, cols = overview.rgb.shape[:2]
    pictures = [paint(heatmap, overview)]
    if side_by_side:
        pictures.insert(0, overview.rgb)
    sheet = open_sheet((cols, rows), len(pictures), title)
    for index, picture in enumerate(pictures):
        place_picture(sheet, index, picture)
    draw_scale_bar(sheet, overview.mpp)
    draw_colour_bar(sheet, heatmap)
    return finish_sheet(sheet)


def write_overlay(
    path: Path,
    slide: Slide,
    heatmap: Heatmap,
    title: str,
    *,
    max_px: int = 1000,
) -> None:
    """`render_overlay` into a PNG file, whole or not at all."""
    write_png(path, render_overlay(slide, heatmap, title, max_px=max_px))


def draw_colour_bar(sheet: Sheet, heatmap: Heatmap) -> None:
    """At the lower right, in the colours as they look on glass."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap

    norm, colours = colour_scale(heatmap)
    rgba = colours(np.arange(256))
    on_glass = ListedColormap(rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:])
    text = sheet.text_px
    right = max(sheet.panels[-1][0] + sheet.panel_size[0], sheet.width - 2 * text) - text
    width, height = min(sheet.width // 2 - 2 * text, 34 * text), round(0.8 * text)
    bottom = sheet.height - sheet.footer_y - height
    axes = sheet.figure.add_axes(
        ((right - width) / sheet.width, bottom / sheet.height,
         width / sheet.width, height / sheet.height)
    )  # fmt: skip
    scale: Any = norm
    below = bool(np.nanmin(heatmap.values) < scale.vmin)
    above = bool(np.nanmax(heatmap.values) > scale.vmax)
    extend = ("neither", "max", "min", "both")[2 * below + above]
    bar = sheet.figure.colorbar(
        ScalarMappable(norm, on_glass), cax=axes, orientation="horizontal", extend=extend
    )
    if heatmap.scale == "relative" and not heatmap.signed:
        bar.set_ticks([0.1, 0.2, 0.5, 1, 2, 5, 10], minor=False)
        bar.set_ticklabels([f"{value}×" for value in ("0.1", "0.2", "0.5", 1, 2, 5, 10)])
        bar.minorticks_off()
    points = text * 72 / DPI
    bar.outline.set(edgecolor="#888888", linewidth=0.72)
    axes.tick_params(labelsize=0.9 * points, length=text / 6, color="#888888", labelcolor=INK)
    axes.set_xlabel(printable(heatmap.label), fontsize=points, color=INK, parse_math=False)
