"""Gallery tab: thumbnails of the selected patches, loaded in the background."""

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
from napari_milpath.selection import THUMB_PX, Mark, PatchSelection, read_thumbnails

KEYS: dict[str, Mark] = {"r": "relevant", "x": "not", "u": "unsure"}
_SIGNS = {"relevant": "✔", "not": "✘", "unsure": "?"}
_ROW = Qt.ItemDataRole.UserRole


class Gallery(QWidget):
    """Show a `PatchSelection`; a click on a thumbnail moves the view to its patch."""

    def __init__(self, selection: PatchSelection) -> None:
        super().__init__()
        self.selection = selection
        self.worker: GeneratorWorker | None = None
        self._unreadable: set[int] = set()
        self.end = QComboBox()
        self.end.addItems(["strongest", "weakest"])
        self.count = QSpinBox()
        self.count.setRange(1, 200)
        self.count.setValue(selection.count)
        self.thumbnails = QListWidget()
        self.thumbnails.setViewMode(QListWidget.ViewMode.IconMode)
        self.thumbnails.setIconSize(QSize(THUMB_PX, THUMB_PX))
        self.thumbnails.setResizeMode(QListWidget.ResizeMode.Adjust)
        self.thumbnails.setMovement(QListWidget.Movement.Static)
        self.thumbnails.setUniformItemSizes(True)
        self.save = QPushButton("Save marks …")
        self._lay_out()
        self._connect()
        self.refresh()

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        for widget in (self.count, self.end, QLabel("patches")):
            top.addWidget(widget)
        top.addStretch()
        keys = QLabel("n next, p previous; mark: r relevant, x not relevant, u unsure")
        keys.setWordWrap(True)
        column = QVBoxLayout(self)
        column.addLayout(top)
        column.addWidget(self.thumbnails)
        column.addWidget(keys)
        column.addWidget(self.save)

    def _connect(self) -> None:
        self.count.valueChanged.connect(self._select)
        self.end.activated.connect(self._select)
        self.thumbnails.itemClicked.connect(self._go_to)
        self.thumbnails.itemActivated.connect(self._go_to)
        self.save.clicked.connect(self._save)
        self.selection.changed.connect(self.refresh)
        self.selection.rescored.connect(self._update_captions)
        self.selection.marked.connect(self._update_caption)
        self.selection.inspection.moved.connect(self._highlight)

    def _select(self) -> None:
        self.selection.select(self.count.value(), weakest=self.end.currentText() == "weakest")

    def _go_to(self, item: QListWidgetItem) -> None:
        self.selection.inspection.go_to(item.data(_ROW))

    # -- thumbnails -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """List the selected patches; their thumbnails are added as they are read."""
        self.stop()
        self.thumbnails.clear()
        self._unreadable.clear()
        blank = QPixmap(THUMB_PX, THUMB_PX)
        blank.fill(QColor("gray"))
        for row in self.selection.rows.tolist():
            item = QListWidgetItem(QIcon(blank), self._caption(row))
            item.setData(_ROW, row)
            self.thumbnails.addItem(item)
        if self.isVisible():
            self._load()

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Load thumbnails once the tab is visible."""
        super().showEvent(event)
        self._load()

    def hideEvent(self, event: QHideEvent | None) -> None:  # noqa: N802
        """Stop loading when the tab is hidden or the window closes."""
        super().hideEvent(event)
        self.stop()

    def _load(self) -> None:
        self.stop()
        inspection = self.selection.inspection
        pyramid, source = inspection.pyramid, inspection.source
        if len(self.selection.rows) and pyramid is not None and source is not None:
            grid, rows = source.prediction.grid, self.selection.rows
            self.worker = create_worker(read_thumbnails, pyramid.slide, grid, rows)
            self.worker.yielded.connect(self._show_thumbnail)
            self.worker.start()

    def stop(self) -> None:
        """Stop loading thumbnails."""
        if self.worker is not None:
            self.worker.yielded.disconnect(self._show_thumbnail)
            self.worker.quit()
            self.worker = None

    def _show_thumbnail(self, found: tuple[int, NDArray[np.uint8] | None]) -> None:
        row, pixels = found
        item = self._item(row)
        if item is not None and pixels is not None:
            height, width = pixels.shape[:2]
            image = QImage(
                np.ascontiguousarray(pixels).tobytes(),
                width, height, 3 * width, QImage.Format.Format_RGB888,
            )  # fmt: skip
            icon = QIcon(QPixmap.fromImage(image))
            icon.addPixmap(QPixmap.fromImage(image), QIcon.Mode.Selected)  # not tinted
            item.setIcon(icon)
        elif item is not None:
            self._unreadable.add(row)
            item.setText(self._caption(row))

    def _item(self, row: int) -> QListWidgetItem | None:
        items = (self.thumbnails.item(index) for index in range(self.thumbnails.count()))
        return next((item for item in items if item is not None and item.data(_ROW) == row), None)

    def _caption(self, row: int) -> str:
        inspection = self.selection.inspection
        sign = _SIGNS.get(self.selection.marks.get(row, ""), "")
        if inspection.scores is None or inspection.image is None:
            return sign
        unit = inspection.image.unit
        damage = "\nunreadable" if row in self._unreadable else ""
        return f"{sign} {inspection.scores.values[row]:.3g}{unit}".strip() + damage

    def _update_captions(self) -> None:
        for row in self.selection.rows.tolist():
            self._update_caption(row)

    def _update_caption(self, row: int) -> None:
        item = self._item(row)
        if item is not None:
            item.setText(self._caption(row))

    def _highlight(self, row: int) -> None:
        """Highlight the current patch; the patch under the mouse is ignored."""
        if row == self.selection.inspection.patch:
            item = self._item(row)
            if item is not None:
                self.thumbnails.setCurrentItem(item)

    def _save(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save marks", "marks.csv", "CSV (*.csv)")
        if name:
            try:
                count = self.selection.save_marks(Path(name))
            except MilpathError as error:
                show_error(str(error))
            else:
                show_info(f"saved {count} marked patches to {Path(name).name}")
