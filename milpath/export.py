"""Export: predictions in the formats of other programs.

GeoJSON for QuPath, pyramidal OME-TIFF for image viewers, CSV for spreadsheets. All positions are
level-0 pixels of the slide's whole canvas, unless the name says µm or mm; those of GeoJSON are in
QuPath's frame unless the other is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffWriter

from milpath.errors import UsageError
from milpath.figures.colormap import ColourScale, colour_scale
from milpath.figures.heatmap import Heatmap, PatchScores, score_patches
from milpath.figures.score import Scale
from milpath.formats.prediction import Prediction
from milpath.patches.grid import require_places
from milpath.slides.facts import SlideFacts
from milpath.slides.frame import Frame, Point, frame_record
from milpath.store import fingerprint, publish, publish_csv

_TILE_PX = 256
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def pick_strongest(scores: PatchScores, count: int | None) -> Rows:
    """Select the patches with the highest absolute scores.

    Parameters
    ----------
    scores : of N patches
    count : number of patches; None or more than N for all

    Returns
    -------
    Their row numbers (n,), ascending.
    """
    total = len(scores.values)
    if count is None or count >= total:
        return np.arange(total)
    order = np.argsort(-np.abs(scores.values), kind="stable")
    return np.sort(order[: max(count, 0)])


def measure_patches(prediction: Prediction) -> dict[str, Floats]:
    """Collect all scores of a prediction's patches: name to values (N,).

    Raises
    ------
    UsageError : no tissue, so no patches
    """
    attention = {
        name: score_patches(prediction, scale=scale).values for scale, name in _NAMES.items()
    }
    contributions = prediction.contributions
    return {
        **attention,
        **{
            f"contribution {name}": contributions[:, index]
            for index, name in enumerate(prediction.class_names)
        },
    }


_NAMES = {
    Scale.raw: "attention",
    Scale.relative: "relative attention",
    Scale.percentile: "attention percentile",
}


# -- QuPath ----------------------------------------------------------------------------------------


def write_geojson(
    path: Path,
    prediction: Prediction,
    rows: Rows | None = None,
    frame: Frame = Frame.qupath,
    corner: Point | None = None,
    measures: Mapping[str, Floats] | None = None,
    properties: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write patches as QuPath tiles with measurements, one GeoJSON feature per line.

    The file records its frame.

    Parameters
    ----------
    path : file to write; it is complete or not there
    prediction : of the slide to open in QuPath
    rows : row numbers of the patches; by default all
    frame : that the coordinates are in
    corner : (x, y) of the slide's bounds; by default as the prediction records it
    measures : scores (N,) by name; by default `measure_patches`. NaN is left out
    properties : further GeoJSON properties, one mapping per row

    Raises
    ------
    UsageError : no tissue, so no patches; their places are not known; or the corner is needed, and
        not known
    """
    require_places(prediction.grid, prediction.slide.slide_id)
    origin = _find_origin(prediction, frame, corner)
    record = json.dumps(frame_record(frame, origin))
    with publish(path) as file:
        file.write(f'{{"type": "FeatureCollection", "milpath": {record}, "features": ['.encode())
        for index, feature in enumerate(_features(prediction, rows, origin, measures, properties)):
            text = json.dumps(feature, ensure_ascii=False, allow_nan=False)
            file.write((",\n" if index else "\n").encode() + text.encode())
        file.write(b"\n]}\n")


def _find_origin(prediction: Prediction, frame: Frame, corner: Point | None) -> Point:
    slide = prediction.slide
    corner = slide.corner if corner is None else corner
    if corner is None and frame is Frame.qupath:
        why = "is of an earlier version of milpath and does not record"
        unknown = "was made from features alone, which do not tell"
        raise UsageError(
            f"{slide.slide_id}: its prediction {why if slide.identified else unknown} where QuPath "
            "begins to count; give the slide with --slide, classify it again"
            f"{'' if slide.identified else ' with --slides'}, or give --frame canvas"
        )
    return frame.origin(corner or (0, 0))


def _features(
    prediction: Prediction,
    rows: Rows | None,
    origin: Point,
    measures: Mapping[str, Floats] | None,
    properties: Sequence[Mapping[str, Any]] | None,
) -> Iterator[dict[str, Any]]:
    measured = measure_patches(prediction) if measures is None else measures
    side = prediction.grid.patch_size_l0
    chosen = list(range(len(prediction.grid))) if rows is None else rows.tolist()
    for row, further in zip(chosen, properties or [{}] * len(chosen), strict=True):
        x, y = (prediction.grid.coords[row] - np.array(origin)).tolist()
        ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
        yield {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "tile",
                "name": f"patch {row}",
                "isLocked": True,
                **further,
                "measurements": {
                    name: float(values[row])
                    for name, values in measured.items()
                    if not np.isnan(values[row])
                },
            },
        }


# -- tables ----------------------------------------------------------------------------------------


