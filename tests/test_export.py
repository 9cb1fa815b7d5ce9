"""Exported files contain the scores and positions of the prediction."""

from __future__ import annotations

import csv
import itertools
import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.drawing import FACTS, grid_of

from milpath.errors import UsageError
from milpath.export import (
    measure_patches,
    pick_strongest,
    write_geojson,
    write_ome_tiff,
    write_patches,
)
from milpath.figures.heatmap import PatchScores, render_heatmap, score_patches
from milpath.figures.score import Scale
from milpath.formats.prediction import Prediction
from milpath.patches.grid import free_grid, unplaced_grid
from milpath.slides.facts import unknown_slide
from milpath.slides.frame import Frame
from milpath.slides.slide import Slide


def predict(count: int, across: int = 10) -> Prediction:
    rng = np.random.default_rng(count)
    attention = rng.dirichlet(np.ones(count), 2) if count else np.zeros((2, 0))
    return Prediction(
        slide=FACTS,
        grid=grid_of(count, across=across),
        status="ok" if count else "no_tissue",
        class_names=("normal", "=tumour"),
        member_attention=attention,
        member_contributions=attention[..., None] * rng.normal(size=(2, count, 2)),
        member_bias=np.zeros((2, 2)),
        model="m",
    )


def test_geojson_has_one_qupath_tile_with_measurements_per_patch(tmp_path: Path) -> None:
    prediction = predict(37)
    path = tmp_path / "p.geojson"
    write_geojson(path, prediction)
    found = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert found["type"] == "FeatureCollection"
    assert len(found["features"]) == 37
    for row, feature in enumerate(found["features"]):
        assert set(feature) == {"type", "geometry", "properties"}
        assert feature["type"] == "Feature"
        (ring,) = feature["geometry"]["coordinates"]
        x, y = prediction.grid.coords[row].tolist()
        assert feature["geometry"]["type"] == "Polygon"
        assert ring[0] == ring[-1] == [x, y]
        assert ring[2] == [x + 64, y + 64]
        turn = sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring))
        assert turn == 2 * 64 * 64  # closed, without self-intersection
        says = feature["properties"]
        assert (says["objectType"], says["isLocked"]) == ("tile", True)
        assert all(math.isfinite(value) for value in says["measurements"].values())
        assert says["measurements"]["attention"] == prediction.attention[row]
        assert says["measurements"]["contribution =tumour"] == prediction.contributions[row, 1]


def test_relative_attention_has_a_mean_of_one_and_percentiles_of_fifty() -> None:
    measured = measure_patches(predict(50))
    assert measured["relative attention"].mean() == pytest.approx(1)
    assert measured["attention percentile"].mean() == pytest.approx(50)


def test_the_strongest_patches_are_chosen_by_absolute_score_and_keep_their_order() -> None:
    scores = PatchScores(np.array([0.1, -5.0, 2.0, 0.0, 2.0]), "x", True, Scale.raw)
    assert pick_strongest(scores, 3).tolist() == [1, 2, 4]
    assert pick_strongest(scores, 2).tolist() == [1, 2]
    assert pick_strongest(scores, None).tolist() == pick_strongest(scores, 99).tolist()


def test_geojson_of_selected_patches_contains_only_those(tmp_path: Path) -> None:
    prediction = predict(37)
    rows = pick_strongest(score_patches(prediction), 5)
    write_geojson(tmp_path / "p.geojson", prediction, rows)
    found = json.loads((tmp_path / "p.geojson").read_text(encoding="utf-8"))
    names = [feature["properties"]["name"] for feature in found["features"]]
    assert names == [f"patch {row}" for row in rows]


def test_a_table_has_one_row_per_patch_in_pixels_and_millimetres(tmp_path: Path) -> None:
    prediction = predict(12)
    write_patches(tmp_path / "p.csv", prediction)
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for row, (x, y) in zip(rows, prediction.grid.coords.tolist(), strict=True):
        assert (int(row["x_l0"]), int(row["y_l0"])) == (x, y)
        assert float(row["centre_x_mm"]) == pytest.approx((x + 32) * 0.25e-3, abs=1e-6)
        assert float(row["centre_y_mm"]) == pytest.approx((y + 32) * 0.251e-3, abs=1e-6)
    total = sum(float(row["attention"]) for row in rows)
    assert total == pytest.approx(1, abs=1e-7)
    assert all(f"contribution_{name}" in rows[0] for name in prediction.class_names)


