"""Panel: the plugin's dock widget: what is inspected, the gallery, the models, as tabs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QFrame, QMainWindow, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from napari_milpath.album import Album
from napari_milpath.gallery import KEYS, Gallery
from napari_milpath.inspection import Inspection
from napari_milpath.inspector import Inspector
from napari_milpath.models import Models

if TYPE_CHECKING:
    from napari.viewer import Viewer


class Panel(QWidget):
    """One viewer's panel.

    Parameters
    ----------
    napari_viewer : given by napari
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.inspection = Inspection(napari_viewer)
        self.album = Album(self.inspection)
        self.inspector = Inspector(self.inspection)
        self.gallery = Gallery(self.album)
        self.models = Models(self.inspection, napari_viewer)
        self.tabs = QTabWidget()
        self.tabs.addTab(_Scrolled(self.inspector), "Inspect")
        self.tabs.addTab(self.gallery, "Gallery")
        self.tabs.addTab(self.models, "Classify")
        QVBoxLayout(self).addWidget(self.tabs)
        self._bind_keys()
        _show_scale_bar(napari_viewer)

    def _bind_keys(self) -> None:
        self.viewer.bind_key("n", lambda _: self.album.step(1), overwrite=True)
        self.viewer.bind_key("p", lambda _: self.album.step(-1), overwrite=True)
        for key, mark in KEYS.items():
            self.viewer.bind_key(key, lambda _, mark=mark: self.album.mark(mark), overwrite=True)

    # -- the end ---------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802 (Qt's name)
        """Watch for the window's end, once it is known."""
        super().showEvent(event)
        above = self.parent()
        while above is not None and not isinstance(above, QMainWindow):
            above = above.parent()
        if above is not None:
            above.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """The window has been closed, not only made small: end what runs."""
        if event is not None and event.type() == QEvent.Type.Hide and not event.spontaneous():
            self.stop()
        return False

    def changeEvent(self, event: QEvent | None) -> None:  # noqa: N802
        """Napari takes the panel out of its dock: let go of the viewer."""
        super().changeEvent(event)
        gone = event is not None and event.type() == QEvent.Type.ParentChange
        if gone and self.parent() is None:
            self.stop()
            for key in ("n", "p", *KEYS):
                self.viewer.bind_key(key, None, overwrite=True)

    def stop(self) -> None:
        """End all that runs in the background, and take no more notice of the layers."""
        self.inspection.close()
        self.gallery.stop()
        self.models.stop()


def _show_scale_bar(viewer: Viewer) -> None:
    """In black on white, to be read on slides and beside them."""
    bar = viewer.canvas.overlays.scale_bar
    bar.visible, bar.box, bar.box_color, bar.color, bar.colored = True, True, "white", "black", True


class _Scrolled(QScrollArea):
    """A widget that keeps its height in a window that is lower, and always its width."""

    def __init__(self, widget: QWidget) -> None:
        super().__init__()
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidgetResizable(True)
        self.setWidget(widget)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 (Qt's name)
        """As wide as the widget needs, beside the scroll bar."""
        widget, bar = self.widget(), self.verticalScrollBar()
        assert widget is not None
        assert bar is not None
        width = widget.minimumSizeHint().width() + bar.sizeHint().width()
        return QSize(width, super().minimumSizeHint().height())
