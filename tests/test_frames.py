"""A slide whose bounds are a part of its canvas: GeoJSON comes and goes in QuPath's frame."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.drawing import FACTS, grid_of, noise, write_scn

from milpath.cohort.cohort import SlideEntry
from milpath.errors import AnnotationError, UsageError
from milpath.export import write_geojson
from milpath.formats.bag import Bag
from milpath.formats.geometry import compare_slides
from milpath.formats.prediction import Prediction
from milpath.params import GridParams, TileParams
from milpath.slides.annotation import read_annotation
from milpath.slides.frame import Frame
from milpath.slides.slide import Slide
from milpath.tile import tile_slide

PARAMS = TileParams(grid=GridParams(mpp=1.0, patch_px=64, min_tissue=1.0))
CORNER = np.array([300, 200])
LOW, HIGH = 256, 768  # of the annotation, in its own coordinates


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 1536 x 1024 pixels at (300, 200) of a canvas of 3000 x 2000."""
    pixels = np.full((1024, 1536, 3), 240, np.uint8)
    pixels[128:896, 128:1408] = noise(768, 1280) // 2
    return write_scn(tmp_path_factory.mktemp("scn") / "s.scn", pixels, (3000, 2000), (300, 200))


def draw(path: Path, shift: int = 0, **members: Any) -> Path:
    low, high = LOW + shift, HIGH + shift
    ring = [[low, low], [high, low], [high, high], [low, high], [low, low]]
    polygon = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": polygon}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature], **members}))
    return path


def predict(count: int, corner: tuple[int, int] | None) -> Prediction:
    facts = replace(
        FACTS,
        bounds_x_l0=None if corner is None else corner[0],
        bounds_y_l0=None if corner is None else corner[1],
    )
    attention = np.full((1, count), 1 / count)
    return Prediction(
        slide=facts,
        grid=grid_of(count),
        status="ok",
        class_names=("a", "b"),
        member_attention=attention,
        member_contributions=np.zeros((1, count, 2)),
        member_bias=np.zeros((1, 2)),
        model="m",
    )


# -- laws ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frame", "origin"), [("qupath", CORNER), ("canvas", (0, 0))])
def test_patches_lie_where_the_annotation_was_drawn(
    slide: Path, tmp_path: Path, frame: str, origin: Any
) -> None:
    file = draw(tmp_path / "a.geojson", 256)
    entry = SlideEntry(slide, "s", annotation=file, frame=Frame(frame))
    tile_slide(entry, tmp_path / "out", PARAMS)
    with Bag(tmp_path / "out" / "s.h5") as bag:
        lows = bag.grid.coords - origin
        assert len(bag) > 4
        assert bag.slide.corner == tuple(CORNER)
        assert (lows >= LOW + 256 - 16).all()  # a cell of the thumbnail
        assert (lows + bag.grid.patch_size_l0 <= HIGH + 256 + 16).all()
        assert np.ptp(lows, axis=0) == pytest.approx([256, 256], abs=128)


def test_a_bag_is_made_again_in_another_frame(slide: Path, tmp_path: Path) -> None:
    entry = SlideEntry(slide, "s", annotation=draw(tmp_path / "a.geojson", 256))
    tile_slide(entry, tmp_path, PARAMS)
    assert tile_slide(entry, tmp_path, PARAMS).status == "skipped"
    done = tile_slide(replace(entry, frame=Frame.canvas), tmp_path, PARAMS)
    assert done.message.endswith("re-tiled: its tissue annotation is read in another frame")


@pytest.mark.parametrize("frame", list(Frame))
def test_exported_tiles_are_read_again_as_an_annotation_at_their_patches(
    tmp_path: Path, frame: Frame
) -> None:
    prediction = predict(9, (300, 200))
    write_geojson(tmp_path / "p.geojson", prediction, frame=frame)
    document = json.loads((tmp_path / "p.geojson").read_text(encoding="utf-8"))
    x, y = document["features"][0]["geometry"]["coordinates"][0][0]
    origin = [300, 200] if frame is Frame.qupath else [0, 0]
    assert document["milpath"] == {"frame": str(frame), "origin": origin}
    assert [x + origin[0], y + origin[1]] == prediction.grid.coords[0].tolist()
    found = read_annotation(tmp_path / "p.geojson", None, (300, 200, 3000, 2000))
    lows = [polygon.ring.min(axis=0) for polygon in found.polygons]
    np.testing.assert_array_equal(lows, prediction.grid.coords)


# -- examples --------------------------------------------------------------------------------------


def test_a_slide_is_recorded_with_the_corner_of_its_bounds(slide: Path) -> None:
    with Slide(slide) as opened:
        assert opened.bounds_l0 == (300, 200, 1536, 1024)
        assert opened.facts.corner == (300, 200)


def test_a_prediction_of_an_earlier_version_is_made_again_only_if_its_slide_has_bounds() -> None:
    new = replace(FACTS, content_hash="c0de")
    old = replace(new, bounds_x_l0=None, bounds_y_l0=None)
    assert compare_slides(old, new) == []
    bounded = replace(new, bounds_x_l0=300, bounds_y_l0=200)
    assert compare_slides(old, bounded) == ["made by an earlier version of milpath"]


# -- faults ----------------------------------------------------------------------------------------


def test_an_annotation_off_the_slide_is_refused_with_its_frame_and_the_other(
    slide: Path, tmp_path: Path
) -> None:
    file = draw(tmp_path / "a.geojson", 5000)
    entry = SlideEntry(slide, "s", annotation=file)
    with pytest.raises(AnnotationError, match=r"^s\.scn: .* x 5256, y 5256, read in QuPath's") as e:
        tile_slide(entry, tmp_path, PARAMS)
    assert str(e.value).endswith("count from the other corner, give --frame canvas")
    with pytest.raises(AnnotationError, match=r"frame of the whole canvas; .* give --frame qupath"):
        tile_slide(replace(entry, frame=Frame.canvas), tmp_path, PARAMS)
    draw(file, 5000, milpath={"frame": "canvas", "origin": [0, 0]})
    with pytest.raises(AnnotationError, match="canvas, which the file records; expected level-0 p"):
        tile_slide(entry, tmp_path, PARAMS)


def test_an_annotation_that_is_ignored_altogether_is_refused(slide: Path, tmp_path: Path) -> None:
    file = draw(tmp_path / "a.geojson")
    document = json.loads(file.read_text())
    (one,) = document["features"]
    document["features"].append(one | {"properties": {"classification": {"name": "Ignore*"}}})
    file.write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=r"classes such as Ignore\*\) cover all"):
        tile_slide(SlideEntry(slide, "s", annotation=file), tmp_path, PARAMS)


def test_tiles_of_an_unknown_corner_are_not_written_in_qupaths_frame(tmp_path: Path) -> None:
    prediction = predict(9, None)
    with pytest.raises(UsageError, match="give the slide with --slide, classify it again, or"):
        write_geojson(tmp_path / "p.geojson", prediction)
    assert list(tmp_path.iterdir()) == []
    write_geojson(tmp_path / "q.geojson", prediction, corner=(300, 200))
    write_geojson(tmp_path / "c.geojson", prediction, frame=Frame.canvas)
    firsts = [
        json.loads((tmp_path / f"{name}.geojson").read_text())["features"][0]["geometry"]
        for name in "qc"
    ]
    (x, y), (u, v) = (first["coordinates"][0][0] for first in firsts)
    assert (u - x, v - y) == (300, 200)