@pytest.mark.parametrize("across", [10, 300])
def test_an_ome_tiff_keeps_the_values_and_their_physical_size(tmp_path: Path, across: int) -> None:
    heatmap = render_heatmap(predict(across * 4 - 3, across))
    path = tmp_path / "h.ome.tif"
    write_ome_tiff(path, heatmap, FACTS)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        series = tiff.series[0]
        np.testing.assert_array_equal(series.asarray(), heatmap.values.astype(np.float32))
        assert len(series.levels) == (1 if across <= 256 else 2)
        pixels = ome_pixels(str(tiff.ome_metadata))
    assert pixels["PhysicalSizeX"] == pytest.approx(64 * 0.25)
    assert pixels["PhysicalSizeY"] == pytest.approx(64 * 0.251)
    assert pixels["PositionX"] == pytest.approx(20 * 0.25)
    assert pixels["PositionY"] == pytest.approx(40 * 0.251)


def ome_pixels(xml: str) -> dict[str, float]:
    """Sizes and positions of an OME-XML, µm."""
    found: dict[str, float] = {}
    for element in ET.fromstring(xml).iter():
        for name, value in element.attrib.items():
            if name.startswith(("PhysicalSize", "Position")):
                if name.endswith("Unit"):
                    assert value == "µm"
                else:
                    found[name] = float(value)
    return found


