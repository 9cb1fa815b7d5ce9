"""Models: the tab that classifies the slide that is open."""

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
from milpath.formats.prediction import Prediction, read_prediction
from milpath.slides.annotation import Polygon, write_annotation
from napari_milpath.inspection import Inspection
from napari_milpath.job import ClassifyJob, Order
from napari_milpath.layers import ForeignPredictionError, LayerData, mpp_of, require_same_slide
from napari_milpath.reader import add_layers, offer_to_force, read_attention
from napari_milpath.tissue import find_tissue, is_tissue, outline_of, tissue_layer

if TYPE_CHECKING:
    from napari.viewer import Viewer


class Models(QWidget):
    """Finds tissue, runs a model over it, and opens what it says."""

    def __init__(self, inspection: Inspection, viewer: Viewer) -> None:
        super().__init__()
        self.inspection, self.viewer = inspection, viewer
        self.job: ClassifyJob | None = None
        self.finder: FunctionWorker | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self.model, self.out = QLineEdit(), QLineEdit()
        self.model.setPlaceholderText("a folder that milpath train has written")
        self.out.setPlaceholderText("kept until the viewer is closed")
        self.tissue = QPushButton("Show the tissue")
        self.keep = QPushButton("Save the annotation …")
        self.keep.setToolTip("as GeoJSON: for milpath tile --tissue-annotations, or QuPath")
        self.edited = QCheckBox("take the annotation as it is drawn")
        self.edited.setToolTip("only what lies inside the layer 'tissue' is classified")
        self.run, self.cancel = QPushButton("Classify this slide"), QPushButton("Cancel")
        self.bar, self.word = QProgressBar(), QLabel()
        self.word.setWordWrap(True)
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
        annotation = QHBoxLayout()
        annotation.addWidget(self.tissue)
        annotation.addWidget(self.keep)
        column.addLayout(annotation)
        column.addWidget(self.edited)
        column.addLayout(buttons)
        column.addWidget(self.bar)
        column.addWidget(self.word)
        column.addStretch()

    def _connect(self) -> None:
        self.tissue.clicked.connect(self.show_tissue)
        self.keep.clicked.connect(self._keep)
        self.run.clicked.connect(self.classify)
        self.cancel.clicked.connect(lambda: self.job and self.job.cancel())

    def _browse(self, line: QLineEdit) -> None:
        name = QFileDialog.getExistingDirectory(self, "Choose a folder", line.text())
        if name:
            line.setText(name)

    # -- tissue ----------------------------------------------------------------------------------

    def show_tissue(self) -> None:
        """Find the tissue in the background and lay its annotation over the slide."""
        pyramid = self.inspection.pyramid
        if pyramid is None:
            show_error("open a slide first")
            return
        mpp = mpp_of(pyramid)
        self.tissue.setEnabled(False)
        self.finder = create_worker(find_tissue, pyramid.slide, _ignore_errors=True)
        self.finder.returned.connect(lambda found: self._add_tissue(found, mpp or (1.0, 1.0)))
        self.finder.errored.connect(lambda error: show_error(str(error)))
        self.finder.finished.connect(self._found)
        self.finder.start()

    def _found(self) -> None:
        self.finder = None
        self.tissue.setEnabled(True)

    def _add_tissue(self, annotation: list[Polygon], mpp: tuple[float, float]) -> None:
        for layer in [layer for layer in self.viewer.layers if is_tissue(layer)]:
            self.viewer.layers.remove(layer)
        self.viewer.add_layer(Layer.create(*tissue_layer(annotation, mpp)))
        self.edited.setChecked(True)
        self.word.setText(f"{len(annotation)} pieces of tissue; change them with the layer's tools")

    def _keep(self) -> None:
        pyramid = self.inspection.pyramid
        name = f"{pyramid.slide.slide_id}{ANNOTATION_SUFFIX}" if pyramid is not None else ""
        name, _ = QFileDialog.getSaveFileName(self, "Save", name, f"GeoJSON (*{ANNOTATION_SUFFIX})")
        if not name:
            return
        try:
            self.save_outline(Path(name))
        except MilpathError as error:
            show_error(str(error))
        else:
            show_info(f"saved {Path(name).name}")

    def save_outline(self, path: Path) -> None:
        """Write the annotation as it is drawn now.

        Raises
        ------
        UsageError : there is none
        OutputError : the file cannot be written
        """
        drawn = [layer for layer in self.viewer.layers if is_tissue(layer)]
        if not drawn or not len(drawn[-1].data):
            raise UsageError("there is no annotation: show the tissue first, or draw some")
        write_annotation(path, outline_of(drawn[-1]))

    # -- the model -------------------------------------------------------------------------------

    def classify(self) -> None:
        """Start the child; what stands in the way is a notification."""
        try:
            order = self._order()
        except MilpathError as error:
            show_error(str(error))
            return
        job = ClassifyJob(order)
        job.progressed.connect(self._show_progress)
        job.ended.connect(self._finish)
        self._show_running(job)

    def _order(self) -> Order:
        pyramid = self.inspection.pyramid
        if pyramid is None:
            raise UsageError("open a slide first")
        model = Path(self.model.text())
        if not self.model.text() or not (model / "model.json").is_file():
            raise UsageError("name a model first: a folder with a model.json")
        scratch = self._scratch_folder()
        annotation = None
        if self.edited.isChecked():
            annotation = scratch / "tissue.geojson"
            self.save_outline(annotation)
        given = pyramid.slide.mpp_source in ("cohort", "option")
        mpp = mpp_of(pyramid) if given else self._mpp_of_prediction()
        out = Path(self.out.text()) if self.out.text() else scratch / "results"
        return Order(pyramid.path, model, out, mpp[0] if mpp else None, annotation)

    def _scratch_folder(self) -> Path:
        self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="milpath-")
        return Path(self._scratch.name)

    def _mpp_of_prediction(self) -> tuple[float, float] | None:
        """For a slide that does not say its resolution: that of its prediction."""
        pyramid = self.inspection.pyramid
        silent = pyramid is not None and mpp_of(pyramid) is None
        return self.inspection.mpp if silent else None

    def _show_progress(self, done: int, total: int) -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        self.word.setText(f"{done:,} of {total:,} patches")

    def _show_running(self, job: ClassifyJob | None) -> None:
        self.job = job
        self.run.setEnabled(job is None)
        self.cancel.setEnabled(job is not None)
        self.bar.setVisible(job is not None)
        self.bar.setRange(0, 0)  # until the child says more: busy
        if job is not None:
            self.word.setText("starting the network's library …")

    def _finish(self, path: Path | None, message: str) -> None:
        self._show_running(None)
        self.word.setText(message)
        if path is None:
            (show_info if message == "cancelled" else show_error)(message)
            return
        try:
            prediction = read_prediction(path)
            layers = partial(_as_layers, prediction)
            if self.inspection.pyramid is not None:  # it may be another one by now
                require_same_slide(self.inspection.pyramid, prediction)
        except ForeignPredictionError as error:
            offer_to_force(self.viewer, error, layers)
        except MilpathError as error:
            show_error(str(error))
        else:
            add_layers(self.viewer, layers)

    def stop(self) -> None:
        """End the child and leave no trace of it: the viewer or the panel closes."""
        if self.job is not None:
            self.job.stop()
            self.job = None
        if self.finder is not None:
            for heard in (self.finder.returned, self.finder.errored, self.finder.finished):
                heard.disconnect()
            self.finder = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None


def _as_layers(prediction: Prediction) -> list[LayerData]:
    return [read_attention(prediction)]
