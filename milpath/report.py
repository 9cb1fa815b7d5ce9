"""Report: pictures that people read to judge a run: tiling checks, training curves.

Every file is self-contained, the same for the same inputs, and written whole or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from milpath.grid import PatchGrid
from milpath.overview import Overview
from milpath.sheet import (
    Sheet,
    draw_scale_bar,
    enlarge,
    finish_sheet,
    open_sheet,
    place_picture,
    printable,
    write_png,
)
from milpath.tissue import TissueMask

if TYPE_CHECKING:  # costs a second: loaded when the first picture is drawn
    from matplotlib.axes import Axes

History = Mapping[str, Sequence[float]]

_MAX_QC_PX = 1600
_TISSUE, _PATCH, _PEN = "#00a040", "#1f5fbf", "#d000a0"


# -- tiling --------------------------------------------------------------------------------------


def draw_qc(overview: Overview, tissue: TissueMask, grid: PatchGrid, title: str) -> Image.Image:
    """Draw what was cut from a slide: its overview, the tissue's outline, pen, and the patches.

    Parameters
    ----------
    overview : the slide
    tissue : as `segment_tissue` found it
    grid : the patches, any number
    title : the first line; the second tells what the picture shows
    """
    overview = enlarge(_shrink(overview, _MAX_QC_PX), _MAX_QC_PX)
    rows, cols = overview.rgb.shape[:2]
    sheet = open_sheet((cols, rows), 1, f"{title}\n{_describe(overview, tissue, grid)}", 3.2)
    place_picture(sheet, 0, overview.rgb)
    axes = _slide_axes(sheet, overview)
    _draw_patches(axes, sheet, grid)
    _draw_mask(axes, tissue, tissue.pen, _PEN, fill=True)
    _draw_mask(axes, tissue, tissue.mask, _TISSUE, fill=False)
    draw_scale_bar(sheet, overview.mpp)
    _draw_key(sheet, pen=bool(tissue.pen.any()))
    return finish_sheet(sheet)


def _shrink(overview: Overview, max_px: int) -> Overview:
    """The overview with at most `max_px` pixels on its longer side."""
    rows, cols = overview.rgb.shape[:2]
    factor = max_px / max(rows, cols)
    if factor >= 1:
        return overview
    size = max(1, round(cols * factor)), max(1, round(rows * factor))
    shrunk = Image.fromarray(overview.rgb).resize(size, Image.Resampling.BOX)
    cell = overview.cell_l0[0] * cols / size[0], overview.cell_l0[1] * rows / size[1]
    growth = math.sqrt(cell[0] * cell[1] / (overview.cell_l0[0] * overview.cell_l0[1]))
    return replace(overview, rgb=np.asarray(shrunk), cell_l0=cell, mpp=overview.mpp * growth)


def _describe(overview: Overview, tissue: TissueMask, grid: PatchGrid) -> str:
    um_per_l0 = overview.mpp / math.sqrt(overview.cell_l0[0] * overview.cell_l0[1])
    cell_um2 = tissue.cell_l0[0] * tissue.cell_l0[1] * um_per_l0**2
    area_mm2 = int(tissue.mask.sum()) * cell_um2 / 1e6
    patches = "1 patch" if len(grid) == 1 else f"{len(grid):,} patches"
    return (
        f"{patches} of {grid.patch_px} px at {grid.patch_mpp:.4g} µm/px"
        f"  ·  {area_mm2:.3g} mm² of tissue  ·  level 0 at {um_per_l0:.4g} µm/px"
    )


def _slide_axes(sheet: Sheet, overview: Overview) -> Axes:
    """Axes over the panel whose data are level-0 pixels of the slide."""
    (x, y), (w, h) = sheet.panels[0], sheet.panel_size
    bottom = sheet.height - y - h
    axes = sheet.figure.add_axes(
        (x / sheet.width, bottom / sheet.height, w / sheet.width, h / sheet.height),
        frameon=False,
        zorder=3,
    )
    left, top = overview.origin_l0
    axes.set(
        xlim=(left, left + w * overview.cell_l0[0]),
        ylim=(top + h * overview.cell_l0[1], top),
        xticks=[],
        yticks=[],
        autoscale_on=False,
    )
    return axes


def _draw_patches(axes: Axes, sheet: Sheet, grid: PatchGrid) -> None:
    """All patches as one collection of squares; thinner lines when there are many."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * grid.patch_size_l0
    squares = grid.coords[:, None, :] + corners
    shown_px = grid.stride_l0 * sheet.panel_size[0] / np.ptp(axes.get_xlim())
    axes.add_collection(
        PolyCollection(
            squares,
            facecolors=to_rgba(_PATCH, 0.08 * (grid.stride_l0 / grid.patch_size_l0) ** 2),
            edgecolors=to_rgba(_PATCH, min(0.7, 0.1 + shown_px / 12)),
            linewidths=min(max(shown_px / 16, 0.25), 1.0),
        )
    )