def test_a_reduced_level_is_the_mean_of_the_cells_that_have_a_patch(tmp_path: Path) -> None:
    heatmap = render_heatmap(predict(300 * 4 - 3, 300))
    write_ome_tiff(tmp_path / "h.ome.tif", heatmap, FACTS)
    with tifffile.TiffFile(tmp_path / "h.ome.tif") as tiff:
        half = tiff.series[0].levels[1].asarray()
    assert half.shape == (2, 150)
    for row, col in ((0, 0), (1, 148), (1, 149)):
        block = heatmap.values[2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
        assert half[row, col] == pytest.approx(np.nanmean(block), rel=1e-6)


def test_openslide_reads_a_coloured_ome_tiff_with_its_resolution(tmp_path: Path) -> None:
    prediction = predict(90)
    square = replace(FACTS, mpp_y=0.25)
    heatmap = render_heatmap(prediction)
    path = tmp_path / "c.ome.tif"
    write_ome_tiff(path, heatmap, square, coloured=True)
    stored = tifffile.imread(path)
    with Slide(path) as slide:
        assert slide.dimensions == heatmap.values.shape[::-1]
        assert slide.mpp == pytest.approx((16, 16), rel=1e-4)
        rows, cols = heatmap.values.shape
        seen = slide.read_region((0, 0), (cols, rows), (cols, rows), 0)
    np.testing.assert_array_equal(seen, stored)
    hottest = np.unravel_index(np.nanargmax(heatmap.values), heatmap.values.shape)
    assert int(stored[hottest][2]) < stored[hottest][1] - 50  # greenish to yellow


@pytest.mark.parametrize("write", [write_geojson, write_patches])
def test_no_tissue_raises_and_writes_nothing(tmp_path: Path, write: object) -> None:
    with pytest.raises(UsageError, match="no tissue"):
        write(tmp_path / "x", predict(0))  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


def test_the_same_prediction_gives_the_same_bytes(tmp_path: Path) -> None:
    heatmap = render_heatmap(predict(60))
    for name in ("a", "b"):
        write_ome_tiff(tmp_path / name, heatmap, FACTS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tables_and_tiles_take_scores_and_remarks_from_outside(tmp_path: Path) -> None:
    prediction = predict(3)
    scores = {"difference": np.array([0.5, np.nan, -2.0])}
    write_patches(tmp_path / "p.csv", prediction, measures=scores, remarks={"of": ["a", "b", "c"]})
    with (tmp_path / "p.csv").open(encoding="utf-8-sig") as file:
        rows = [(row["difference"], row["of"]) for row in csv.DictReader(file)]
    assert rows == [("0.5", "a"), ("", "b"), ("-2", "c")]
    further = [{"color": [1, 2, 3]}, {"color": [4, 5, 6]}]
    write_geojson(
        tmp_path / "p.geojson", prediction, np.array([0, 1]), measures=scores, properties=further
    )
    tiles = json.loads((tmp_path / "p.geojson").read_text(encoding="utf-8"))["features"]
    assert [each["properties"]["measurements"] for each in tiles] == [{"difference": 0.5}, {}]
    assert [each["properties"]["color"] for each in tiles] == [[1, 2, 3], [4, 5, 6]]


# -- patches that another tool placed, and slides that were not opened --------------------------

LOOSE = replace(
    predict(5),
    slide=unknown_slide("süd-7", (4000, 3000), 0.25),
    grid=free_grid(np.array([[0, 0], [30, 7], [31, 7], [900, 7], [30, 7]]), 16, 64, 1.0),
)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_free_patches_are_squares_where_they_are_in_every_format(tmp_path: Path) -> None:
    write_geojson(tmp_path / "p.geojson", LOOSE, frame=Frame.canvas)
    tiles = json.loads((tmp_path / "p.geojson").read_text(encoding="utf-8"))["features"]
    for (x, y), tile in zip(LOOSE.grid.coords.tolist(), tiles, strict=True):
        ring = np.array(tile["geometry"]["coordinates"][0])
        assert [*ring.min(axis=0), *ring.max(axis=0)] == [x, y, x + 64, y + 64]

    write_patches(tmp_path / "p.csv", LOOSE)
    rows = read_rows(tmp_path / "p.csv")
    assert [[int(row["x_l0"]), int(row["y_l0"])] for row in rows] == LOOSE.grid.coords.tolist()
    assert {row["size_l0"] for row in rows} == {"64"}
    assert float(rows[3]["centre_x_mm"]) == pytest.approx((900 + 32) * 0.25 / 1000)

    heatmap = render_heatmap(LOOSE)
    write_ome_tiff(tmp_path / "p.ome.tif", heatmap, LOOSE.slide)
    with tifffile.TiffFile(tmp_path / "p.ome.tif") as tiff:
        shown = np.isfinite(tiff.asarray())
        assert 'PhysicalSizeX="1.0"' in (tiff.ome_metadata or "")  # a cell of 4 px of 0.25 µm
    assert shown.shape == heatmap.values.shape == (18, 241)
    assert not shown[:, 24:224].any()


def test_qupath_counts_from_bounds_that_features_alone_do_not_tell(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"features alone.* --slide, .* --slides, or give --frame"):
        write_geojson(tmp_path / "p.geojson", LOOSE)
    assert not any(tmp_path.iterdir())
    write_geojson(tmp_path / "p.geojson", LOOSE, corner=(10, 5))
    (first, *_) = json.loads((tmp_path / "p.geojson").read_text(encoding="utf-8"))["features"]
    assert first["geometry"]["coordinates"][0][0] == [-10, -5]


def test_patches_without_coordinates_are_a_table_of_scores_and_no_picture(tmp_path: Path) -> None:
    unplaced = replace(LOOSE, grid=unplaced_grid(5, 16, 1.0))
    with pytest.raises(UsageError, match="süd-7: the files of its features hold no coordinates"):
        write_geojson(tmp_path / "p.geojson", unplaced, frame=Frame.canvas)
    write_patches(tmp_path / "p.csv", unplaced)
    rows = read_rows(tmp_path / "p.csv")
    assert [row["patch"] for row in rows] == list("01234")
    places = ("x_l0", "y_l0", "size_l0", "centre_x_mm", "centre_y_mm")
    assert {row[name] for row in rows for name in places} == {""}
    assert float(rows[2]["attention"]) == pytest.approx(unplaced.attention[2])


def test_images_of_two_slides_that_were_not_opened_have_different_ids(tmp_path: Path) -> None:
    heatmap = render_heatmap(LOOSE)
    found = set()
    for name in ("a", "b"):
        write_ome_tiff(tmp_path / f"{name}.ome.tif", heatmap, replace(LOOSE.slide, slide_id=name))
        with tifffile.TiffFile(tmp_path / f"{name}.ome.tif") as tiff:
            found.add(ET.fromstring(tiff.ome_metadata or "").attrib["UUID"])
    assert len(found) == 2