def write_patches(
    path: Path,
    prediction: Prediction,
    rows: Rows | None = None,
    measures: Mapping[str, Floats] | None = None,
    remarks: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write patches as a CSV table: number, position in pixels and mm, and all scores.

    The cell of a score that is NaN is empty, and that of an unknown position and size.

    Parameters
    ----------
    path : file to write; it is complete or not there
    prediction : its positions are written in the frame of the whole canvas
    rows : row numbers of the patches; by default all
    measures : scores (N,) by name; by default `measure_patches`
    remarks : further columns by name, one text per row

    Raises
    ------
    UsageError : no tissue, so no patches
    """
    measured = measure_patches(prediction) if measures is None else measures
    chosen = np.arange(len(prediction.grid)) if rows is None else rows
    columns = [
        chosen.tolist(),
        *_list_positions(prediction, chosen),
        *([_format(value) for value in values[chosen].tolist()] for values in measured.values()),
        *(remarks or {}).values(),
    ]
    header = ["patch", "x_l0", "y_l0", "size_l0", "centre_x_mm", "centre_y_mm"]
    names = [name.replace(" ", "_", 1) for name in measured]
    publish_csv(path, [*header, *names, *(remarks or {})], zip(*columns, strict=True))


def _list_positions(prediction: Prediction, rows: Rows) -> list[list[Any]]:
    """List x, y and side in pixels and x and y of the centre in mm, one column each."""
    grid, slide = prediction.grid, prediction.slide
    if grid.places == "unknown":
        return [[""] * len(rows)] * 5
    coords = grid.coords[rows]
    centres = (coords + grid.patch_size_l0 / 2) * (slide.mpp_x, slide.mpp_y) / 1000
    in_mm = [[f"{value:.6f}" for value in axis] for axis in centres.T]
    return [*coords.T.tolist(), [grid.patch_size_l0] * len(rows), *in_mm]


def _format(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.9g}"


# -- images ----------------------------------------------------------------------------------------


def write_ome_tiff(
    path: Path,
    heatmap: Heatmap,
    slide: SlideFacts,
    *,
    coloured: bool = False,
    scale: ColourScale | None = None,
) -> None:
    """Write a heatmap as a pyramidal OME-TIFF with its physical size, one pixel per cell.

    The plane's position is the picture's top-left corner on the slide's whole canvas, in µm.

    Parameters
    ----------
    path : file to write; it is complete or not there
    heatmap : its values are written as float32, NaN without a patch
    slide : record of its slide
    coloured : write RGB colours on white instead of the values
    scale : of the colours; by default `colour_scale`

    Raises
    ------
    UsageError : no patches
    """
    if not np.isfinite(heatmap.values).any():
        raise UsageError(f"{slide.slide_id}: no patches, so there is no heatmap to write")
    levels = [
        _colour(level, scale or colour_scale(heatmap)) if coloured else level
        for level in _build_pyramid(heatmap.values)
    ]
    width, height = heatmap.lattice.cell_l0
    cell = width * slide.mpp_x, height * slide.mpp_y
    options: dict[str, Any] = {
        "tile": (_TILE_PX, _TILE_PX),
        "photometric": "rgb" if coloured else "minisblack",
        "compression": "zlib",
        "resolutionunit": "CENTIMETER",
    }
    with publish(path) as file, TiffWriter(file, ome=True) as tiff:
        for index, level in enumerate(levels):
            tiff.write(
                level if coloured else level.astype(np.float32),
                subifds=0 if index else len(levels) - 1,
                subfiletype=1 if index else 0,
                resolution=(1e4 / cell[0] / 2**index, 1e4 / cell[1] / 2**index),
                metadata=None if index else _ome_metadata(heatmap, slide, cell, coloured),
                software=False,
                **options,
            )


def _ome_metadata(
    heatmap: Heatmap, slide: SlideFacts, cell: tuple[float, float], coloured: bool
) -> dict[str, Any]:
    """Build the content of the OME-XML, in tifffile's terms."""
    position = {
        f"Position{axis}": [heatmap.lattice.origin_l0[index] * mpp]
        for index, (axis, mpp) in enumerate((("X", slide.mpp_x), ("Y", slide.mpp_y)))
    }
    known = slide.quickhash or slide.slide_id
    digits = fingerprint(known, heatmap.label, heatmap.values.tobytes().hex(), coloured)
    return {
        "UUID": f"urn:uuid:{UUID(digits)}",  # the default depends on the machine and the time
        "axes": "YXS" if coloured else "YX",
        "Name": slide.slide_id,
        "Description": heatmap.label,
        "PhysicalSizeX": cell[0],
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": cell[1],
        "PhysicalSizeYUnit": "µm",
        "Plane": {**position, "PositionXUnit": ["µm"], "PositionYUnit": ["µm"]},
        **({} if coloured else {"Channel": {"Name": [heatmap.label]}}),
    }


def _build_pyramid(values: Floats) -> list[Floats]:
    """Halve a raster down to one tile; a cell is the mean of its up to four cells with a patch."""
    levels = [values]
    while max(levels[-1].shape) > _TILE_PX:
        finer = levels[-1]
        rows, cols = (-(-length // 2) for length in finer.shape)
        padded = np.full((2 * rows, 2 * cols), np.nan)
        padded[: finer.shape[0], : finer.shape[1]] = finer
        four = padded.reshape(rows, 2, cols, 2)
        count = np.isfinite(four).sum(axis=(1, 3))
        total = np.nansum(four, axis=(1, 3))
        levels.append(np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0))
    return levels


def _colour(values: Floats, scale: ColourScale) -> NDArray[np.uint8]:
    """Colour values on white, RGB (rows, cols, 3), with the colour scale of the whole heatmap."""
    norm, colours = scale
    rgb = np.full((*values.shape, 3), 255, np.uint8)
    shown = np.isfinite(values)
    rgba = colours(norm(values[shown]))
    rgb[shown] = np.rint(255 * (rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:])).astype(np.uint8)
    return rgb
