"""Annotation: tissue as polygons that a person can look at and change, as GeoJSON.

Polygons are in level-0 pixels (x, y), with holes, in the form that QuPath reads and writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import approximate_polygon, find_contours, points_in_poly

from milpath.errors import AnnotationError
from milpath.slides.thumbnail import Thumbnail
from milpath.slides.tissue import TissueMask
from milpath.store import publish_json

Ring = NDArray[np.float64]

MAX_BYTES = 1 << 25
MAX_VERTICES = 250_000
MAX_RINGS = 10_000
"""Of a file that is read; more is no annotation but an attack, or a mistake."""

_MAX_LISTS = MAX_VERTICES + 4 * MAX_RINGS  # a corner is one, and so are rings, and what holds them
_CROSSINGS = 1 << 18  # of edges and rows, that are counted at a time

_MAX_COORDINATE = 1e9  # no slide is so large; and NaN is not less either
_SIMPLIFY = 0.7  # cells that a traced annotation may differ from its mask


@dataclass(frozen=True)
class Polygon:
    """A piece of tissue.

    Attributes
    ----------
    ring : float64 array (n, 2), its annotation, level-0 (x, y)
    holes : annotations of what is not tissue in it
    """

    ring: Ring
    holes: tuple[Ring, ...] = ()


@dataclass(frozen=True)
class Annotation:
    """What a person says is tissue on a slide.

    Attributes
    ----------
    polygons : its pieces, at least one
    fingerprint : of the file that they were read from
    """

    polygons: tuple[Polygon, ...]
    fingerprint: str


def trace_tissue(tissue: TissueMask) -> list[Polygon]:
    """The annotations of a mask, through the edges of its cells to a fraction of a cell."""
    padded = np.pad(tissue.mask, 1).astype(np.float64)
    rings = []
    for contour in find_contours(padded, 0.5):
        simple = approximate_polygon(contour, _SIMPLIFY)
        if len(simple) >= 4:
            places = tissue.lattice.from_index(simple - 1)  # the padding is one cell
            rings.append(places[:-1])
    return nest_rings(rings)


def nest_rings(rings: Sequence[Ring]) -> list[Polygon]:
    """Rings as polygons: one that lies inside another is a hole in it, one inside that a piece.

    Rings that cross each other are pieces both.
    """
    order = sorted(rings, key=_area, reverse=True)
    around: list[list[int]] = []
    for index, ring in enumerate(order):
        around.append([k for k in range(index) if points_in_poly(ring, order[k]).all()])
    pieces = {k: Polygon(ring) for k, ring in enumerate(order) if len(around[k]) % 2 == 0}
    for index, ring in enumerate(order):
        if len(around[index]) % 2:
            parent = around[index][-1]
            pieces[parent] = replace(pieces[parent], holes=(*pieces[parent].holes, ring))
    return list(pieces.values())


def _area(ring: Ring) -> float:
    x, y = ring.T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def rasterize_annotation(
    thumbnail: Thumbnail, tissue: TissueMask, annotation: Sequence[Polygon]
) -> TissueMask:
    """A mask of what lies inside an annotation, in place of what was found.

    Parameters
    ----------
    thumbnail : what the slide looks like
    tissue : what was found on it; its background stays
    annotation : what a person says is tissue

    Raises
    ------
    AnnotationError : the annotation does not touch the slide
    """
    mask = np.zeros(thumbnail.rgb.shape[:2], np.bool_)
    for polygon in annotation:
        rings = [thumbnail.lattice.to_index(ring) for ring in (polygon.ring, *polygon.holes)]
        where, inside = _fill_rings(mask.shape, rings)
        mask[where] |= inside
    if not mask.any():
        low = np.min([polygon.ring.min(axis=0) for polygon in annotation], axis=0)
        raise AnnotationError(
            f"the annotation does not touch the slide: it begins at x {low[0]:g}, y {low[1]:g}; "
            "expected pixels of the full-size slide, from its top-left corner"
        )
    return replace(tissue, mask=mask & ~thumbnail.unreadable)


def _fill_rings(
    shape: tuple[int, ...], rings: Sequence[Ring]
) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """What lies inside the first ring and in none of the others, in the part where that one is.

    Parameters
    ----------
    shape : (rows, cols) of the whole array
    rings : (n, 2), [row, col] in its indices; an annotation and its holes
    """
    size = np.array(shape)
    low = np.floor(rings[0].min(axis=0)).clip(0, size).astype(np.int64)
    high = np.ceil(rings[0].max(axis=0) + 1).clip(low, size).astype(np.int64)
    rows, cols = (high - low).tolist()
    inside, *holes = (_fill_ring(ring - low, rows, cols) for ring in rings)
    for hole in holes:
        inside &= ~hole
    return np.s_[low[0] : high[0], low[1] : high[1]], inside


def _fill_ring(ring: Ring, rows: int, cols: int) -> NDArray[np.bool_]:
    """The cells (rows, cols) whose middle a ring is around an odd number of times.

    Each edge turns over all that lies to its right in the rows it crosses; so the work grows with
    the corners' number and the area, not with their product.
    """
    turns = np.zeros(rows * (cols + 1), np.int64)
    for row, x in _crossings(ring, rows):
        place = row * (cols + 1) + np.floor(x + 1).clip(0, cols).astype(np.int64)
        turns += np.bincount(place, minlength=len(turns))
    inside: NDArray[np.bool_] = turns.reshape(rows, cols + 1)[:, :cols].cumsum(axis=1) % 2 == 1
    return inside


def _crossings(ring: Ring, rows: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Where the edges of a ring cross the middles of rows: (row, x) of each, some at a time."""
    start, end = ring, np.roll(ring, -1, axis=0)
    top, bottom = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
    first = np.ceil(top).clip(0, rows).astype(np.int64)
    count = np.ceil(bottom).clip(0, rows).astype(np.int64) - first
    step = max(1, _CROSSINGS // max(1, rows))
    for at in range(0, len(ring), step):
        part = slice(at, at + step)
        edge = np.repeat(np.arange(len(ring))[part], count[part])
        before = np.repeat(count[part].cumsum() - count[part], count[part])
        row = first[edge] + np.arange(len(edge)) - before
        (y0, x0), (y1, x1) = start[edge].T, end[edge].T
        yield row, x0 + (row - y0) * ((x1 - x0) / (y1 - y0))


# -- files -----------------------------------------------------------------------------------------


def write_annotation(path: Path, annotation: Sequence[Polygon]) -> None:
    """Write an annotation as GeoJSON annotations of the class Tissue, whole or not at all."""
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [_closed(ring) for ring in (polygon.ring, *polygon.holes)],
            },
            "properties": {"objectType": "annotation", "classification": {"name": "Tissue"}},
        }
        for polygon in annotation
    ]
    publish_json(path, {"type": "FeatureCollection", "features": features})


