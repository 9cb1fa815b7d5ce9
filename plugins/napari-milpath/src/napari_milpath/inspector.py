"""Inspect tab: settings of the displayed scores, and a summary of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Qt, QTimer
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
from milpath.figures.score import Scale, Score
from napari_milpath.exporting import FORMATS, plan_export
from napari_milpath.heatmap_image import PALETTES, Palette
from napari_milpath.histogram import Histogram
from napari_milpath.inspection import FORCED, Inspection
from napari_milpath.scores import (
    ScoreSource,
    describe_agreement,
    describe_concentration,
)

_SCORE_LABELS = {
    Score.attention: "attention",
    Score.contribution: "contribution to a class",
}
_SCALE_LABELS = {
    Scale.relative: "relative to the slide's mean",
    Scale.percentile: "percentile within the slide",
    Scale.raw: "raw",
}
_NOTHING = "nothing"
_WATCH_MS = 1000  # between two looks at whether the slides' files can be read
_DEFAULT = "default"
_CAUTIONS = {FORCED: f"{FORCED}. Its patches do not match the slide under them."}
_WARNING_STYLE = "background: #b00020; color: white; padding: 4px"  # visible in both themes


class Inspector(QWidget):
    """Display an `Inspection` and change its settings."""

    def __init__(self, inspection: Inspection) -> None:
        super().__init__()
        self.inspection = inspection
        self.title, self.cautions, self.hidden = _label(), _label(), _label()
        self.damage = _label()
        self.damage.setStyleSheet(_WARNING_STYLE)
        self.damage.setVisible(False)
        self.watch = QTimer(self)
        self.watch.setInterval(_WATCH_MS)
        self.cautions.setStyleSheet(_WARNING_STYLE)
        self.hidden.setStyleSheet(_WARNING_STYLE)
        self.hidden.setText("Not displayed: its layer is hidden, see the eye in the list of layers")
        self.source, self.subtracted = _combo_box(), _combo_box()
        self.score, self.class_name = _combo_box(), _combo_box()
        self.scale, self.palette_name = _combo_box(), _combo_box()
        self.threshold, self.opacity = _slider(0), _slider(100)
        self.histogram = Histogram()
        self.export = QPushButton("Export …")
        self.label, self.facts, self.hover = _label(), _label(), _label()
        self.hover.setMinimumHeight(4 * self.hover.fontMetrics().lineSpacing())
        self._set_tool_tips()
        self._lay_out()
        self._connect()
        self.refresh()

    def _set_tool_tips(self) -> None:
        self.palette_name.setToolTip(
            "turbo is not perceptually uniform: it shows edges that are not in the scores"
        )
        self.scale.setToolTip(
            "relative: 1× is the slide's mean, comparable across slides; percentile: a tenth of "
            "every slide is hot, also of a normal one"
        )
        self.threshold.setToolTip("hide scores below this fraction of the colour scale")

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows = (
            ("prediction", self.source), ("subtract", self.subtracted), ("score", self.score),
            ("class", self.class_name), ("scale", self.scale),
            ("colour map", self.palette_name), ("threshold", self.threshold),
            ("opacity", self.opacity),
        )  # fmt: skip
        for name, widget in rows:
            form.addRow(name, widget)
        column = QVBoxLayout(self)
        column.addWidget(self.title)
        column.addWidget(self.cautions)
        column.addWidget(self.hidden)
        column.addWidget(self.damage)
        column.addLayout(form)
        for below in (self.histogram, self.label, self.facts, self.hover):
            column.addWidget(below)
        column.addWidget(self.export)
        column.addStretch()

    def _connect(self) -> None:
        self.source.activated.connect(self._choose)
        self.subtracted.activated.connect(self._choose)
        self.score.activated.connect(self._show)
        self.class_name.activated.connect(self._show)
        self.scale.activated.connect(self._show)
        self.palette_name.activated.connect(self._show)
        self.threshold.valueChanged.connect(self._show)
        self.opacity.valueChanged.connect(self._set_opacity)
        self.export.clicked.connect(self._export)
        self.watch.timeout.connect(self.check_files)
        self.inspection.changed.connect(self.refresh)
        self.inspection.restyled.connect(self.restyle)
        self.inspection.moved.connect(self._describe_patch)

    # -- from the widgets to the inspection -------------------------------------------------------

    def _choose(self) -> None:
        sources = self.inspection.sources
        index = self.subtracted.currentIndex() - 1  # the first item is `_NOTHING`
        subtracted = sources[index] if index >= 0 else None
        self.inspection.choose(sources[self.source.currentIndex()], subtracted)

    def _show(self) -> None:
        palette: Palette = self.palette_name.currentText()
        if palette == _palette_text(self.inspection.settings.palette):
            palette = self.inspection.settings.palette
        self.inspection.show(
            score=list(_SCORE_LABELS)[self.score.currentIndex()],
            scale=list(_SCALE_LABELS)[self.scale.currentIndex()],
            class_name=self.class_name.currentText() or None,
            palette=None if palette == _DEFAULT else palette,
            threshold=self.threshold.value() / 100,
        )

    def _set_opacity(self) -> None:
        layer = self.inspection.layer
        if layer is not None:
            layer.opacity = self.opacity.value() / 100

    def _export(self) -> None:
        filters = ";;".join(FORMATS.values())
        name, chosen = QFileDialog.getSaveFileName(self, "Export", "", filters)
        if not name:
            return
        if not name.lower().endswith((*FORMATS, ".ome.tiff")):
            name += next(suffix for suffix, each in FORMATS.items() if each == chosen)
        try:
            work = plan_export(self.inspection, Path(name))
        except MilpathError as error:
            show_error(str(error))
            return
        self.export.setEnabled(False)  # one at a time
        worker = create_worker(_run_export, Path(name).name, work)
        worker.returned.connect(self._exported)  # a method: Qt disconnects it with the panel
        worker.start()

    def _exported(self, result: tuple[str, str]) -> None:
        name, error = result
        self.export.setEnabled(True)
        if error:
            show_error(error)
        else:
            show_info(f"exported {name}")

    # -- from the inspection to the widgets -------------------------------------------------------

    def refresh(self) -> None:
        """Display the current predictions and scores."""
        inspection = self.inspection
        source, subtracted = inspection.source, inspection.subtracted
        self.setEnabled(source is not None)
        names = [each.name for each in inspection.sources]
        _fill(self.source, names, source.name if source else None)
        _fill(self.subtracted, [_NOTHING, *names], subtracted.name if subtracted else _NOTHING)
        classes = list(source.prediction.class_names) if source else []
        predicted = source.output.predicted if source else None
        _fill(self.class_name, classes, inspection.settings.class_name or predicted)
        self.class_name.setEnabled(inspection.settings.score == Score.contribution)
        self.restyle()
        scores = inspection.scores
        self.histogram.set_scores(inspection.image, scores.values if scores else None)
        self.label.setText(scores.label if scores else "")
        self._describe(source)

    def restyle(self) -> None:
        """Display the current colours of the same scores."""
        self.histogram.set_colours(self.inspection.image)
        self.hidden.setVisible(self.inspection.hidden)
        settings, layer = self.inspection.settings, self.inspection.layer
        _fill(self.score, list(_SCORE_LABELS.values()), _SCORE_LABELS[settings.score])
        _fill(self.scale, list(_SCALE_LABELS.values()), _SCALE_LABELS[settings.scale])
        palette = _palette_text(settings.palette)
        palettes = [_DEFAULT, *PALETTES]
        _fill(self.palette_name, [*palettes, *({palette} - set(palettes))], palette)
        _set_slider(self.threshold, settings.threshold)
        _set_slider(self.opacity, layer.opacity if layer is not None else 1.0)

    def check_files(self) -> None:
        """Say which slides cannot be read, and draw them again once they can."""
        text = self.inspection.check_files()
        self.damage.setText(text)
        self.damage.setVisible(bool(text))

    def _describe(self, source: ScoreSource | None) -> None:
        cautions = self.inspection.cautions
        self.cautions.setText("\n".join(_CAUTIONS.get(each, each) for each in cautions))
        self.cautions.setVisible(bool(cautions))
        if source is None:
            self.title.setText("Open a slide and its prediction (*.prediction.h5).")
            self.facts.setText("")
            return
        subtracted = self.inspection.subtracted
        self.title.setText("\n".join(self.inspection.describe()))
        facts = [describe_concentration(source)]
        if subtracted is not None:
            facts.append(describe_agreement(source, subtracted, self.inspection.settings))
        self.facts.setText("\n".join(facts))

    def _describe_patch(self, row: int) -> None:
        self.hover.setText(self.inspection.describe_patch(row))


def _palette_text(palette: Palette) -> str:
    """Return the item for a palette; a colormap chosen in napari has an item of its own."""
    if palette is None:
        return _DEFAULT
    return palette if isinstance(palette, str) else f"{palette.name} (napari)"


def _label() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)  # class names come from the user: no markup
    return label


def _combo_box() -> QComboBox:
    """Make a combo box that long names, such as of ensemble members, do not widen."""
    box = QComboBox()
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(18)
    return box


def _slider(value: int) -> QSlider:
    slider = QSlider(Qt.Orientation.Horizontal)
    slider.setRange(0, 100)
    slider.setValue(value)
    return slider


def _fill(box: QComboBox, items: list[str], current: str | None) -> None:
    """Fill a combo box and choose an item, without emitting signals."""
    box.blockSignals(True)
    if [box.itemText(index) for index in range(box.count())] != items:
        box.clear()
        box.addItems(items)
    box.setCurrentText(current or "")
    box.blockSignals(False)


def _set_slider(slider: QSlider, fraction: float) -> None:
    """Move a slider, without emitting signals."""
    slider.blockSignals(True)
    slider.setValue(round(100 * fraction))
    slider.blockSignals(False)


def _run_export(name: str, work: Callable[[], None]) -> tuple[str, str]:
    """Return the file's name and the error, if any; napari would report an exception as a bug."""
    try:
        work()
    except MilpathError as error:
        return name, str(error)
    return name, ""
