"""Classify tab: tissue annotations and a model, run on the open slide."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Layer
from napari.qt.threading import FunctionWorker, create_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from milpath.cohort.cohort import ANNOTATION_SUFFIX
from milpath.errors import MilpathError, UsageError
from milpath.formats.prediction import Prediction, SlideMismatchError, read_prediction
from milpath.slides.annotation import Polygon, write_annotation
from milpath.slides.frame import Point
from napari_milpath.inspection import Inspection
from napari_milpath.job import ClassifyJob, ClassifyRequest
from napari_milpath.layers import LayerData, Mpp, mpp_of, require_same_slide
from napari_milpath.reader import add_layers, offer_to_force, read_attention
from napari_milpath.tissue import annotation_of, corner_of, find_tissue, is_tissue, tissue_layer

if TYPE_CHECKING:
    from napari.viewer import Viewer


class ClassifyTab(QWidget):
    """Find tissue, run a model on it, and open its prediction."""

    def __init__(self, inspection: Inspection, viewer: Viewer) -> None:
        super().__init__()
        self.inspection, self.viewer = inspection, viewer
        self.job: ClassifyJob | None = None
        self.finder: FunctionWorker | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.model, self.out = QLineEdit(), QLineEdit()
        self.model.setPlaceholderText("folder written by milpath train")
        self.out.setPlaceholderText("temporary folder, deleted when the viewer closes")
        self.tissue = QPushButton("Find tissue")
        self.tissue.setToolTip("as polygons that can be edited")
        self.save = QPushButton("Save annotation …")
        self.save.setToolTip("as GeoJSON, for milpath tile --tissue-annotations or QuPath")
        self.annotated = QCheckBox("Use the layer 'tissue' as tissue annotation")
        self.annotated.setToolTip("classify only the patches inside its polygons")
        self.run, self.cancel = QPushButton("Classify this slide"), QPushButton("Cancel")
        self.bar, self.status = QProgressBar(), QLabel()
        self.status.setWordWrap(True)
        self._lay_out()
        self._connect()
        self._show_running(None)

    def _lay_out(self) -> None:
        form = QFormLayout()
        for name, line in (("model", self.model), ("results", self.out)):
            row = QHBoxLayout()
            browse = QPushButton("…")
            browse.clicked.connect(lambda _, line=line: self._browse(line))
            row.addWidget(line)
            row.addWidget(browse)
            form.addRow(name, row)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run)
        buttons.addWidget(self.cancel)
        column = QVBoxLayout(self)
        column.addLayout(form)
        tissue = QHBoxLayout()
        tissue.addWidget(self.tissue)
        tissue.addWidget(self.save)
        column.addLayout(tissue)
        column.addWidget(self.annotated)
        column.addLayout(buttons)
        column.addWidget(self.bar)
        column.addWidget(self.status)
        column.addStretch()

    def _connect(self) -> None:
        self.tissue.clicked.connect(self.show_tissue)
        self.save.clicked.connect(self._save)
        self.run.clicked.connect(self.classify)
        self.cancel.clicked.connect(self._cancel)

    def _browse(self, line: QLineEdit) -> None:
        name = QFileDialog.getExistingDirectory(self, "Choose a folder", line.text())
        if name:
            line.setText(name)

    # -- tissue -----------------------------------------------------------------------------------

    def show_tissue(self) -> None:
        """Find tissue in another thread and add its polygons as a layer."""
        pyramid = self.inspection.pyramid
        if pyramid is None:
            show_error("open a slide first")
            return
        mpp, corner = mpp_of(pyramid), pyramid.slide.bounds_l0[:2]
        self.tissue.setEnabled(False)
        self.finder = create_worker(find_tissue, pyramid.slide, _ignore_errors=True)
        self.finder.returned.connect(
            partial(self._add_tissue, mpp=mpp or (1.0, 1.0), corner=corner)
        )
        self.finder.errored.connect(lambda error: show_error(str(error)))
        self.finder.finished.connect(self._finish_tissue)
        self.finder.start()

    def _finish_tissue(self) -> None:
        self.finder = None
        self.tissue.setEnabled(True)

    def _add_tissue(self, polygons: list[Polygon], mpp: Mpp, corner: Point) -> None:
        for layer in [layer for layer in self.viewer.layers if is_tissue(layer)]:
            self.viewer.layers.remove(layer)
        self.viewer.add_layer(Layer.create(*tissue_layer(polygons, mpp, corner)))
        self.annotated.setChecked(True)
        self.status.setText(f"tissue regions: {len(polygons)}; edit them with the layer's tools")

    def _save(self) -> None:
        pyramid = self.inspection.pyramid
        name = f"{pyramid.slide.slide_id}{ANNOTATION_SUFFIX}" if pyramid is not None else ""
        name, _ = QFileDialog.getSaveFileName(self, "Save", name, f"GeoJSON (*{ANNOTATION_SUFFIX})")
        if not name:
            return
        try:
            self.save_annotation(Path(name))
        except MilpathError as error:
            show_error(str(error))
        else:
            show_info(f"saved {Path(name).name}")

    def save_annotation(self, path: Path) -> None:
        """Write the polygons of the tissue layer as GeoJSON, in QuPath's frame.

        Raises
        ------
        UsageError : there are none
        OutputError : the file cannot be written
        """
        layers = [layer for layer in self.viewer.layers if is_tissue(layer)]
        if not layers or not len(layers[-1].data):
            raise UsageError("there is no tissue annotation; find tissue first, then edit it")
        write_annotation(path, annotation_of(layers[-1]), corner_of(layers[-1]))

    # -- classification ---------------------------------------------------------------------------

    def classify(self) -> None:
        """Start the job; show errors as notifications."""
        try:
            request = self._build_request()
        except MilpathError as error:
            show_error(str(error))
            return
        job = ClassifyJob(request)
        job.progressed.connect(self._show_progress)
        job.ended.connect(self._finish)
        self._show_running(job)

    def _build_request(self) -> ClassifyRequest:
        pyramid = self.inspection.pyramid
        if pyramid is None:
            raise UsageError("open a slide first")
        model = Path(self.model.text())
        if not self.model.text() or not (model / "model.json").is_file():
            raise UsageError("choose a model first: a folder with a model.json")
        temporary = self._temporary_folder()
        annotation = None
        if self.annotated.isChecked():
            annotation = temporary / "tissue.geojson"
            self.save_annotation(annotation)
        overridden = pyramid.slide.mpp_source in ("cohort", "option")
        mpp = mpp_of(pyramid) if overridden else self._mpp_of_prediction()
        out = Path(self.out.text()) if self.out.text() else temporary / "results"
        return ClassifyRequest(pyramid.path, model, out, mpp[0] if mpp else None, annotation)

    def _temporary_folder(self) -> Path:
        self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="milpath-")
        return Path(self._temporary.name)

    def _mpp_of_prediction(self) -> tuple[float, float] | None:
        """Return the prediction's µm per pixel for a slide that has none."""
        pyramid = self.inspection.pyramid
        missing = pyramid is not None and mpp_of(pyramid) is None
        return self.inspection.mpp if missing else None

    def _cancel(self) -> None:
        if self.job is not None:
            self.job.cancel()

    def _show_progress(self, done: int, total: int) -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        self.status.setText(f"{done:,} of {total:,} patches")

    def _show_running(self, job: ClassifyJob | None) -> None:
        self.job = job
        self.run.setEnabled(job is None)
        self.cancel.setEnabled(job is not None)
        self.bar.setVisible(job is not None)
        self.bar.setRange(0, 0)  # busy until the first progress
        if job is not None:
            self.status.setText("starting Keras/TensorFlow …")

    def _finish(self, path: Path | None, message: str) -> None:
        self._show_running(None)
        self.status.setText(message)
        if path is None:
            (show_info if message == "cancelled" else show_error)(message)
            return
        try:
            prediction = read_prediction(path)
            layers = partial(_as_layers, prediction)
            if self.inspection.pyramid is not None:  # may have changed meanwhile
                require_same_slide(self.inspection.pyramid, prediction)
        except SlideMismatchError as error:
            offer_to_force(self.viewer, error, layers)
        except MilpathError as error:
            show_error(str(error))
        else:
            add_layers(self.viewer, layers)

    def stop(self) -> None:
        """Stop the job and delete its files: the viewer or the panel closes."""
        if self.job is not None:
            self.job.stop()
            self.job = None
        if self.finder is not None:
            for signal in (self.finder.returned, self.finder.errored, self.finder.finished):
                signal.disconnect()
            self.finder = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None


def _as_layers(prediction: Prediction) -> list[LayerData]:
    return [read_attention(prediction)]
