"""Curves: training curves and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from milpath.figures.canvas import Canvas, open_canvas, printable, write_png

if TYPE_CHECKING:  # takes a second: imported when the first curve is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Mapping[str, Sequence[float]]

_DPI = 100
_BLUE = "#1f5fbf"


def write_curves(path: Path, histories: Sequence[History], title: str) -> None:
    """Draw the training curves of an ensemble's members.

    Parameters
    ----------
    path : PNG file to write
    histories : one per member, Keras' metric names to one value per epoch: `loss`, `val_loss` and,
        for a second panel, `accuracy` and `val_accuracy`
    title : above the panels
    """
    from matplotlib import colormaps

    known = {name for history in histories for name in history}
    second = "accuracy" if known & {"accuracy", "val_accuracy"} else None
    names = ["loss"] + ([second] if second else [])
    canvas = open_canvas(
        (560, 400), len(names), f"{title}\n{_describe_members(len(histories))}", 2.8
    )
    figure = _open_figure(canvas)
    epochs = max([1, *(len(history.get("loss", ())) for history in histories)])
    colours = colormaps["viridis"](np.linspace(0.05, 0.8, max(len(histories), 1)))
    for index, name in enumerate(names):
        axes = _add_axes(canvas, figure, index, name)
        for history, colour in zip(histories, colours, strict=False):
            _draw_member(axes, history, name, colour, faint=len(histories) > 8)
        axes.set_xlim(0.5, epochs + 0.5)
    _draw_legend(canvas, figure)
    _write(path, canvas, figure)


def _open_figure(canvas: Canvas) -> Figure:
    """Create a transparent figure over the whole canvas; tick labels may extend beyond a panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = canvas.image.width / _DPI, canvas.image.height / _DPI
    figure = Figure(figsize=size, dpi=_DPI, facecolor="none")
    FigureCanvasAgg(figure)
    return figure


def _write(path: Path, canvas: Canvas, figure: Figure) -> None:
    """Paste the figure over the canvas and write a PNG."""
    renderer: Any = figure.canvas
    _make_room(canvas, figure)
    renderer.draw()
    drawn = Image.fromarray(np.asarray(renderer.buffer_rgba()))
    canvas.image.paste(drawn, mask=drawn.getchannel("A"))
    write_png(path, canvas.image)


def _make_room(canvas: Canvas, figure: Figure) -> None:
    """Move axes to the right until their tick labels fit into their panel."""
    for (left, _), axes in zip(canvas.panels, figure.axes, strict=True):
        bounds, box = axes.get_tightbbox(), axes.get_position()
        if bounds is not None and bounds.x0 < left:
            missing = (left - bounds.x0) / canvas.image.width
            axes.set_position((box.x0 + missing, box.y0, box.width - missing, box.height))


def _describe_members(count: int) -> str:
    members = "1 member" if count == 1 else f"{count} members"
    return f"{members}; the circle marks the epoch with the best validation loss"


def _add_axes(canvas: Canvas, figure: Figure, index: int, name: str) -> Axes:
    from matplotlib.ticker import MaxNLocator

    (x, y), (w, h), text = canvas.panels[index], canvas.panel_size, canvas.text_px
    inset = 4 * text, round(2.6 * text)  # room for tick labels at the left and below
    box = (x + inset[0], canvas.image.height - y - h + inset[1], w - inset[0], h - inset[1])
    scale = (canvas.image.width, canvas.image.height)
    axes = figure.add_axes(
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
    """Draw a member's training (dashed) and validation (solid) curve, and mark its best epoch."""
    style: dict[str, Any] = {"color": colour, "linewidth": 1.0 if faint else 1.6}
    alpha = 0.5 if faint else 0.9
    for key, dash in ((name, "--"), (f"val_{name}", "-")):
        values = np.asarray(history.get(key, ()), np.float64)
        epochs = np.arange(1, len(values) + 1)
        marker = "." if len(values) == 1 else ""  # a single point has no line
        axes.plot(epochs, values, dash, marker=marker, alpha=alpha, **style)
    val_loss = np.asarray(history.get("val_loss", ()), np.float64)
    values = np.asarray(history.get(f"val_{name}", ()), np.float64)
    if np.isfinite(val_loss).any():
        best = int(np.nanargmin(val_loss))
        if best < len(values):
            axes.plot(best + 1, values[best], "o", ms=4 if faint else 8, mfc="none", color=colour)


def _draw_legend(canvas: Canvas, figure: Figure) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color="#444444", linestyle=dash) for dash in ("-", "--")]
    figure.legend(
        lines,
        ["validation", "training"],
        loc="lower left",
        bbox_to_anchor=(
            canvas.panels[0][0] / canvas.image.width,
            0.7 * canvas.text_px / canvas.image.height,
        ),
        ncols=2,
        frameon=False,
        borderaxespad=0,
        fontsize=canvas.text_px * 0.72,
    )


def write_learning_curve(
    path: Path, points: Mapping[int, Sequence[float]], name: str, title: str
) -> None:
    """Draw a metric against the number of training bags.

    Parameters
    ----------
    path : PNG file to write
    points : number of training bags to the values of its models, one per seed
    name : of the metric
    title : above the panel
    """
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    counts = sorted(points)
    canvas = open_canvas(
        (820, 480), 1, f"{title}\none circle per model, the line is their mean", 1.5
    )
    figure = _open_figure(canvas)
    axes = _add_axes(canvas, figure, 0, name)
    for count in counts:
        axes.plot([count] * len(points[count]), points[count], "o", mfc="none", color=_BLUE, ms=6)
    axes.plot(counts, [np.mean(points[count]) for count in counts], "-", color=_BLUE, lw=1.6)
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.001))  # no metric exceeds 1
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("training bags", fontsize=canvas.text_px * 0.72)
    _write(path, canvas, figure)
