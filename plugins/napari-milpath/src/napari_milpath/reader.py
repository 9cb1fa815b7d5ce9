"""napari reader of slides and predictions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import napari
from napari.components import ViewerModel
from napari.layers import Layer
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QMessageBox

from milpath.errors import MilpathError, UnsupportedSlideError, UsageError
from milpath.figures.heatmap import rasterize_scores, score_patches
from milpath.formats.prediction import (
    Prediction,
    SlideMismatchError,
    find_mismatch,
    read_prediction,
)
from milpath.slides.slide import Slide
from napari_milpath.layers import (
    KEY,
    LayerData,
    heatmap_layer,
    keep_slides_below,
    mpp_of,
    prediction_of,
    pyramid_of,
    require_same_slide,
    slide_layer,
    unplaced_layer,
)
from napari_milpath.pyramid import Pyramid

Read = Callable[[str | list[str]], list[LayerData] | list[tuple[None]]]

PREDICTION_SUFFIX = ".prediction.h5"
_NOTHING = [(None,)]  # tells napari that there is nothing to add
_SHARED_SUFFIXES = {".tif", ".tiff", ".dcm"}  # also of images for napari's own readers


def get_reader(path: str | list[str]) -> Read | None:
    """Return the function that reads these files; None if they are for other readers."""
    paths = [path] if isinstance(path, str) else path
    return read if all(_is_slide_or_prediction(Path(each)) for each in paths) else None


def _is_slide_or_prediction(path: Path) -> bool:
    if path.suffix.lower() not in _SHARED_SUFFIXES:
        return True
    try:
        Slide(path).close()
    except UnsupportedSlideError:
        return False
    return True


def read(path: str | list[str]) -> list[LayerData] | list[tuple[None]]:
    """Read files as layers, slides below predictions.

    If a window is open, errors are shown there and nothing is read: napari would report only that a
    reader failed. The user may then force a prediction of a different slide. Without a window,
    errors are raised.

    Raises
    ------
    SlideError, StoredFileError : the slide or prediction cannot be read
    SlideMismatchError : the prediction was made from a different slide than the open one, in
        whichever order they are opened
    """
    paths = [Path(each) for each in ([path] if isinstance(path, str) else path)]
    try:
        return read_files(paths)
    except MilpathError as error:
        viewer = napari.current_viewer()
        if viewer is None or not viewer.window._qt_window.isVisible():
            raise
        if isinstance(error, SlideMismatchError):
            offer_to_force(viewer, error, partial(read_files, paths, force=True))
        else:
            show_error(str(error))
        return _NOTHING


def offer_to_force(
    viewer: napari.Viewer, error: SlideMismatchError, layers: Callable[[], list[LayerData]]
) -> None:
    """Ask whether to show a prediction of a different slide; on yes, add its layers."""
    question = f"{error.fact}.\n\nShow it anyway?"
    confirm(viewer, question[0].upper() + question[1:], lambda: add_layers(viewer, layers))


def confirm(viewer: napari.Viewer, question: str, on_yes: Callable[[], None]) -> None:
    """Ask a yes-or-no question over the viewer's window without blocking; the default is no."""
    parent = viewer.window._qt_window  # napari has no other parent that closes with the window
    yes, no = QMessageBox.StandardButton.Yes, QMessageBox.StandardButton.No
    box = QMessageBox(QMessageBox.Icon.Question, "milpath", question, yes | no, parent)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setDefaultButton(no)

    def answer(button: QAbstractButton) -> None:
        if box.standardButton(button) == yes:
            on_yes()

    box.buttonClicked.connect(answer)
    box.open()


def add_layers(viewer: ViewerModel, layers: Callable[[], list[LayerData]]) -> None:
    """Read layers and add them; show errors as notifications."""
    try:
        created = [Layer.create(*each) for each in layers()]
    except MilpathError as error:
        show_error(str(error))
        return
    for layer in created:
        viewer.add_layer(layer)


def read_files(paths: list[Path], *, force: bool = False) -> list[LayerData]:
    """Read as `read` does, but raise all errors; `force` accepts predictions of other slides."""
    if (viewer := napari.current_viewer()) is not None:
        keep_slides_below(viewer.layers)
    predictions = [each for each in paths if each.name.endswith(PREDICTION_SUFFIX)]
    layers = [read_slide(each) for each in paths if each not in predictions]
    pyramids: list[Pyramid] = [layer[1]["metadata"][KEY] for layer in layers]
    try:
        found = [read_prediction(each) for each in predictions]
        if not force:
            _require_slides(pyramids, found)
        return layers + [read_attention(each) for each in found]
    except MilpathError:
        for pyramid in pyramids:
            pyramid.close()
        raise


def _require_slides(pyramids: list[Pyramid], predictions: list[Prediction]) -> None:
    """Raise `SlideMismatchError` unless each prediction has its slide, or there is no slide.

    Predictions that are open without a slide are checked when the first slide is opened; those over
    a different slide have been forced.
    """
    shown: list[Layer] = list(viewer.layers) if (viewer := napari.current_viewer()) else []
    opened = [slide for layer in shown if (slide := pyramid_of(layer)) is not None]
    waiting = [found for layer in shown if (found := prediction_of(layer)) is not None]
    slides = opened + pyramids
    for prediction in predictions + ([] if opened else waiting):
        if slides and all(find_mismatch(prediction, each) for each in slides):
            require_same_slide(slides[-1], prediction)


def read_slide(path: Path, mpp: float | None = None) -> LayerData:
    """Read a slide as a lazy layer; `mpp` overrides its µm per pixel. Raises as `Slide` does."""
    pyramid = Pyramid(Slide(path, mpp=mpp, sleep=_never_wait))
    if mpp_of(pyramid) is None:
        show_warning(
            f"{pyramid.slide.name}: the µm per pixel are missing or wrong, so lengths are in "
            "pixels; open it with milpath view --slide-mpp"
        )
    return slide_layer(pyramid)


def _never_wait(seconds: float) -> None:
    """Do not block the window while a slide's file is gone; see `Pyramid.retry`."""


def read_attention(prediction: Prediction) -> LayerData:
    """Build a layer of a prediction's attention; an empty one if its patches have no places.

    Raises
    ------
    UsageError : the slide has no tissue and so no attention
    """
    if prediction.predicted is None:
        raise UsageError(f"{prediction.slide.slide_id}: no tissue was found; nothing to show")
    name = f"{prediction.slide.slide_id} attention"
    mpp = (prediction.slide.mpp_x, prediction.slide.mpp_y)
    scores = score_patches(prediction)
    if prediction.grid.places == "unknown":
        return unplaced_layer(prediction, scores, name, mpp)
    return heatmap_layer(prediction, rasterize_scores(prediction.grid, scores), name, mpp)
