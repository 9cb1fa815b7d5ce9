"""Gallery: an album as thumbnails that are loaded in the background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from napari.qt.threading import GeneratorWorker, create_worker
from napari.utils.notifications import show_error, show_info
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QColor, QHideEvent, QIcon, QImage, QPixmap, QShowEvent
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from milpath.errors import MilpathError
from napari_milpath.album import THUMB_PX, Album, Mark, read_thumbnails

KEYS: dict[str, Mark] = {"r": "relevant", "x": "not", "u": "unsure"}
_SIGNS = {"relevant": "✔", "not": "✘", "unsure": "?"}
_ROW = Qt.ItemDataRole.UserRole


class Gallery(QWidget):
    """Shows an `Album`; a click flies there."""

    def __init__(self, album: Album) -> None:
        super().__init__()
        self.album = album
        self.worker: GeneratorWorker | None = None
        self._unreadable: set[int] = set()
        self.end = QComboBox()
        self.end.addItems(["strongest", "weakest"])
        self.count = QSpinBox()
        self.count.setRange(1, 200)
        self.count.setValue(album.count)
        self.pictures = QListWidget()
        self.pictures.setViewMode(QListWidget.ViewMode.IconMode)
        self.pictures.setIconSize(QSize(THUMB_PX, THUMB_PX))
        self.pictures.setResizeMode(QListWidget.ResizeMode.Adjust)
        self.pictures.setMovement(QListWidget.Movement.Static)
        self.pictures.setUniformItemSizes(True)
        self.save = QPushButton("Save marks …")
        self._lay_out()
        self._connect()
        self.refresh()

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        for widget in (QLabel("the"), self.count, self.end, QLabel("patches")):
            top.addWidget(widget)
        top.addStretch()
        keys = QLabel("n next, p previous; r relevant, x not, u unsure")
        column = QVBoxLayout(self)
        column.addLayout(top)
        column.addWidget(self.pictures)
        column.addWidget(keys)
        column.addWidget(self.save)

    def _connect(self) -> None:
        self.count.valueChanged.connect(self._pick)
        self.end.activated.connect(self._pick)
        self.pictures.itemClicked.connect(self._fly)
        self.pictures.itemActivated.connect(self._fly)
        self.save.clicked.connect(self._save)
        self.album.changed.connect(self.refresh)
        self.album.rescored.connect(self._recaption)
        self.album.marked.connect(self._sign)
        self.album.inspection.moved.connect(self._follow)

    def _pick(self) -> None:
        self.album.pick(self.count.value(), weakest=self.end.currentText() == "weakest")

    def _fly(self, item: QListWidgetItem) -> None:
        self.album.inspection.go_to(item.data(_ROW))

    # -- pictures --------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show the album's patches anew; their pictures come in one by one."""
        self.stop()
        self.pictures.clear()
        self._unreadable.clear()
        blank = QPixmap(THUMB_PX, THUMB_PX)
        blank.fill(QColor("gray"))
        for row in self.album.rows.tolist():
            item = QListWidgetItem(QIcon(blank), self._caption(row))
            item.setData(_ROW, row)
            self.pictures.addItem(item)
        if self.isVisible():
            self._load()

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Pictures are loaded while they can be seen."""
        super().showEvent(event)
        self._load()

    def hideEvent(self, event: QHideEvent | None) -> None:  # noqa: N802
        """And no longer; also when the window closes."""
        super().hideEvent(event)
        self.stop()

    def _load(self) -> None:
        self.stop()
        inspection = self.album.inspection
        if len(self.album.rows) and inspection.pyramid is not None and inspection.voice is not None:
            grid = inspection.voice.prediction.grid
            self.worker = create_worker(
                read_thumbnails, inspection.pyramid.slide, grid, self.album.rows
            )
            self.worker.yielded.connect(self._show_picture)
            self.worker.start()

    def stop(self) -> None:
        """Load no further pictures."""
        if self.worker is not None:
            self.worker.yielded.disconnect(self._show_picture)
            self.worker.quit()
            self.worker = None

    def _show_picture(self, found: tuple[int, NDArray[np.uint8] | None]) -> None:
        row, pixels = found
        item = self._item(row)
        if item is not None and pixels is not None:
            height, width = pixels.shape[:2]
            picture = QImage(
                np.ascontiguousarray(pixels).tobytes(),
                width, height, 3 * width, QImage.Format.Format_RGB888,
            )  # fmt: skip
            icon = QIcon(QPixmap.fromImage(picture))
            icon.addPixmap(QPixmap.fromImage(picture), QIcon.Mode.Selected)  # not has_colour_cast
            item.setIcon(icon)
        elif item is not None:
            self._unreadable.add(row)
            item.setText(self._caption(row))

    def _item(self, row: int) -> QListWidgetItem | None:
        items = (self.pictures.item(index) for index in range(self.pictures.count()))
        return next((item for item in items if item is not None and item.data(_ROW) == row), None)

    def _caption(self, row: int) -> str:
        scores, shown = self.album.inspection.scores, self.album.inspection.shown
        sign = _SIGNS.get(self.album.marks.get(row, ""), "")
        if scores is None or shown is None:
            return sign
        unit = "×" if shown.logarithmic else ""
        damage = "\nunreadable" if row in self._unreadable else ""
        return f"{sign} {scores.values[row]:.3g}{unit}".strip() + damage

    def _recaption(self) -> None:
        for row in self.album.rows.tolist():
            self._sign(row)

    def _sign(self, row: int) -> None:
        item = self._item(row)
        if item is not None:
            item.setText(self._caption(row))

    def _follow(self, row: int) -> None:
        """Point at the patch that was flown to; the mouse alone changes nothing."""
        if row == self.album.inspection.patch:
            item = self._item(row)
            if item is not None:
                self.pictures.setCurrentItem(item)

    def _save(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save marks", "marks.csv", "CSV (*.csv)")
        if name:
            try:
                count = self.album.save_marks(Path(name))
            except MilpathError as error:
                show_error(str(error))
            else:
                show_info(f"{count} marked patches saved in {Path(name).name}")
