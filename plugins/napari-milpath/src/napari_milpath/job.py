"""ClassifyJob: `milpath classify` on one slide, as a child process that can be watched and ended.

A process of its own, because TensorFlow and software OpenGL crash together, and because a network
that runs out of memory must not take the viewer along.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QProcess, QTimer, Signal  # type: ignore[attr-defined]

_PROGRESS = re.compile(r"(\d+) of (\d+) patches$")
_PATIENCE_MS = 5000  # before a child that was asked to end is ended


@dataclass(frozen=True)
class Order:
    """What is to be classified, and how.

    Attributes
    ----------
    slide, model, out : files and folders as for `milpath classify`
    mpp : µm per pixel in place of the slide's own
    annotation : GeoJSON of the tissue in place of what would be found
    """

    slide: Path
    model: Path
    out: Path
    mpp: float | None = None
    annotation: Path | None = None

    def arguments(self) -> list[str]:
        """What the child is started with, after the Python it runs in."""
        words = ["-m", "milpath", "classify", str(self.slide.absolute())]
        words += ["--model", str(self.model), "--out", str(self.out), "--json", "--verbose"]
        words += [] if self.mpp is None else ["--slide-mpp", repr(self.mpp)]
        words += [] if self.annotation is None else ["--tissue-annotations", str(self.annotation)]
        return words


class ClassifyJob(QObject):
    """One run of the child; started at once.

    Parameters
    ----------
    order : what it is to do
    """

    progressed = Signal(int, int)
    """Patches done, and all of them."""

    ended = Signal(object, str)
    """The prediction's file or None, and a line that says how it went."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order
        self._outcome: dict[str, Any] = {}
        self._last = ""
        self._heard = b""  # of a line whose end has not come yet
        self._cancelled = False
        self._patience = QTimer(self)
        self._patience.setSingleShot(True)
        self._patience.setInterval(_PATIENCE_MS)
        self.process = QProcess(self)
        self._patience.timeout.connect(self.process.kill)
        self.process.readyReadStandardError.connect(self._hear)
        self.process.readyReadStandardOutput.connect(self._take)
        self.process.finished.connect(self._end)
        self.process.errorOccurred.connect(self._fail)
        self.process.start(sys.executable, order.arguments())

    @property
    def running(self) -> bool:
        """Whether the child lives."""
        return bool(self.process.state() != QProcess.ProcessState.NotRunning)

    def cancel(self) -> bool:
        """Ask the child to end; it is ended if it does not."""
        if self.running:
            self._cancelled = True
            if os.name == "posix":  # as Ctrl-C: it leaves no half file
                os.kill(self.process.processId(), signal.SIGINT)
            else:
                self.process.kill()
            self._patience.start()
        return True

    def stop(self) -> None:
        """End the child now and wait for that: the viewer closes. Nothing is signalled any more."""
        self.blockSignals(True)
        if self.running:
            self._cancelled = True
            self.process.kill()
            self.process.waitForFinished(_PATIENCE_MS)

    def _hear(self) -> None:
        said = self._heard + bytes(self.process.readAllStandardError().data())
        whole, end, self._heard = said.rpartition(b"\n")
        self._understand(whole + end)

    def _understand(self, said: bytes) -> None:
        text = said.decode("utf-8", "replace")
        for line in filter(None, map(str.strip, text.splitlines())):
            found = _PROGRESS.search(line)
            if found:
                self.progressed.emit(int(found[1]), int(found[2]))
            else:
                self._last = line

    def _take(self) -> None:
        while self.process.canReadLine():
            line = bytes(self.process.readLine().data()).decode("utf-8", "replace")
            self._outcome = json.loads(line)

    def _fail(self, error: QProcess.ProcessError) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self.ended.emit(None, f"{sys.executable} could not be started")

    def _end(self, code: int) -> None:
        self._hear()
        self._understand(self._heard)
        self._take()
        if self._cancelled:
            self.ended.emit(None, "cancelled")
            return
        message = self._outcome.get("message") or self._last or f"ended with code {code}"
        name = self._outcome.get("slide_id", "")
        path = self.order.out / f"{name}.prediction.h5"
        self.ended.emit(path if code == 0 and path.is_file() else None, message)
