"""Reader: slides and predictions that are dropped on napari."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import napari
from napari.components import ViewerModel
from napari.layers import Layer
from napari.utils.notifications import show_error, show_warning

from milpath.errors import MilpathError, UnsupportedSlideError, UsageError
from milpath.figures.heatmap import render_heatmap
from milpath.formats.prediction import Prediction, read_prediction
from milpath.slides.slide import Slide
from napari_milpath.asking import ask
from napari_milpath.layers import (
    KEY,
    ForeignPredictionError,
    LayerData,
    heatmap_layer,
    mpp_of,
    prediction_of,
    pyramid_of,
    require_same_slide,
    slide_layer,
)
from napari_milpath.pyramid import Pyramid

Read = Callable[[str | list[str]], list[LayerData] | list[tuple[None]]]

PREDICTION_SUFFIX = ".prediction.h5"
_NOTHING = [(None,)]  # by which napari knows that there is nothing to add
_ALSO_PICTURES = {".tif", ".tiff", ".dcm"}  # may be what napari's own readers are for


def get_reader(path: str | list[str]) -> Read | None:
    """The function that reads these files; None when they are another reader's."""
    paths = [path] if isinstance(path, str) else path
    return read if all(_is_ours(Path(each)) for each in paths) else None


def _is_ours(path: Path) -> bool:
    if path.suffix.lower() not in _ALSO_PICTURES:
        return True
    try:
        Slide(path).close()
    except UnsupportedSlideError:
        return False
    return True


def read(path: str | list[str]) -> list[LayerData] | list[tuple[None]]:
    """Layers of the files, slides below predictions.

    What stands in the way is told in the window, and nothing is read: of an error, napari says only
    that a reader failed, and asks for another one. Where there is no window it is raised; and a
    prediction of another slide may be forced in the window alone.

    Raises
    ------
    SlideError, StoredFileError : no such slide or prediction
    ForeignPredictionError : a prediction of another slide than the one that is open, whichever came
        first
    """
    paths = [Path(each) for each in ([path] if isinstance(path, str) else path)]
    try:
        return read_files(paths)
    except MilpathError as error:
        viewer = napari.current_viewer()
        if viewer is None or not viewer.window._qt_window.isVisible():
            raise
        if isinstance(error, ForeignPredictionError):
            offer_to_force(viewer, error, partial(read_files, paths, force=True))
        else:
            show_error(str(error))
        return _NOTHING


def offer_to_force(
    viewer: napari.Viewer, error: ForeignPredictionError, layers: Callable[[], list[LayerData]]
) -> None:
    """Ask whether to show a prediction of another slide; add its layers on a yes."""
    question = f"{error.fact}.\n\nShow it all the same?"
    ask(viewer, question[0].upper() + question[1:], lambda: add_layers(viewer, layers))


def add_layers(viewer: ViewerModel, layers: Callable[[], list[LayerData]]) -> None:
    """Add what is read now, unless it cannot be any more, which is told."""
    try:
        made = [Layer.create(*each) for each in layers()]
    except MilpathError as error:
        show_error(str(error))
        return
    for layer in made:
        viewer.add_layer(layer)


def read_files(paths: list[Path], *, force: bool = False) -> list[LayerData]:
    """As `read`, but all errors are raised; with `force`, none of a prediction of another slide."""
    predictions = [each for each in paths if each.name.endswith(PREDICTION_SUFFIX)]
    layers = [read_slide(each) for each in paths if each not in predictions]
    pyramids: list[Pyramid] = [layer[1]["metadata"][KEY] for layer in layers]
    try:
        found = [read_prediction(each) for each in predictions]
        if not force:
            _require_places(pyramids, found)
        return layers + [read_attention(each) for each in found]
    except MilpathError:
        for pyramid in pyramids:
            pyramid.close()
        raise


def _require_places(pyramids: list[Pyramid], predictions: list[Prediction]) -> None:
    """Raise `ForeignPredictionError` unless each prediction has its slide, or there is no slide.

    Those that are open without any slide are asked with the first that comes; those that lie over
    another slide already were forced to.
    """
    shown: list[Layer] = list(viewer.layers) if (viewer := napari.current_viewer()) else []
    opened = [slide for layer in shown if (slide := pyramid_of(layer)) is not None]
    waiting = [found for layer in shown if (found := prediction_of(layer)) is not None]
    slides = opened + pyramids
    for prediction in predictions + ([] if opened else waiting):
        if slides and prediction.slide.quickhash not in {each.quickhash for each in slides}:
            require_same_slide(slides[-1], prediction)


def read_slide(path: Path, mpp: float | None = None) -> LayerData:
    """A slide as a lazy layer; `mpp` overrides its own µm per pixel. Raises as `Slide` does."""
    pyramid = Pyramid(Slide(path, mpp=mpp))
    if mpp_of(pyramid) is None:
        show_warning(
            f"{pyramid.slide.name}: its µm per pixel are missing or cannot be right, so lengths "
            "are in pixels; open it with milpath view --slide-mpp"
        )
    return slide_layer(pyramid)


def read_attention(prediction: Prediction) -> LayerData:
    """A prediction's attention as a layer.

    Raises
    ------
    UsageError : there was no tissue, and so is nothing to show
    """
    if prediction.predicted is None:
        raise UsageError(f"{prediction.slide.slide_id}: no tissue was found, nothing to show")
    name = f"{prediction.slide.slide_id} attention"
    mpp = (prediction.slide.mpp_x, prediction.slide.mpp_y)
    return heatmap_layer(prediction, render_heatmap(prediction), name, mpp)