def _draw_mask(
    axes: Axes, tissue: TissueMask, mask: NDArray[np.bool_], colour: str, *, fill: bool
) -> None:
    """The outline of a mask in the tissue's frame, closed also where it meets the border."""
    if not mask.any():
        return
    share = Image.fromarray(mask.astype(np.uint8) * 255)
    share.thumbnail((_MAX_QC_PX, _MAX_QC_PX), Image.Resampling.BOX)  # finer lines cannot be seen
    padded = np.pad(np.asarray(share), 1) / 255
    xs, ys = (
        origin + (np.arange(len_px + 2) - 0.5) * cell * len_mask / len_px
        for origin, cell, len_mask, len_px in zip(
            tissue.origin_l0, tissue.cell_l0, mask.shape[::-1], share.size, strict=True
        )
    )
    if np.max(padded) <= 0.5:  # all too fine to be shown
        return
    if fill:
        axes.contourf(xs, ys, padded, levels=[0.5, 1.5], colors=[colour], alpha=0.35)
    axes.contour(xs, ys, padded, levels=[0.5], colors=[colour], linewidths=1.1)


def _draw_key(sheet: Sheet, *, pen: bool) -> None:
    """What the lines are, at the lower right."""
    from matplotlib.lines import Line2D

    entries = [("tissue", _TISSUE), ("patches", _PATCH)] + [("pen, left out", _PEN)] * pen
    lines = [Line2D([], [], color=colour, linewidth=2) for _, colour in entries]
    right = (sheet.panels[0][0] + sheet.panel_size[0]) / sheet.width
    sheet.figure.legend(
        lines,
        [name for name, _ in entries],
        loc="upper right",
        bbox_to_anchor=(max(right, 0.95), 1 - (sheet.footer_y - sheet.text_px / 2) / sheet.height),
        ncols=len(entries),
        frameon=False,
        borderaxespad=0,
        fontsize=sheet.text_px * 0.72,
    )


# -- training ------------------------------------------------------------------------------------


def write_curves(path: Path, histories: Sequence[History], title: str) -> None:
    """Draw the training curves of an ensemble's members.

    Parameters
    ----------
    path : the PNG
    histories : of each member, Keras' names to one value an epoch: `loss`, `val_loss`, and, if
        there, `accuracy` and `val_accuracy` for a second panel
    title : above the panels
    """
    from matplotlib import colormaps

    known = {name for history in histories for name in history}
    second = "accuracy" if known & {"accuracy", "val_accuracy"} else None
    names = ["loss"] + ([second] if second else [])
    sheet = open_sheet((560, 400), len(names), f"{title}\n{_say_members(len(histories))}", 2.8)
    epochs = max([1, *(len(history.get("loss", ())) for history in histories)])
    colours = colormaps["viridis"](np.linspace(0.05, 0.8, max(len(histories), 1)))
    for index, name in enumerate(names):
        axes = _curve_axes(sheet, index, name)
        for history, colour in zip(histories, colours, strict=False):
            _draw_member(axes, history, name, colour, faint=len(histories) > 8)
        axes.set_xlim(0.5, epochs + 0.5)
    _draw_curve_key(sheet)
    write_png(path, finish_sheet(sheet))


