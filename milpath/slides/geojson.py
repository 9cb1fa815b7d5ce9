"""GeoJSON: the regions that a file draws, those that it cuts out, and what in it is no region.

Read as QuPath, geopandas and TRIDENT write it. Classes such as QuPath's Ignore* mark what is to be
left out.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import AnnotationError
from milpath.slides.frame import Frame, Placement
from milpath.slides.names import printable
from milpath.slides.regionclass import is_cut, is_detection, read_class

Ring = NDArray[np.float64]
Rings = tuple[Ring, ...]
"""An exterior ring and its holes, each (n, 2), level-0 (x, y), not closed."""

_MAX_COORDINATE = 1e9  # larger than any slide; comparing with it also excludes NaN
_MEETING = 1.0  # level-0 pixels between the ends of a line that counts as closed
_DEGREES = np.array([180.0, 90.0])


@dataclass(frozen=True)
class Regions:
    """What a file holds.

    Attributes
    ----------
    kept : regions of tissue
    cut : regions to leave out, by their class
    kept_classes, cut_classes : number of regions of each class; empty is without one
    left_out : number of objects that are no region, by what they are
    placement : its recorded frame; None if it records none
    """

    kept: tuple[Rings, ...]
    cut: tuple[Rings, ...]
    kept_classes: Mapping[str, int]
    cut_classes: Mapping[str, int]
    left_out: Mapping[str, int]
    placement: Placement | None


def parse_regions(data: bytes) -> Regions:
    """Read the regions of a GeoJSON document: a FeatureCollection, a list of features, or one.

    Raises
    ------
    AnnotationError : not JSON, not GeoJSON, coordinates that are not finite numbers, or degrees
    """
    try:
        document = json.loads(data)
        collector = _Collector()
        collector.add(document, "")
        collector.settle()
    except RecursionError:
        raise AnnotationError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise AnnotationError(f"it is not JSON (line {error.lineno})") from None
    except ValueError:  # not text, or a number of too many digits
        raise AnnotationError("it is not JSON") from None
    if collector.has_crs:
        _refuse_degrees([*collector.kept, *collector.cut])
    return Regions(
        tuple(collector.kept),
        tuple(collector.cut),
        collector.kept_classes,
        collector.cut_classes,
        collector.left_out,
        _read_placement(document),
    )


class _Collector:
    """Walks through a document and collects its regions; those that QuPath detected apart."""

    def __init__(self) -> None:
        self.kept: list[Rings] = []
        self.cut: list[Rings] = []
        self.detected: list[tuple[Rings, str]] = []
        self.in_detection = False
        self.kept_classes: Counter[str] = Counter()
        self.cut_classes: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.has_crs = False

    def add(self, found: Any, label: str) -> None:
        """Collect the regions of a document or of a part of it; `label` is its class."""
        if found is None:
            self.left_out["object without geometry"] += 1
            return
        if isinstance(found, list):
            for each in found:
                self.add(each, label)
            return
        if not isinstance(found, dict):
            raise AnnotationError(f"{_show(found)} stands where an object is expected")
        self.has_crs |= found.get("crs") is not None
        kind = found.get("type")
        if kind in ("FeatureCollection", "GeometryCollection"):
            self.add(_take_list(found, "features" if "Feat" in kind else "geometries"), label)
        elif kind == "Feature":
            self._add_feature(found, label)
        else:
            self._add_geometry(kind, found, label)

    def _add_feature(self, found: dict[str, Any], label: str) -> None:
        given = found.get("properties")
        properties = given if isinstance(given, dict) else {}
        if _is_true(properties.get("isMissing")):
            self.left_out["missing TMA core"] += 1
            return
        self.in_detection = is_detection(found)
        self.add(found.get("geometry"), read_class(properties) or label)
        self.in_detection = False

    def _add_geometry(self, kind: Any, found: dict[str, Any], label: str) -> None:
        if kind in ("Point", "MultiPoint"):
            self.left_out["point"] += 1
        elif kind in ("LineString", "MultiLineString"):
            places = _take_list(found, "coordinates")
            for line in places if kind == "MultiLineString" else [places]:
                self._add_line(line, label)
        elif kind in ("Polygon", "MultiPolygon"):
            places = _take_list(found, "coordinates")
            for rings in places if kind == "MultiPolygon" else [places]:
                self._add_polygon(rings, label)
        elif kind is None:
            raise AnnotationError("an object has no 'type'")
        else:
            raise AnnotationError(f"an object has the unknown type {_show(kind)}")

    def _add_line(self, line: Any, label: str) -> None:
        places = _read_positions(line)
        closed = len(places) > 3 and math.dist(places[0], places[-1]) <= _MEETING
        if closed:
            self._add_region((places[:-1],), label)
        else:
            self.left_out["open line"] += 1

    def _add_polygon(self, rings: Any, label: str) -> None:
        if not isinstance(rings, list):
            raise AnnotationError(f"{_show(rings)} stands where a list of rings is expected")
        if not rings or rings[0] == []:
            self.left_out["empty polygon"] += 1
            return
        self._add_region(tuple(_read_ring(ring) for ring in rings if ring != []), label)

    def _add_region(self, rings: Rings, label: str) -> None:
        if np.linalg.matrix_rank(rings[0] - rings[0][0]) < 2:
            self.left_out["polygon without area"] += 1
        elif self.in_detection:
            self.detected.append((rings, label))
        else:
            self._add_drawn(rings, label)

    def _add_drawn(self, rings: Rings, label: str) -> None:
        cut = is_cut(label)
        (self.cut if cut else self.kept).append(rings)
        (self.cut_classes if cut else self.kept_classes)[label] += 1

    def settle(self) -> None:
        """Decide on what was detected: it counts only where no person drew tissue."""
        if self.kept and self.detected:
            self.left_out["detected object"] += len(self.detected)
            return
        for rings, label in self.detected:
            self._add_drawn(rings, label)


def _take_list(found: dict[str, Any], name: str) -> list[Any]:
    value = found.get(name)
    if not isinstance(value, list):
        raise AnnotationError(f"a {found['type']} has no list of {name}")
    return value


def _is_true(value: Any) -> bool:
    return value is True or str(value).casefold() in ("true", "1")


def _read_ring(vertices: Any) -> Ring:
    ring = _read_positions(vertices)
    if len(ring) < 4:
        raise AnnotationError(
            f"a polygon has a ring of {len(ring)} positions; at least 4 are needed, the last of "
            "which repeats the first"
        )
    return ring[:-1] if (ring[0] == ring[-1]).all() else ring


def _read_positions(vertices: Any) -> Ring:
    """Read positions (n, 2); further axes, such as z, are dropped."""
    if not isinstance(vertices, list):
        raise AnnotationError(f"{_show(vertices)} stands where a list of positions is expected")
    for vertex in vertices:
        if not (isinstance(vertex, list) and len(vertex) >= 2 and all(map(_fits, vertex[:2]))):
            raise AnnotationError(
                f"{_show(vertex)} is not a position; expected two numbers of at most "
                f"{_MAX_COORDINATE:g}"
            )
    return np.array([vertex[:2] for vertex in vertices], np.float64).reshape(-1, 2)


def _fits(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < _MAX_COORDINATE


def _refuse_degrees(regions: list[Rings]) -> None:
    """Raise for a file with a `crs` whose coordinates are all small enough to be degrees."""
    exteriors = [rings[0] for rings in regions]
    if exteriors and all((np.abs(ring) <= _DEGREES).all() for ring in exteriors):
        raise AnnotationError("it has a 'crs' and its coordinates are degrees, not pixels")


def _read_placement(document: Any) -> Placement | None:
    """Read the member that `frame_record` builds; None without one."""
    found = document.get("milpath") if isinstance(document, dict) else None
    if found is None:
        return None
    try:
        frame = Frame(found["frame"])
        x, y = (value if _fits(value) else math.nan for value in found["origin"])
    except (TypeError, KeyError, ValueError):
        x = y = math.nan
    if math.isnan(x) or math.isnan(y):
        raise AnnotationError("its member 'milpath' names no frame (qupath or canvas) and origin")
    return Placement(frame, (x, y), recorded=True)


def _show(value: Any) -> str:
    """Show a value of a document in a message; of a list its first values."""
    if isinstance(value, list):
        more = ", ..." if len(value) > 3 else ""
        return f"[{', '.join(_show_one(each) for each in value[:3])}{more}]"
    return _show_one(value)


def _show_one(value: Any) -> str:
    if isinstance(value, str):
        return f'"{printable(value[:40], 30)}"'
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, int) and abs(value) > _MAX_COORDINATE:  # Python refuses to print some
        return "a number of too many digits"
    return json.dumps(value)


def count_things(counts: Mapping[str, int]) -> str:
    """List counted things: `2 points, 1 open line`."""
    return ", ".join(f"{count:,} {_plural(name, count)}" for name, count in counts.items())


def _plural(name: str, count: int) -> str:
    if count == 1:
        return name
    first, *rest = name.split(" without ")
    return " without ".join([f"{first}s", *rest])
