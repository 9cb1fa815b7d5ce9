"""Exporting: what is inspected as a file for other programs, by the file's name."""

from __future__ import annotations

from pathlib import Path

from milpath.errors import UsageError
from milpath.export import write_geojson, write_ome_tiff, write_patches
from milpath.overlay import overlay_title, write_overlay
from napari_milpath.inspection import FORCED, Inspection

FORMATS = {
    ".png": "Picture with colour bar (*.png)",
    ".geojson": "QuPath tiles (*.geojson)",
    ".rgb.ome.tif": "Raster in colours (*.rgb.ome.tif)",
    ".ome.tif": "Raster of numbers (*.ome.tif)",
    ".csv": "Patches (*.csv)",
}


def export_view(inspection: Inspection, path: Path) -> None:
    """Write what is shown; a picture and a raster as it is scored now, patches with every score.

    Raises
    ------
    UsageError : nothing is shown, no such format, or no slide for a picture
    OutputError : the file cannot be written
    """
    voice, heatmap = inspection.voice, inspection.heatmap
    if voice is None or heatmap is None:
        raise UsageError("no prediction is shown: open one first")
    name = path.name.lower()
    if name.endswith(".geojson"):
        write_geojson(path, voice.prediction)
    elif name.endswith(".csv"):
        write_patches(path, voice.prediction)
    elif name.endswith((".ome.tif", ".ome.tiff")):
        coloured = name.endswith((".rgb.ome.tif", ".rgb.ome.tiff"))
        write_ome_tiff(path, heatmap, voice.prediction.slide, coloured=coloured)
    elif name.endswith(".png"):
        if inspection.pyramid is None:
            raise UsageError("a picture needs the slide: open it first")
        title = overlay_title(voice.prediction) + f"\n{FORCED}" * inspection.forced
        with inspection.pyramid.slide.reopen() as slide:
            write_overlay(path, slide, heatmap, title)
    else:
        raise UsageError(f"{path.name}: give a name that ends in {', '.join(FORMATS)}")
