"""GeoJSON files of QuPath, geopandas and TRIDENT give their regions, and say what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpath.errors import AnnotationError
from milpath.slides.annotation import Annotation, Polygon, read_annotation, write_annotation
from milpath.slides.frame import Frame, Placement, frame_record
from milpath.slides.geojson import Regions, parse_regions

BOUNDS = (600, 700, 1792, 2048)


def box(low: float, high: float) -> list[list[float]]:
    return [[low, low], [high, low], [high, high], [low, high], [low, low]]


def feature(geometry: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(low: float, high: float, *holes: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [box(low, high), *holes]}


def collect(*features: Any, **members: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features), **members}


def parse(document: Any) -> Regions:
    return parse_regions(json.dumps(document).encode())


def read(folder: Path, document: Any, **options: Any) -> Annotation:
    (folder / "a.geojson").write_text(json.dumps(document), encoding="utf-8")
    return read_annotation(folder / "a.geojson", **options)


TISSUE = feature(polygon(0, 512))


# -- laws ------------------------------------------------------------------------------------------


@given(
    corner=st.tuples(st.integers(0, 2000), st.integers(0, 2000)),
    frame=st.sampled_from(Frame),
    asked=st.sampled_from(Frame),
)
def test_what_was_written_in_any_frame_is_read_at_the_same_place_whatever_frame_is_asked_for(
    corner: tuple[int, int],
    frame: Frame,
    asked: Frame,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("a") / "a.geojson"
    ring = np.array([[2000.0, 2100.5], [2500, 2100], [2500, 2600], [2000, 2600]])
    write_annotation(path, [Polygon(ring, (ring / 2 + 1100,))], corner, frame)
    found = read_annotation(path, None, (*corner, 3000, 3000), asked)
    np.testing.assert_allclose(found.polygons[0].ring, ring, atol=0.006)
    np.testing.assert_allclose(found.polygons[0].holes[0], ring / 2 + 1100, atol=0.006)
    (x, y), *_ = json.loads(path.read_text())["features"][0]["geometry"]["coordinates"][0]
    shift = corner if frame is Frame.qupath else (0, 0)
    assert (x, y) == (2000 - shift[0], 2100.5 - shift[1])


def test_the_frame_shifts_regions_and_cuts_by_the_corner_and_changes_the_fingerprint(
    tmp_path: Path,
) -> None:
    document = collect(TISSUE, feature(polygon(9, 99), classification={"name": "Ignore*"}))
    found = {
        frame: read(tmp_path, document, bounds=BOUNDS, frame=Frame(frame))
        for frame in ("qupath", "canvas")
    }
    for name in ("polygons", "ignored"):
        (one,), (other,) = (getattr(found[frame], name) for frame in ("qupath", "canvas"))
        np.testing.assert_array_equal(one.ring - other.ring, [BOUNDS[:2]] * 4)
    assert found["qupath"].fingerprint == found["canvas"].fingerprint + "+600+700"


# -- examples --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classification",
    [
        {"name": "Ignore*"},
        {"name": "Ignore*", "color": [180, 180, 180]},
        {"names": ["Tumor", "Artefact*"]},
        '{"name": "Ignore*", "color": [180, 180, 180]}',  # as GDAL writes it
        "Ignore*",
        {"name": "ignore"},
        {"names": ["Ignore*", "Stroma"]},
        "Ignore*: Stroma",
        "Pen mark",
        {"name": "Artifact"},
    ],
)
def test_classes_that_mean_no_tissue_are_cut_out(tmp_path: Path, classification: Any) -> None:
    document = collect(TISSUE, feature(polygon(9, 99), classification=classification))
    found = read(tmp_path, document)
    assert (len(found.polygons), len(found.ignored)) == (1, 1)
    (note,) = found.notes
    assert note.startswith("regions cut out: 1 of class ")
    with pytest.raises(AnnotationError, match=r"no polygon of tissue.*is not cut out.*1 of"):
        read(tmp_path, collect(feature(polygon(9, 99), classification=classification)))


@pytest.mark.parametrize(
    "classification",
    [
        None,
        {},
        {"name": "Tumor"},
        "Region*",
        {"names": ["Region*", "Stroma"]},
        {"name": None},
        {"name": 3},
        "Tumor",
        "{",
        3,
    ],
)
def test_other_classes_are_tissue(classification: Any) -> None:
    found = parse(collect(feature(polygon(0, 9), classification=classification)))
    assert (len(found.kept), len(found.cut)) == (1, 0)


@pytest.mark.parametrize("name", ["pathClass", "class", "label", "name"])
def test_a_class_in_another_property_is_cut_out_too(name: str) -> None:
    assert parse(collect(TISSUE, feature(polygon(0, 9), **{name: "Ignore*"}))).cut_classes == {
        "Ignore*": 1
    }
    assert len(parse(collect(TISSUE, feature(polygon(0, 9), **{name: "A 2"}))).kept) == 2


def test_classes_taken_as_tissue_are_said_where_there_are_several(tmp_path: Path) -> None:
    other = feature(polygon(0, 9), classification={"name": "Other"})
    assert read(tmp_path, collect(other, other)).notes == ()
    found = read(tmp_path, collect(TISSUE, other, other))
    assert found.notes == ("regions taken as tissue: 1 without a class, 2 of class Other",)


@pytest.mark.parametrize(
    "marks",
    [
        {"properties": {"objectType": "cell"}},
        {"properties": {"object_type": "tile", "classification": {"name": "Ignore*"}}},
        {"id": "PathDetectionObject", "properties": {}},
    ],
)
def test_detected_objects_count_only_where_nothing_was_drawn(marks: dict[str, Any]) -> None:
    found = {**feature(polygon(0, 9)), **marks}
    drawn = parse(collect(found, TISSUE, found))
    assert (len(drawn.kept), len(drawn.cut)) == (1, 0)
    assert drawn.left_out == {"detected object": 2}
    alone = parse(collect(found, found))
    assert len(alone.kept) + len(alone.cut) == 2
    assert not alone.left_out


def test_parts_of_a_collection_have_the_class_of_their_feature() -> None:
    parts = {"type": "GeometryCollection", "geometries": [polygon(0, 9), polygon(20, 29)]}
    ignored = {"classification": {"name": "Ignore*"}}
    nested = collect(collect(feature(parts, **ignored)), feature(parts), TISSUE)
    found = parse(nested)
    assert (len(found.kept), len(found.cut)) == (3, 2)
    assert found.cut_classes == {"Ignore*": 2}


@pytest.mark.parametrize(
    ("geometry", "regions", "left_out"),
    [
        ({"type": "LineString", "coordinates": box(0, 9)}, 1, {}),
        ({"type": "LineString", "coordinates": [*box(0, 9)[:4], [0.5, 0.5]]}, 1, {}),
        ({"type": "LineString", "coordinates": box(0, 9)[:4]}, 0, {"open line": 1}),
        ({"type": "LineString", "coordinates": [[0, 0], [9, 9], [0, 0]]}, 0, {"open line": 1}),
        ({"type": "LineString", "coordinates": []}, 0, {"open line": 1}),
        (
            {"type": "MultiLineString", "coordinates": [box(0, 9), box(0, 9)[:3]]},
            1,
            {"open line": 1},
        ),
        ({"type": "Point", "coordinates": [1, 2]}, 0, {"point": 1}),
        ({"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}, 0, {"point": 1}),
        (None, 0, {"object without geometry": 1}),
        ({"type": "Polygon", "coordinates": []}, 0, {"empty polygon": 1}),
        ({"type": "Polygon", "coordinates": [[]]}, 0, {"empty polygon": 1}),
        ({"type": "MultiPolygon", "coordinates": []}, 0, {}),
        ({"type": "MultiPolygon", "coordinates": [[], [box(0, 9)]]}, 1, {"empty polygon": 1}),
        (
            {"type": "Polygon", "coordinates": [[[0, 0], [5, 5], [9, 9], [0, 0]]]},
            0,
            {"polygon without area": 1},
        ),
        ({"type": "GeometryCollection", "geometries": []}, 0, {}),
        ({"type": "Polygon", "coordinates": [[[*place, 3.5] for place in box(0, 9)]]}, 1, {}),
    ],
)
def test_geometries_are_regions_or_are_counted(
    geometry: Any, regions: int, left_out: dict[str, int]
) -> None:
    found = parse(collect(feature(geometry), TISSUE))
    assert len(found.kept) == regions + 1
    assert found.left_out == left_out


def test_positions_with_z_lose_it_and_holes_stay() -> None:
    with_z = [[*place, 7] for place in box(0, 90)]
    rings = {"type": "MultiPolygon", "coordinates": [[with_z, box(9, 19)], [box(200, 300)]]}
    (outer, hole), (other,) = parse(rings).kept
    np.testing.assert_array_equal(outer, box(0, 90)[:4])
    np.testing.assert_array_equal(hole, box(9, 19)[:4])
    np.testing.assert_array_equal(other, box(200, 300)[:4])


def test_missing_tma_cores_are_left_out() -> None:
    cores = [feature(polygon(0, 9), isMissing=value) for value in (True, "true", False, None)]
    found = parse(collect(*cores))
    assert (len(found.kept), found.left_out) == (2, {"missing TMA core": 2})


def test_what_is_left_out_is_said_once_with_counts(tmp_path: Path) -> None:
    point = feature({"type": "Point", "coordinates": [1, 2]})
    found = read(tmp_path, collect(TISSUE, point, point, feature(None), feature(None)))
    assert found.notes == ("left out: 2 points, 2 objects without geometry",)
    with pytest.raises(AnnotationError, match=r"no polygon of tissue.*\(left out: 2 points\)$"):
        read(tmp_path, collect(point, point))


@pytest.mark.parametrize("name", ["EPSG:3857", "EPSG:4326", "urn:ogc:def:crs:OGC:1.3:CRS84"])
def test_a_file_with_a_crs_is_in_pixels_unless_all_its_coordinates_may_be_degrees(
    name: str,
) -> None:
    crs = {"type": "name", "properties": {"name": name}}
    assert len(parse(collect(TISSUE, crs=crs)).kept) == 1
    assert len(parse(collect(feature(polygon(0, 9)), crs=None)).kept) == 1
    with pytest.raises(AnnotationError, match="its coordinates are degrees, not pixels"):
        parse(collect(feature(polygon(-0.2, 51.5)), crs=crs))


def test_a_note_says_that_the_other_frame_would_fit(tmp_path: Path) -> None:
    canvas = collect(feature(polygon(1000, 2300)))
    (note,) = read(tmp_path, canvas, bounds=BOUNDS).notes
    assert note.startswith("reaches out of the scanned area in QuPath's frame (from x 600, y 700")
    assert "--frame canvas" in note
    assert read(tmp_path, canvas, bounds=BOUNDS, frame=Frame.canvas).notes == ()
    assert read(tmp_path, canvas, bounds=(0, 0, 1792, 2048)).notes == ()
    recorded = collect(TISSUE, milpath=frame_record(Frame.qupath, (600, 700)))
    (note,) = read(tmp_path, recorded, bounds=BOUNDS, frame=Frame.canvas).notes
    assert note.endswith("not in that of --frame canvas")


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"{", r"it is not JSON \(line 1\)"),
        (b'{\n"type": 1,\n', r"it is not JSON \(line 3\)"),
        (b"\xff\xfe\xfa", "it is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        ("x", '"x" stands where an object'),
        (3, "3 stands where an object"),
        ({}, "an object has no 'type'"),
        ({"type": "Circle"}, 'unknown type "Circle"'),
        ({"type": ["Polygon"]}, r'unknown type \["Polygon"\]'),
        ({"type": "Topology", "objects": {}}, 'unknown type "Topology"'),
        ({"type": "FeatureCollection"}, "a FeatureCollection has no list of features"),
        ({"type": "FeatureCollection", "features": {}}, "has no list of features"),
        ({"type": "GeometryCollection"}, "has no list of geometries"),
        ({"type": "Polygon"}, "a Polygon has no list of coordinates"),
        ({"type": "Polygon", "coordinates": [3]}, "3 stands where a list of positions"),
        ({"type": "MultiPolygon", "coordinates": [3]}, "3 stands where a list of rings"),
        ({"type": "LineString", "coordinates": [3]}, "3 is not a position"),
        ({"type": "Polygon", "coordinates": [[["1", "2"]] * 4]}, r'\["1", "2"\] is not a position'),
        ({"type": "Polygon", "coordinates": [[[True, 2]] * 4]}, r"\[true, 2\] is not a position"),
        ({"type": "Polygon", "coordinates": [[[1]] * 4]}, r"\[1\] is not a position"),
        ({"type": "Polygon", "coordinates": [[[1, None]] * 4]}, "is not a position"),
        ({"type": "Polygon", "coordinates": [[[1, 2e9]] * 4]}, "at most 1e"),
        ({"type": "Polygon", "coordinates": [box(0, 9)[:3]]}, "a ring of 3 positions; at least 4"),
        (collect(TISSUE, milpath={"frame": "other", "origin": [0, 0]}), "names no frame"),
        (collect(TISSUE, milpath={"frame": "qupath", "origin": [0]}), "names no frame"),
        (collect(TISSUE, milpath={"frame": "qupath", "origin": ["1", 2]}), "names no frame"),
        (collect(TISSUE, milpath={"frame": ["qupath"], "origin": [1, 2]}), "names no frame"),
        (collect(TISSUE, milpath=3), "names no frame"),
    ],
)
def test_a_file_is_refused_with_the_reason(tmp_path: Path, document: Any, reason: str) -> None:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    (tmp_path / "a.geojson").write_bytes(data)
    with pytest.raises(AnnotationError, match=rf"^a\.geojson: not an annotation: .*{reason}"):
        read_annotation(tmp_path / "a.geojson")


def test_a_file_that_records_the_frame_of_a_slide_with_other_bounds_is_refused(
    tmp_path: Path,
) -> None:
    document = collect(TISSUE, milpath=frame_record(Frame.qupath, (10, 20)))
    with pytest.raises(AnnotationError, match=r"begins at x 10, y 20 .* at x 600, y 700; give the"):
        read(tmp_path, document, bounds=BOUNDS)
    found = read(tmp_path, document)  # no slide to compare with
    assert found.placement == Placement(Frame.qupath, (10, 20), recorded=True)
