"""Asking: a question to whoever is at the window, which nothing waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QMessageBox

if TYPE_CHECKING:
    from napari.viewer import Viewer


def ask(viewer: Viewer, question: str, go_on: Callable[[], None]) -> QMessageBox:
    """Ask what is answered with yes or no, no unless another button is chosen.

    Parameters
    ----------
    viewer : over whose window it is asked
    question : for people
    go_on : called once that is answered with yes
    """
    above = viewer.window._qt_window  # napari offers no other parent that closes with the window
    yes, no = QMessageBox.StandardButton.Yes, QMessageBox.StandardButton.No
    box = QMessageBox(QMessageBox.Icon.Question, "milpath", question, yes | no, above)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setDefaultButton(no)

    def answer(button: QAbstractButton) -> None:
        if box.standardButton(button) == yes:
            go_on()

    box.buttonClicked.connect(answer)
    box.open()
    return box
