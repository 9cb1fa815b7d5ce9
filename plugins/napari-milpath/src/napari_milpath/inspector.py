"""Inspector: the knobs of what is shown, and what it means in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLabel,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from milpath.errors import MilpathError
from napari_milpath.colours import PALETTES
from napari_milpath.exporting import FORMATS, plan_export
from napari_milpath.histogram import Histogram
from napari_milpath.inspection import FORCED, Inspection, say_concentration, say_prediction
from napari_milpath.look import Voice, say_agreement

_SCORES = {"attention": "attention", "evidence for a class": "contribution"}
_SCALES = {
    "relative to the mean": "relative",
    "percentile in the slide": "percentile",
    "raw": "raw",
}
_ALONE = "nothing"
_USUAL = "usual"
_ALARM = "background: #b00020; color: white; padding: 4px"  # seen in both of napari's themes


class Inspector(QWidget):
    """Shows an `Inspection` and turns its knobs."""

    def __init__(self, inspection: Inspection) -> None:
        super().__init__()
        self.inspection = inspection
        self.title, self.forced = _words(), _words()
        self.forced.setStyleSheet(_ALARM)
        self.voice, self.other = _choice(), _choice()
        self.score, self.class_name = _choice(), _choice()
        self.scale, self.palette_name = _choice(), _choice()
        self.threshold, self.opacity = _slider(0), _slider(100)
        self.histogram = Histogram()
        self.export = QPushButton("Export …")
        self.label, self.facts, self.hover = _words(), _words(), _words()
        self.hover.setMinimumHeight(4 * self.hover.fontMetrics().lineSpacing())
        self._explain()
        self._lay_out()
        self._connect()
        self.refresh()

    def _explain(self) -> None:
        self.palette_name.setToolTip("turbo is not perceptually even: it draws edges that are none")
        self.scale.setToolTip(
            "relative: 1× is the slide's mean, comparable across slides; percentile paints a "
            "tenth of every slide hot, a normal one too"
        )
        self.threshold.setToolTip("hide what is weaker")

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows = (
            ("prediction", self.voice), ("less", self.other), ("score", self.score),
            ("class", self.class_name), ("in numbers", self.scale),
            ("colours", self.palette_name), ("threshold", self.threshold),
            ("opacity", self.opacity),
        )  # fmt: skip
        for name, widget in rows:
            form.addRow(name, widget)
        column = QVBoxLayout(self)
        column.addWidget(self.title)
        column.addWidget(self.forced)
        column.addLayout(form)
        for below in (self.histogram, self.label, self.facts, self.hover):
            column.addWidget(below)
        column.addWidget(self.export)
        column.addStretch()

    def _connect(self) -> None:
        self.voice.activated.connect(self._choose)
        self.other.activated.connect(self._choose)
        self.score.activated.connect(self._show)
        self.class_name.activated.connect(self._show)
        self.scale.activated.connect(self._show)
        self.palette_name.activated.connect(self._show)
        self.threshold.valueChanged.connect(self._show)
        self.opacity.valueChanged.connect(self._fade)
        self.export.clicked.connect(self._export)
        self.inspection.changed.connect(self.refresh)
        self.inspection.restyled.connect(self.restyle)
        self.inspection.moved.connect(self._say_patch)

    # -- from the knobs to the inspection --------------------------------------------------------

    def _choose(self) -> None:
        voices = self.inspection.voices
        other = self.other.currentIndex() - 1
        self.inspection.choose(
            voices[self.voice.currentIndex()], voices[other] if other >= 0 else None
        )

    def _show(self) -> None:
        palette = self.palette_name.currentText()
        self.inspection.show(
            score=_SCORES[self.score.currentText()],
            scale=_SCALES[self.scale.currentText()],
            class_name=self.class_name.currentText() or None,
            palette=None if palette == _USUAL else palette,
            threshold=self.threshold.value() / 100,
        )

    def _fade(self) -> None:
        layer = self.inspection.layer
        if layer is not None:
            layer.opacity = self.opacity.value() / 100

    def _export(self) -> None:
        filters = ";;".join(FORMATS.values())
        name, chosen = QFileDialog.getSaveFileName(self, "Export", "", filters)
        if not name:
            return
        if not name.lower().endswith((*FORMATS, ".ome.tiff")):
            name += next(suffix for suffix, words in FORMATS.items() if words == chosen)
        try:
            work = plan_export(self.inspection, Path(name))
        except MilpathError as error:
            show_error(str(error))
            return
        self.export.setEnabled(False)  # one at a time
        worker = create_worker(_attempt, Path(name).name, work)
        worker.returned.connect(self._exported)  # a method: Qt forgets it when the panel is closed
        worker.start()

    def _exported(self, ended: tuple[str, str]) -> None:
        name, error = ended
        self.export.setEnabled(True)
        if error:
            show_error(error)
        else:
            show_info(f"exported {name}")

    # -- from the inspection to what is seen -----------------------------------------------------

    def refresh(self) -> None:
        """Show the inspection as it is now."""
        now = self.inspection
        voice = now.voice
        self.setEnabled(voice is not None)
        names = [each.name for each in now.voices]
        _list(self.voice, names, voice.name if voice else None)
        _list(self.other, [_ALONE, *names], now.other.name if now.other else _ALONE)
        classes = list(voice.prediction.class_names) if voice else []
        predicted = voice.prediction.predicted if voice else None
        _list(self.class_name, classes, now.look.class_name or predicted)
        self.class_name.setEnabled(now.look.score == "contribution")
        self.restyle()
        scores = now.scores.values if now.scores is not None else None
        self.histogram.count(now.shown, scores)
        self.label.setText(now.scores.label if now.scores else "")
        self._say(voice)

    def restyle(self) -> None:
        """Show the colours as they are now, of the same scores."""
        self.histogram.colour(self.inspection.shown)
        look, layer = self.inspection.look, self.inspection.layer
        _list(self.score, list(_SCORES), _name_of(look.score, _SCORES))
        _list(self.scale, list(_SCALES), _name_of(look.scale, _SCALES))
        _list(self.palette_name, [_USUAL, *PALETTES], look.palette or _USUAL)
        _slide(self.threshold, look.threshold)
        _slide(self.opacity, layer.opacity if layer is not None else 1.0)

    def _say(self, voice: Voice | None) -> None:
        self.forced.setText(f"{FORCED}. Its patches are not what lies under them here.")
        self.forced.setVisible(self.inspection.forced)
        if voice is None:
            self.title.setText("Open a slide and its prediction (*.prediction.h5).")
            self.facts.setText("")
            return
        self.title.setText(say_prediction(voice))
        facts = [say_concentration(voice)]
        if self.inspection.other is not None:
            facts.append(say_agreement(voice, self.inspection.other, self.inspection.look))
        self.facts.setText("\n".join(facts))

    def _say_patch(self, row: int) -> None:
        self.hover.setText(self.inspection.say_patch(row))


def _words() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)  # class names are the user's: no markup
    return label


def _choice() -> QComboBox:
    """A box that a long name, as of a member of an ensemble, does not widen."""
    box = QComboBox()
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(18)
    return box


def _slider(value: int) -> QSlider:
    slider = QSlider(Qt.Orientation.Horizontal)
    slider.setRange(0, 100)
    slider.setValue(value)
    return slider


def _list(box: QComboBox, items: list[str], current: str | None) -> None:
    """Fill a box and choose in it, without telling anyone."""
    box.blockSignals(True)
    if [box.itemText(index) for index in range(box.count())] != items:
        box.clear()
        box.addItems(items)
    box.setCurrentText(current or "")
    box.blockSignals(False)


def _slide(slider: QSlider, share: float) -> None:
    """Move a slider, without telling anyone."""
    slider.blockSignals(True)
    slider.setValue(round(100 * share))
    slider.blockSignals(False)


def _name_of(value: str, names: dict[str, str]) -> str:
    return next(name for name, each in names.items() if each == value)


def _attempt(name: str, work: Callable[[], None]) -> tuple[str, str]:
    """A file's name, and what went wrong with it: an exception would be told as napari's own."""
    try:
        work()
    except MilpathError as error:
        return name, str(error)
    return name, ""
