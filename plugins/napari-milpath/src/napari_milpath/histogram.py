"""Histogram: how a slide's scores are spread over the colour scale, and what the colours mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QLinearGradient, QPainter, QPaintEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_milpath.colours import Shown

BINS = 48
_BAR_PX, _TEXT_PX, _SIDE_PX = 14, 18, 24


def count_scores(shown: Shown, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of the scores (N,) fall into each of `BINS` equal parts of the colour scale.

    Those beyond its ends are counted in the outermost; NaN is not.
    """
    place = shown.place(values[np.isfinite(values)])
    counts: NDArray[np.int64] = np.histogram(place, BINS, (0.0, 1.0))[0]
    return counts


def say_score(shown: Shown, place: float) -> str:
    """The score at a place on the colour scale, as a tick's label."""
    return f"{shown.score(place):.3g}" + ("×" if shown.logarithmic else "")


class Histogram(QWidget):
    """Bars over a colour bar with ticks."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumHeight(110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._shown: Shown | None = None
        self._counts = np.zeros(BINS, np.int64)

    def count(self, shown: Shown | None, values: NDArray[np.float64] | None) -> None:
        """Count other scores (N,)."""
        if shown is not None and values is not None:
            self._counts = count_scores(shown, values)
        self.colour(shown)

    def colour(self, shown: Shown | None) -> None:
        """Show other colours under the same bars; None shows nothing."""
        self._shown = shown
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Draw it all."""
        if self._shown is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        width = self.width() - 2 * _SIDE_PX
        foot = self.height() - _BAR_PX - _TEXT_PX
        ink = self.palette().color(self.foregroundRole())
        self._draw_bars(painter, QRectF(_SIDE_PX, 2, width, foot - 4), ink)
        self._draw_scale(painter, QRectF(_SIDE_PX, foot, width, _BAR_PX), ink)
        painter.end()

    def _draw_bars(self, painter: QPainter, area: QRectF, ink: QColor) -> None:
        """Heights are square roots of counts: a few hot patches among thousands are seen."""
        heights = np.sqrt(self._counts / max(1, self._counts.max())) * area.height()
        step = area.width() / BINS
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(ink)
        for index, height in enumerate(heights.tolist()):
            bar = QRectF(area.left() + index * step, area.bottom() - height, step - 1, height)
            painter.drawRect(bar)

    def _draw_scale(self, painter: QPainter, area: QRectF, ink: QColor) -> None:
        assert self._shown is not None
        colours = np.asarray(self._shown.colormap.colors)
        gradient = QLinearGradient(area.topLeft(), area.topRight())
        for index, (red, green, blue, alpha) in enumerate(colours.tolist()):
            on_glass = (alpha * each + 1 - alpha for each in (red, green, blue))
            gradient.setColorAt(index / (len(colours) - 1), QColor.fromRgbF(*on_glass))
        painter.fillRect(area, gradient)
        painter.setPen(ink)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(area)
        for place in (0.0, 0.25, 0.5, 0.75, 1.0):
            x = area.left() + place * area.width()
            painter.drawLine(QPointF(x, area.bottom()), QPointF(x, area.bottom() + 3))
            box = QRectF(x - 40, area.bottom() + 3, 80, _TEXT_PX - 3)
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, say_score(self._shown, place))
