"""Histogram of a slide's scores over the colour scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QLinearGradient, QPainter, QPaintEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_milpath.heatmap_image import HeatmapImage

BINS = 48
_BAR_PX, _TEXT_PX, _SIDE_PX = 14, 18, 24


def count_scores(image: HeatmapImage, scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count the scores (N,) in each of `BINS` equal parts of the colour scale.

    Scores beyond its ends are counted in the outermost bins, NaN is ignored.
    """
    positions = image.position(scores[np.isfinite(scores)])
    counts: NDArray[np.int64] = np.histogram(positions, BINS, (0.0, 1.0))[0]
    return counts


def format_tick(image: HeatmapImage, position: float) -> str:
    """Format the score at a position on the colour scale, 0 to 1, as the label of a tick."""
    return f"{image.score(position):.3g}{image.unit}"


class Histogram(QWidget):
    """Draw bars over a colour bar with ticks."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumHeight(110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._image: HeatmapImage | None = None
        self._scores: NDArray[np.float64] | None = None
        self._counts = np.zeros(BINS, np.int64)

    def set_scores(self, image: HeatmapImage | None, scores: NDArray[np.float64] | None) -> None:
        """Count and show new scores (N,)."""
        self._scores, self._image = scores, None
        self.set_colours(image)

    def set_colours(self, image: HeatmapImage | None) -> None:
        """Show new colours of the same scores, counted again if the limits are new.

        None clears the widget.
        """
        shown, self._image = self._image, image
        counted = shown is not None and image is not None and shown.ends == image.ends
        if image is not None and self._scores is not None and not counted:
            self._counts = count_scores(image, self._scores)
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Draw the bars, the colour bar and its ticks."""
        if self._image is None:
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
        """Draw square roots of the counts, so that bins of few patches are visible."""
        heights = np.sqrt(self._counts / max(1, self._counts.max())) * area.height()
        step = area.width() / BINS
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(ink)
        for index, height in enumerate(heights.tolist()):
            bar = QRectF(area.left() + index * step, area.bottom() - height, step - 1, height)
            painter.drawRect(bar)

    def _draw_scale(self, painter: QPainter, area: QRectF, ink: QColor) -> None:
        assert self._image is not None
        colours = self._image.scale_colours
        gradient = QLinearGradient(area.topLeft(), area.topRight())
        for index, (red, green, blue, alpha) in enumerate(colours.tolist()):
            on_white = (alpha * each + 1 - alpha for each in (red, green, blue))
            gradient.setColorAt(index / (len(colours) - 1), QColor.fromRgbF(*on_white))
        painter.fillRect(area, gradient)
        painter.setPen(ink)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(area)
        for position in (0.0, 0.25, 0.5, 0.75, 1.0):
            x = area.left() + position * area.width()
            painter.drawLine(QPointF(x, area.bottom()), QPointF(x, area.bottom() + 3))
            box = QRectF(x - 40, area.bottom() + 3, 80, _TEXT_PX - 3)
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, format_tick(self._image, position))
