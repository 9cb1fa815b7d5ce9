"""Outline: tissue as polygons that a person can look at and change, as GeoJSON.

Polygons are in level-0 pixels (x, y), with holes, in the form that QuPath reads and writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon2mask
from skimage.measure import approximate_polygon, find_contours, points_in_poly

from milpath.errors import UsageError
from milpath.overview import Overview
from milpath.store import publish_json
from milpath.tissue import TissueMask

Ring = NDArray[np.float64]

MAX_VERTICES = 1_000_000
"""Of a file that is read; more is no outline but an attack, or a mistake."""

_SIMPLIFY = 0.7  # cells that a traced outline may differ from its mask


@dataclass(frozen=True)
class Polygon:
    """A piece of tissue.

    Attributes
    ----------
    ring : float64 array (n, 2), its outline, level-0 (x, y)
    holes : outlines of what is not tissue in it
    """

    ring: Ring
    holes: tuple[Ring, ...] = ()


def trace_tissue(tissue: TissueMask) -> list[Polygon]:
    """The outlines of a mask, through the edges of its cells to a fraction of a cell."""
    padded = np.pad(tissue.mask, 1).astype(np.float64)
    rings = []
    for contour in find_contours(padded, 0.5):
        simple = approximate_polygon(contour, _SIMPLIFY)
        if len(simple) >= 4:
            # a cell's centre is at its index and a half; the padding is one cell
            places = (simple[:, ::-1] - 0.5) * tissue.cell_l0 + tissue.origin_l0
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


def fill_outline(overview: Overview, tissue: TissueMask, outline: Sequence[Polygon]) -> TissueMask:
    """A mask of what lies inside an outline, in place of what was found.

    Parameters
    ----------
    overview : what the slide looks like
    tissue : what was found on it; its background stays
    outline : what a person says is tissue
    """
    rows, cols = overview.rgb.shape[:2]
    mask = np.zeros((rows, cols), np.bool_)
    for polygon in outline:
        inside, *holes = (
            polygon2mask(
                mask.shape, ((ring - overview.origin_l0) / overview.cell_l0 - 0.5)[:, ::-1]
            )
            for ring in (polygon.ring, *polygon.holes)
        )
        for hole in holes:
            inside &= ~hole
        mask |= inside
    return replace(tissue, mask=mask & ~overview.unreadable)


# -- files -----------------------------------------------------------------------------------------


def write_outline(path: Path, outline: Sequence[Polygon]) -> None:
    """Write an outline as GeoJSON annotations of the class Tissue, whole or not at all."""
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [_closed(ring) for ring in (polygon.ring, *polygon.holes)],
            },
            "properties": {"objectType": "annotation", "classification": {"name": "Tissue"}},
        }
        for polygon in outline
    ]
    publish_json(path, {"type": "FeatureCollection", "features": features})


def _closed(ring: Ring) -> list[list[float]]:
    places = [[round(float(x), 2), round(float(y), 2)] for x, y in ring]
    return [*places, places[0]]


def read_outline(path: Path) -> list[Polygon]:
    """The polygons of a GeoJSON file: a FeatureCollection, a list of features, or one.

    Raises
    ------
    UsageError : no such file, or not polygons of finite numbers
    """
    try:
        found = json.loads(path.read_bytes())
        outline = list(_polygons(found))
    except OSError as error:
        raise UsageError(f"{path.name}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UsageError(
            f"{path.name}: not an outline; expected GeoJSON with polygons of level-0 pixels"
        ) from None
    if not outline:
        raise UsageError(f"{path.name}: holds no polygon, so there would be no tissue")
    if sum(len(each.ring) for each in outline) > MAX_VERTICES:
        raise UsageError(f"{path.name}: more than {MAX_VERTICES:,} corners; simplify it")
    return outline


def _polygons(found: Any) -> Iterator[Polygon]:
    if isinstance(found, list):
        for each in found:
            yield from _polygons(each)
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
    if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 4 or not np.isfinite(ring).all():
        raise ValueError("not a ring")
    return ring[:-1] if (ring[0] == ring[-1]).all() else ring
