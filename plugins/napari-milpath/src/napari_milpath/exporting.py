"""Export of the displayed scores; the name of the file decides on the format."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from milpath.errors import UsageError
from milpath.export import write_geojson, write_ome_tiff, write_patches
from milpath.figures.heatmap import Heatmap
from milpath.figures.overlay import overlay_title, write_overlay
from milpath.formats.prediction import Prediction
from milpath.slides.slide import Slide
from napari_milpath.inspection import FORCED, Inspection
from napari_milpath.scores import ScoreSource

FORMATS = {
    ".png": "Picture with colour bar (*.png)",
    ".geojson": "QuPath tiles (*.geojson)",
    ".rgb.ome.tif": "Raster in colours (*.rgb.ome.tif)",
    ".ome.tif": "Raster of numbers (*.ome.tif)",
    ".csv": "Patches (*.csv)",
}


def plan_export(inspection: Inspection, path: Path) -> Callable[[], None]:
    """Prepare an export of what is displayed now, to be run in another thread.

    Pictures and rasters hold the displayed scores, tables and QuPath tiles all scores. The returned
    function raises `OutputError` if the file cannot be written.

    Raises
    ------
    UsageError : no prediction is displayed, the format is unknown, or a picture has no slide
    """
    source, heatmap = inspection.source, inspection.heatmap
    if source is None or heatmap is None:
        raise UsageError("no prediction is displayed; open one first")
    prediction, name = source.prediction, path.name.lower()
    if name.endswith((".geojson", ".csv")):
        return _plan_table(inspection, path, prediction)
    if name.endswith((".ome.tif", ".ome.tiff")):
        coloured = name.endswith((".rgb.ome.tif", ".rgb.ome.tiff"))
        return partial(write_ome_tiff, path, heatmap, prediction.slide, coloured=coloured)
    if name.endswith(".png"):
        if inspection.pyramid is None:
            raise UsageError("a picture needs the slide; open it first")
        title = _title(source, inspection) + f"\n{FORCED}" * inspection.forced
        return partial(_write_picture, path, inspection.pyramid.slide, heatmap, title)
    raise UsageError(f"{path.name}: unknown format; use a name that ends in {', '.join(FORMATS)}")


def _title(source: ScoreSource, inspection: Inspection) -> str:
    """Say what the picture is of: its prediction, member or difference."""
    if inspection.subtracted is not None:
        return "\n".join(inspection.describe())
    return overlay_title(source.output, source.title)


def _plan_table(inspection: Inspection, path: Path, prediction: Prediction) -> Callable[[], None]:
    measures, remarks = inspection.measure()
    count = len(prediction.grid)
    if path.name.lower().endswith(".csv"):
        columns = {name: [text] * count for name, text in remarks.items()}
        return partial(write_patches, path, prediction, None, measures, columns)
    properties = [{"metadata": remarks}] * count
    return partial(write_geojson, path, prediction, None, measures, properties)


def _write_picture(path: Path, slide: Slide, heatmap: Heatmap, title: str) -> None:
    with slide.reopen() as own:
        write_overlay(path, own, heatmap, title)
