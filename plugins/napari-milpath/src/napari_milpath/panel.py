"""The plugin's dock widget with the tabs Inspect, Gallery and Classify."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QFrame, QMainWindow, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from napari_milpath.classify import ClassifyTab
from napari_milpath.gallery import KEYS, Gallery
from napari_milpath.inspection import Inspection
from napari_milpath.inspector import Inspector
from napari_milpath.selection import PatchSelection

if TYPE_CHECKING:
    from napari.viewer import Viewer


class Panel(QWidget):
    """Panel of one viewer.

    Parameters
    ----------
    napari_viewer : the viewer; napari passes it by this name
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.inspection = Inspection(napari_viewer)
        self.selection = PatchSelection(self.inspection)
        self.inspector = Inspector(self.inspection)
        self.gallery = Gallery(self.selection)
        self.classify_tab = ClassifyTab(self.inspection, napari_viewer)
        self.tabs = QTabWidget()
        self.tabs.addTab(_ScrollArea(self.inspector), "Inspect")
        self.tabs.addTab(self.gallery, "Gallery")
        self.tabs.addTab(self.classify_tab, "Classify")
        QVBoxLayout(self).addWidget(self.tabs)
        self._bind_keys()
        _show_scale_bar(napari_viewer)

    def _bind_keys(self) -> None:
        self.viewer.bind_key("n", lambda _: self.selection.step(1), overwrite=True)
        self.viewer.bind_key("p", lambda _: self.selection.step(-1), overwrite=True)
        for key, mark in KEYS.items():
            self.viewer.bind_key(
                key, lambda _, mark=mark: self.selection.mark(mark), overwrite=True
            )

    # -- closing ----------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Watch the main window, once the panel has one."""
        super().showEvent(event)
        self.inspector.watch.start()
        above = self.parent()
        while above is not None and not isinstance(above, QMainWindow):
            above = above.parent()
        if above is not None:
            above.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Stop all work if the window is closed, not if it is minimized."""
        if event is not None and event.type() == QEvent.Type.Hide and not event.spontaneous():
            self.stop()
        return False

    def changeEvent(self, event: QEvent | None) -> None:  # noqa: N802
        """Disconnect from the viewer when napari removes the panel from its dock."""
        super().changeEvent(event)
        gone = event is not None and event.type() == QEvent.Type.ParentChange
        if gone and self.parent() is None:
            self.stop()
            for key in ("n", "p", *KEYS):
                self.viewer.bind_key(key, None, overwrite=True)

    def stop(self) -> None:
        """Stop all background work and disconnect from the viewer."""
        self.inspector.watch.stop()
        self.inspection.close()
        self.gallery.stop()
        self.classify_tab.stop()


def _show_scale_bar(viewer: Viewer) -> None:
    """Show the scale bar in black on white, legible on and beside slides."""
    bar = viewer.canvas.overlays.scale_bar
    bar.visible, bar.box, bar.box_color, bar.color, bar.colored = True, True, "white", "black", True


class _ScrollArea(QScrollArea):
    """Scroll a widget vertically when the window is lower than it, never horizontally."""

    def __init__(self, widget: QWidget) -> None:
        super().__init__()
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidgetResizable(True)
        self.setWidget(widget)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        """Return the width of the widget and the scroll bar."""
        widget, bar = self.widget(), self.verticalScrollBar()
        assert widget is not None
        assert bar is not None
        width = widget.minimumSizeHint().width() + bar.sizeHint().width()
        return QSize(width, super().minimumSizeHint().height())
