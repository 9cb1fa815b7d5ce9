"""Export of the displayed scores; the name of the file decides on the format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.errors import UsageError
from milpath.export import write_geojson, write_ome_tiff, write_patches
from milpath.figures.colormap import ColourScale
from milpath.figures.heatmap import Heatmap
from milpath.figures.overlay import overlay_title, write_overlay
from milpath.formats.prediction import Prediction
from milpath.patches.grid import require_places
from milpath.slides.frame import Point
from milpath.slides.slide import Slide
from napari_milpath.heatmap_image import HeatmapImage
from napari_milpath.inspection import Inspection
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

    All files are of the chosen prediction, member or difference. Pictures have the displayed
    colours. What the threshold hides is missing in pictures, rasters and QuPath tiles, and "no" in
    the column `visible` of tables. The returned function raises `OutputError` if the file cannot be
    written.

    Raises
    ------
    UsageError : no prediction is displayed, the threshold hides all of it, the format is unknown,
        a picture has no slide, or the place of QuPath's tiles or of the patches is not known
    """
    if inspection.source is None or inspection.image is None:
        raise UsageError("no prediction is displayed; open one first")
    if inspection.hidden:
        raise UsageError("the prediction's layer is hidden; make it visible first")
    kind = next((each for each in _PLANS if path.name.lower().endswith(each)), None)
    if kind is None:
        raise UsageError(
            f"{path.name}: unknown format; use a name that ends in {', '.join(FORMATS)}"
        )
    if kind != ".csv":
        grid, slide = inspection.source.prediction.grid, inspection.source.prediction.slide
        require_places(grid, slide.slide_id)
    return _PLANS[kind](inspection, path)


def _plan_picture(inspection: Inspection, path: Path) -> Callable[[], None]:
    source, image, heatmap = _displayed(inspection)
    if inspection.pyramid is None:
        raise UsageError("a picture needs the slide; open it first")
    title = "\n".join((_title(source, inspection), *inspection.cautions))
    return partial(_write_picture, path, inspection.pyramid.slide, heatmap, title, image.to_scale())


def _plan_raster(inspection: Inspection, path: Path) -> Callable[[], None]:
    source, image, heatmap = _displayed(inspection)
    shown = _is_visible(image, heatmap.values)
    heatmap = replace(heatmap, values=np.where(shown, heatmap.values, np.nan))
    return partial(write_ome_tiff, path, heatmap, source.prediction.slide)


def _plan_colours(inspection: Inspection, path: Path) -> Callable[[], None]:
    source, image, heatmap = _displayed(inspection)
    _is_visible(image, heatmap.values)
    slide, scale = source.prediction.slide, image.to_scale()
    return partial(write_ome_tiff, path, heatmap, slide, coloured=True, scale=scale)


def _plan_tiles(inspection: Inspection, path: Path) -> Callable[[], None]:
    source, image, _ = _displayed(inspection)
    measures, remarks = inspection.measure()
    rows = np.flatnonzero(_is_visible(image, measures["displayed"]))
    colours = np.rint(255 * image.colours(measures["displayed"][rows])[:, :3]).astype(int)
    properties = [{"color": each, "metadata": remarks} for each in colours.tolist()]
    prediction, corner = source.prediction, _find_corner(inspection, source.prediction)
    return partial(
        write_geojson,
        path,
        prediction,
        rows,
        corner=corner,
        measures=measures,
        properties=properties,
    )


def _find_corner(inspection: Inspection, prediction: Prediction) -> Point:
    """Return where QuPath begins to count: as recorded, or else as the open slide says."""
    if prediction.slide.corner is not None:
        return prediction.slide.corner
    if inspection.pyramid is None or inspection.forced:
        raise UsageError(
            "this prediction does not record where QuPath begins to count (it is of an earlier "
            "version, or was made from features alone); open its slide too"
        )
    return inspection.pyramid.slide.bounds_l0[:2]


def _plan_table(inspection: Inspection, path: Path) -> Callable[[], None]:
    source, image = inspection.source, inspection.image
    assert source is not None
    assert image is not None
    measures, remarks = inspection.measure()
    visible = image.colours(measures["displayed"])[:, 3] > 0
    columns = {name: [text] * len(visible) for name, text in remarks.items()}
    columns["visible"] = ["yes" if each else "no" for each in visible.tolist()]
    return partial(write_patches, path, source.prediction, None, measures, columns)


_PLANS = {
    ".png": _plan_picture,
    ".geojson": _plan_tiles,
    ".csv": _plan_table,
    ".rgb.ome.tif": _plan_colours,
    ".rgb.ome.tiff": _plan_colours,
    ".ome.tif": _plan_raster,
    ".ome.tiff": _plan_raster,
}


def _displayed(inspection: Inspection) -> tuple[ScoreSource, HeatmapImage, Heatmap]:
    source, image, heatmap = inspection.source, inspection.image, inspection.heatmap
    assert source is not None
    assert image is not None
    assert heatmap is not None
    return source, image, heatmap


def _is_visible(image: HeatmapImage, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which scores are drawn; raise `UsageError` if none is."""
    visible: NDArray[np.bool_] = image.colours(scores.ravel())[:, 3].reshape(scores.shape) > 0
    if not visible.any():
        raise UsageError("no patch is displayed, so there is nothing to write; lower the threshold")
    return visible


def _title(source: ScoreSource, inspection: Inspection) -> str:
    """Say what the picture is of: its prediction, member or difference."""
    if inspection.subtracted is not None:
        return "\n".join(inspection.describe())
    return overlay_title(source.output, source.title)


def _write_picture(
    path: Path, slide: Slide, heatmap: Heatmap, title: str, scale: ColourScale
) -> None:
    with slide.reopen() as own:
        write_overlay(path, own, heatmap, title, scale=scale)
