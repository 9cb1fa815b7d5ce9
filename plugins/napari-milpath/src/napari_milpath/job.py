"""Run of `milpath classify` on one slide in a child process, with progress and cancellation.

TensorFlow and software OpenGL crash in one process, and a model that runs out of memory must not
end the viewer.
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
_KILL_AFTER_MS = 5000  # after SIGINT


@dataclass(frozen=True)
class ClassifyRequest:
    """Arguments of `milpath classify`.

    Attributes
    ----------
    slide, model, out : the slide's file, the model's folder, the folder of the results
    mpp : µm per pixel that replaces the slide's own
    annotation : GeoJSON of tissue annotations that replaces tissue detection
    """

    slide: Path
    model: Path
    out: Path
    mpp: float | None = None
    annotation: Path | None = None

    def arguments(self) -> list[str]:
        """Build the command line, without the Python interpreter."""
        # -P: modules in the current folder are not imported
        arguments = ["-P", "-m", "milpath", "classify", str(self.slide.absolute())]
        arguments += ["--model", str(self.model), "--out", str(self.out), "--json", "--verbose"]
        arguments += [] if self.mpp is None else ["--slide-mpp", repr(self.mpp)]
        arguments += (
            [] if self.annotation is None else ["--tissue-annotations", str(self.annotation)]
        )
        return arguments


class ClassifyJob(QObject):
    """A child process, started when the job is created.

    Parameters
    ----------
    request : its arguments
    """

    progressed = Signal(int, int)
    """Number of patches done, and of all patches."""

    ended = Signal(object, str)
    """The prediction's file, or None, and a line with the result or the error."""

    def __init__(self, request: ClassifyRequest) -> None:
        super().__init__()
        self.request = request
        self._outcome: dict[str, Any] = {}
        self._last_line = ""
        self._partial = b""  # an incomplete last line of stderr
        self._cancelled = False
        self._kill_timer = QTimer(self)
        self._kill_timer.setSingleShot(True)
        self._kill_timer.setInterval(_KILL_AFTER_MS)
        self.process = QProcess(self)
        self._kill_timer.timeout.connect(self.process.kill)
        self.process.readyReadStandardError.connect(self._read_stderr)
        self.process.readyReadStandardOutput.connect(self._read_stdout)
        self.process.finished.connect(self._finish)
        self.process.errorOccurred.connect(self._fail)
        self.process.start(sys.executable, request.arguments())

    @property
    def running(self) -> bool:
        """Whether the child process exists."""
        return bool(self.process.state() != QProcess.ProcessState.NotRunning)

    def cancel(self) -> None:
        """Interrupt the child; kill it if it has not exited after `_KILL_AFTER_MS`."""
        if self.running:
            self._cancelled = True
            if os.name == "posix":  # as Ctrl-C: the child removes incomplete files
                os.kill(self.process.processId(), signal.SIGINT)
            else:
                self.process.kill()
            self._kill_timer.start()

    def stop(self) -> None:
        """Kill the child and wait for its end, without emitting signals: the viewer closes."""
        self.blockSignals(True)
        if self.running:
            self._cancelled = True
            self.process.kill()
            self.process.waitForFinished(_KILL_AFTER_MS)

    def _read_stderr(self) -> None:
        output = self._partial + bytes(self.process.readAllStandardError().data())
        lines, end, self._partial = output.rpartition(b"\n")
        self._parse_stderr(lines + end)

    def _parse_stderr(self, output: bytes) -> None:
        text = output.decode("utf-8", "replace")
        for line in filter(None, map(str.strip, text.splitlines())):
            found = _PROGRESS.search(line)
            if found:
                self.progressed.emit(int(found[1]), int(found[2]))
            else:
                self._last_line = line

    def _read_stdout(self) -> None:
        while self.process.canReadLine():
            line = bytes(self.process.readLine().data()).decode("utf-8", "replace")
            self._outcome = json.loads(line)

    def _fail(self, error: QProcess.ProcessError) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self.ended.emit(None, f"{sys.executable} cannot be started")

    def _finish(self, code: int) -> None:
        self._read_stderr()
        self._parse_stderr(self._partial)
        self._read_stdout()
        if self._cancelled:
            self.ended.emit(None, "cancelled")
            return
        message = (
            self._outcome.get("message")
            or self._last_line
            or f"milpath classify exited with code {code}"
        )
        name = self._outcome.get("slide_id", "")
        path = self.request.out / f"{name}.prediction.h5"
        self.ended.emit(path if code == 0 and path.is_file() else None, message)
