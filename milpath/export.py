"""Export: a prediction in the formats of other programs.

GeoJSON for QuPath, a pyramidal OME-TIFF for image programs, CSV for tables. All positions are
level-0 pixels of the slide, as QuPath counts them, or µm and mm where the name says so.
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
from milpath.figures.heatmap import Heatmap, PatchScores, score_patches
from milpath.figures.overlay import colour_scale
from milpath.formats.prediction import Prediction
from milpath.slides.slide import SlideFacts
from milpath.store import fingerprint, publish, publish_csv

_TILE_PX = 256
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def pick_strongest(scores: PatchScores, count: int | None) -> Rows:
    """The patches (n,) with the greatest scores (signed ones: the greatest sizes), in their order.

    Parameters
    ----------
    scores : of N patches
    count : how many of them; None or more than N for all
    """
    total = len(scores.values)
    if count is None or count >= total:
        return np.arange(total)
    order = np.argsort(-np.abs(scores.values), kind="stable")
    return np.sort(order[: max(count, 0)])


def measure_patches(prediction: Prediction) -> dict[str, Floats]:
    """Everything a prediction says of its patches: (N,) numbers by name.

    Raises
    ------
    UsageError : no tissue and so no patches
    """
    attention = [score_patches(prediction, scale=scale).values for scale in _SCALES]
    contributions = prediction.contributions
    return {
        **dict(zip(_SCALES.values(), attention, strict=True)),
        **{
            f"contribution {name}": contributions[:, index]
            for index, name in enumerate(prediction.class_names)
        },
    }


_SCALES: dict[Any, str] = {
    "raw": "attention",
    "relative": "relative attention",
    "percentile": "attention percentile",
}


# -- QuPath ----------------------------------------------------------------------------------------


def write_geojson(path: Path, prediction: Prediction, rows: Rows | None = None) -> None:
    """Patches as QuPath tiles with measurements: a GeoJSON FeatureCollection, a line a patch.

    Parameters
    ----------
    path : the file to write, whole or not at all
    prediction : of the slide that is opened in QuPath
    rows : which patches; all by default

    Raises
    ------
    UsageError : no tissue and so no patches
    """
    with publish(path) as file:
        file.write(b'{"type": "FeatureCollection", "features": [')
        for index, feature in enumerate(_features(prediction, rows)):
            text = json.dumps(feature, ensure_ascii=False, allow_nan=False)
            file.write((",\n" if index else "\n").encode() + text.encode())
        file.write(b"\n]}\n")


def _features(prediction: Prediction, rows: Rows | None) -> Iterator[dict[str, Any]]:
    measured = measure_patches(prediction)
    side = prediction.grid.patch_size_l0
    for row in range(len(prediction.grid)) if rows is None else rows.tolist():
        x, y = prediction.grid.coords[row].tolist()
        ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
        yield {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "tile",
                "name": f"patch {row}",
                "isLocked": True,
                "measurements": {name: float(values[row]) for name, values in measured.items()},
            },
        }


# -- tables ----------------------------------------------------------------------------------------


def write_patches(
    path: Path,
    prediction: Prediction,
    rows: Rows | None = None,
    remarks: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Patches as a CSV table: number, place in pixels and mm, and every measurement.

    Parameters and errors are those of `write_geojson`; also

    Parameters
    ----------
    remarks : further columns by name, a text a row
    """
    measured = measure_patches(prediction)
    chosen = np.arange(len(prediction.grid)) if rows is None else rows
    coords = prediction.grid.coords[chosen]
    side = prediction.grid.patch_size_l0
    mpp = np.array([prediction.slide.mpp_x, prediction.slide.mpp_y])
    centres = (coords + side / 2) * mpp / 1000
    columns = [
        chosen.tolist(),
        *coords.T.tolist(),
        [side] * len(chosen),
        *([f"{value:.6f}" for value in axis] for axis in centres.T),
        *([f"{value:.9g}" for value in values[chosen]] for values in measured.values()),
        *(remarks or {}).values(),
    ]
    header = ["patch", "x_l0", "y_l0", "size_l0", "centre_x_mm", "centre_y_mm"]
    names = [name.replace(" ", "_", 1) for name in measured]
    publish_csv(path, [*header, *names, *(remarks or {})], zip(*columns, strict=True))


# -- images ----------------------------------------------------------------------------------------


def write_ome_tiff(
    path: Path, heatmap: Heatmap, slide: SlideFacts, *, coloured: bool = False
) -> None:
    """A heatmap as a pyramidal OME-TIFF with its physical size: a pixel a cell.

    The file says where the picture's corner lies on the slide, in µm (the plane's position).

    Parameters
    ----------
    path : the file to write, whole or not at all
    heatmap : its numbers are written as float32, NaN where there is no patch
    slide : whose heatmap it is
    coloured : RGB as the eye sees it on glass instead of the numbers
    """
    if not np.isfinite(heatmap.values).any():
        raise UsageError(f"{slide.slide_id}: no patches, so there is no picture")
    levels = [_colour(level, heatmap) if coloured else level for level in _halvings(heatmap.values)]
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
                metadata=None if index else _ome(heatmap, slide, cell, coloured),
                software=False,
                **options,
            )


def _ome(
    heatmap: Heatmap, slide: SlideFacts, cell: tuple[float, float], coloured: bool
) -> dict[str, Any]:
    """What the OME-XML says of the picture."""
    place = {
        f"Position{axis}": [heatmap.lattice.origin_l0[index] * mpp]
        for index, (axis, mpp) in enumerate((("X", slide.mpp_x), ("Y", slide.mpp_y)))
    }
    same = fingerprint(slide.quickhash, heatmap.label, heatmap.values.tobytes().hex(), coloured)
    return {
        "UUID": f"urn:uuid:{UUID(same)}",  # else made of this machine's address and the time
        "axes": "YXS" if coloured else "YX",
        "Name": slide.slide_id,
        "Description": heatmap.label,
        "PhysicalSizeX": cell[0],
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": cell[1],
        "PhysicalSizeYUnit": "µm",
        "Plane": {**place, "PositionXUnit": ["µm"], "PositionYUnit": ["µm"]},
        **({} if coloured else {"Channel": {"Name": [heatmap.label]}}),
    }


def _halvings(values: Floats) -> list[Floats]:
    """The raster and its halvings down to one tile; a cell is the mean of those with a patch."""
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


def _colour(values: Floats, heatmap: Heatmap) -> NDArray[np.uint8]:
    """RGB (rows, cols, 3) of values on white glass, by the colours of the whole heatmap."""
    norm, colours = colour_scale(heatmap)
    rgb = np.full((*values.shape, 3), 255, np.uint8)
    shown = np.isfinite(values)
    rgba = colours(norm(values[shown]))
    rgb[shown] = np.rint(255 * (rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:])).astype(np.uint8)
    return rgb