def _closed(ring: Ring) -> list[list[float]]:
    places = [[round(float(x), 2), round(float(y), 2)] for x, y in ring]
    return [*places, places[0]]


def read_annotation(path: Path, name: str | None = None) -> Annotation:
    """The polygons of a GeoJSON file: a FeatureCollection, a list of features, or one.

    Parameters
    ----------
    path : the file
    name : what messages call it, its own name by default

    Raises
    ------
    AnnotationError : no such file, not polygons of finite numbers, or in another unit than pixels
    """
    name = name or path.name
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AnnotationError(f"{name}: larger than {MAX_BYTES >> 20} MB; simplify it")
        data = path.read_bytes()
        if data.count(b",") > 4 * MAX_VERTICES or data.count(b"[") > _MAX_LISTS:
            raise AnnotationError(f"{name}: more than {MAX_VERTICES:,} corners; simplify it")
        annotation = tuple(_polygons(json.loads(data)))
    except OSError as error:
        raise AnnotationError(f"{name}: cannot be read ({error.strerror})") from None
    except _NO_OUTLINE:
        raise AnnotationError(
            f"{name}: not an annotation; expected GeoJSON with polygons of level-0 pixels"
        ) from None
    if not annotation:
        raise AnnotationError(f"{name}: holds no polygon, so there would be no tissue")
    rings = [ring for each in annotation for ring in (each.ring, *each.holes)]
    if len(rings) > MAX_RINGS or sum(map(len, rings)) > MAX_VERTICES:
        raise AnnotationError(
            f"{name}: more than {MAX_VERTICES:,} corners or {MAX_RINGS:,} rings; simplify it"
        )
    return Annotation(annotation, hashlib.sha256(data).hexdigest()[:32])


_NO_OUTLINE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What JSON of another form raises when it is read as polygons."""


def _polygons(found: Any) -> Iterator[Polygon]:
    if isinstance(found, list):
        for each in found:
            yield from _polygons(each)
    elif "crs" in found:
        raise ValueError("not in pixels")
    elif found["type"] == "FeatureCollection":
        yield from _polygons(found["features"])
    elif found["type"] == "Feature":
        yield from _polygons(found["geometry"])
    elif found["type"] in ("Polygon", "MultiPolygon"):
        several = found["type"] == "MultiPolygon"
        for rings in found["coordinates"] if several else [found["coordinates"]]:
            outer, *holes = (_ring(ring) for ring in rings)
            yield Polygon(outer, tuple(holes))


def _ring(places: Any) -> Ring:
    ring = np.asarray(places, np.float64)
    fits = ring.ndim == 2 and ring.shape[1] == 2 and len(ring) >= 4
    if not fits or not (np.abs(ring) < _MAX_COORDINATE).all():
        raise ValueError("not a ring")
    return ring[:-1] if (ring[0] == ring[-1]).all() else ring