def _say_members(count: int) -> str:
    members = "1 member" if count == 1 else f"{count} members"
    return f"{members}; the ring marks the epoch of the best validation loss"


def _curve_axes(sheet: Sheet, index: int, name: str) -> Axes:
    from matplotlib.ticker import MaxNLocator

    (x, y), (w, h), text = sheet.panels[index], sheet.panel_size, sheet.text_px
    inset = 4 * text, round(2.6 * text)  # room for the numbers at the left, and below
    box = (x + inset[0], sheet.height - y - h + inset[1], w - inset[0], h - inset[1])
    scale = (sheet.width, sheet.height)
    axes = sheet.figure.add_axes(
        (box[0] / scale[0], box[1] / scale[1], box[2] / scale[0], box[3] / scale[1])
    )
    points = text * 0.72
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=0.9 * points, color="#888888")
    axes.set_xlabel("epoch", fontsize=points)
    axes.set_ylabel(printable(name), fontsize=points)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    return axes


def _draw_member(
    axes: Axes, history: History, name: str, colour: NDArray[np.float64], *, faint: bool
) -> None:
    """One member's training (dashed) and validation (solid) curve, and its best epoch."""
    style: dict[str, Any] = {"color": colour, "linewidth": 1.0 if faint else 1.6}
    alpha = 0.5 if faint else 0.9
    for key, dash in ((name, "--"), (f"val_{name}", "-")):
        values = np.asarray(history.get(key, ()), np.float64)
        epochs = np.arange(1, len(values) + 1)
        marker = "." if len(values) == 1 else ""  # one point makes no line
        axes.plot(epochs, values, dash, marker=marker, alpha=alpha, **style)
    judged = np.asarray(history.get("val_loss", ()), np.float64)
    values = np.asarray(history.get(f"val_{name}", ()), np.float64)
    if np.isfinite(judged).any():
        best = int(np.nanargmin(judged))
        if best < len(values):
            axes.plot(best + 1, values[best], "o", ms=4 if faint else 8, mfc="none", color=colour)


def _draw_curve_key(sheet: Sheet) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color="#444444", linestyle=dash) for dash in ("-", "--")]
    sheet.figure.legend(
        lines,
        ["validation", "training"],
        loc="lower left",
        bbox_to_anchor=(sheet.panels[0][0] / sheet.width, 0.7 * sheet.text_px / sheet.height),
        ncols=2,
        frameon=False,
        borderaxespad=0,
        fontsize=sheet.text_px * 0.72,
    )


# -- benchmarks ----------------------------------------------------------------------------------


def write_learning_curve(
    path: Path, points: Mapping[int, Sequence[float]], name: str, title: str
) -> None:
    """Draw a figure of merit against how much there was to learn from.

    Parameters
    ----------
    path : the PNG
    points : number of training bags to the values of its models, one a seed
    name : of the figure
    title : above the panel
    """
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    counts = sorted(points)
    sheet = open_sheet((820, 480), 1, f"{title}\na ring a model, the line their mean", 1.5)
    axes = _curve_axes(sheet, 0, name)
    for count in counts:
        axes.plot([count] * len(points[count]), points[count], "o", mfc="none", color=_PATCH, ms=6)
    axes.plot(counts, [np.mean(points[count]) for count in counts], "-", color=_PATCH, lw=1.6)
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.001))  # nothing lies above 1
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("training bags", fontsize=sheet.text_px * 0.72)
    write_png(path, finish_sheet(sheet))
