"""Overlays show patches where they lie on the slide, and are reproducible."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from matplotlib.colors import ListedColormap, LogNorm
from numpy.typing import NDArray
from support.predicting import all_places, extent, make_grid, make_prediction

from milpath.figures.canvas import round_length
from milpath.figures.colormap import colour_scale
from milpath.figures.heatmap import Heatmap, render_heatmap
from milpath.figures.overlay import (
    _logarithmic_ticks,
    blend,
    overlay_title,
    render_overlay,
    write_overlay,
)
from milpath.formats.prediction import Prediction
from milpath.slides.lattice import Lattice
from milpath.slides.slide import Slide
from milpath.slides.thumbnail import Thumbnail, fit_thumbnail

HOT = (4, 3)  # column and row of the patch of high attention
STRIDE, ORIGIN = 96, (37, 51)


@pytest.fixture
def slide(tmp_path: Path) -> Iterator[Slide]:
    """A white slide with a dark frame just around the hot patch."""
    rgb = np.full((1100, 1500, 3), 245, np.uint8)
    x, y = (ORIGIN[axis] + STRIDE * HOT[axis] for axis in (0, 1))
    rgb[y - 15 : y + STRIDE + 15, x - 15 : x + STRIDE + 15] = 0
    rgb[y : y + STRIDE, x : x + STRIDE] = 245
    with Slide(write_slide(tmp_path / "S1.tif", rgb)) as opened:
        yield opened


def write_slide(path: Path, rgb: NDArray[np.uint8]) -> Path:
    tifffile.imwrite(
        path, rgb, tile=(64, 64), photometric="rgb", resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


def hot_prediction(places: NDArray[np.int64], side: int) -> Prediction:
    grid = make_grid(places, side, STRIDE, ORIGIN)
    prediction = make_prediction(grid)
    attention = np.where((places == HOT).all(axis=1), 1.0, 1e-4)
    return replace(prediction, member_attention=(attention / attention.sum())[None])


@pytest.mark.parametrize("max_px", [1500, 500, 430])
def test_a_patch_of_high_attention_is_drawn_where_it_lies_on_the_slide(
    slide: Slide, max_px: int
) -> None:
    prediction = hot_prediction(all_places(14, 10), STRIDE)
    picture = render_overlay(
        slide, render_heatmap(prediction), "S1", max_px=max_px, side_by_side=False
    )
    rgb = np.asarray(picture).astype(int)
    body = rgb[: int(rgb.shape[0] * 0.85)]  # without the colour bar
    yellow = (body[..., 0] - body[..., 2] > 80) & (body[..., 1] > 150)
    ring = (body < 100).all(axis=-1) & (np.arange(body.shape[0]) > 0.12 * len(body))[:, None]
    drawn = extent(yellow)
    outer = extent(ring)
    scale = max(fit_thumbnail(slide, max_px).rgb.shape[:2]) / 1500
    expected = outer + np.array([15, 15, -15, -15]) * scale
    assert np.abs(drawn - expected).max() <= 1.5
    side = drawn[2] - drawn[0], drawn[3] - drawn[1]
    assert side == pytest.approx((STRIDE * scale, STRIDE * scale), abs=1.5)


def test_each_pixel_shows_the_cell_that_contains_its_centre() -> None:
    heatmap = Heatmap(
        np.array([[0.0, 100.0], [np.nan, 0.0]]), Lattice((103, 51), (10, 10)), "x", False, "raw"
    )
    rgb = np.full((30, 40, 3), 255, np.uint8)
    thumbnail = Thumbnail(rgb, Lattice((100, 50), (1.0, 1.0)), 1.0, np.zeros((30, 40), bool))
    blended = blend(heatmap, thumbnail)
    changed = (blended != 255).any(axis=-1)
    expected = np.zeros((30, 40), bool)
    expected[1:11, 3:23] = expected[11:21, 13:23] = True
    np.testing.assert_array_equal(changed, expected)
    assert blended[5, 18, 2] < 150 < blended[5, 8, 2]  # yellow, and pale violet


def test_the_same_prediction_gives_the_same_bytes_without_metadata(
    slide: Slide, tmp_path: Path
) -> None:
    heatmap = render_heatmap(hot_prediction(all_places(14, 10), STRIDE))
    for name in ("a.png", "b.png"):
        write_overlay(tmp_path / name, slide, heatmap, "S1: tumour 0.97\nand more", max_px=300)
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert set(png_chunks(data)) == {b"IHDR", b"IDAT", b"IEND"}
    assert not list(tmp_path.glob("*.part"))


def png_chunks(data: bytes) -> list[bytes]:
    kinds, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kinds.append(data[at + 4 : at + 8])
        at += 12 + length
    return kinds


@pytest.mark.parametrize("score", ["attention", "contribution"])
@pytest.mark.parametrize("scale", ["raw", "relative", "percentile"])
@pytest.mark.parametrize("flat", [False, True])
def test_every_score_and_scale_can_be_drawn(
    slide: Slide, score: str, scale: str, flat: bool
) -> None:
    prediction = make_prediction(make_grid(all_places(6, 5), 128, 96, ORIGIN))
    if flat:
        prediction = replace(
            prediction,
            member_attention=np.full((1, 30), 1 / 30),
            member_contributions=np.zeros((1, 30, 2)),
        )
    heatmap = render_heatmap(prediction, score, scale, "tumour")  # type: ignore[arg-type]
    picture = render_overlay(slide, heatmap, overlay_title(prediction), max_px=200)
    assert picture.mode == "RGB"


@pytest.mark.parametrize("size", [(16, 16), (1, 900), (900, 3)])
def test_tiny_and_elongated_slides_give_a_readable_picture(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    rgb = np.full((*size, 3), 200, np.uint8)
    heatmap = Heatmap(
        np.array([[0.5, 2.0]]), Lattice((0, 0), (8, 8)), "attention", False, "relative"
    )
    with Slide(write_slide(tmp_path / "t.tif", rgb)) as tiny:
        picture = render_overlay(tiny, heatmap, "t", max_px=600)
    assert picture.width >= 640
    assert picture.height >= 100


@pytest.mark.parametrize(
    "title", ["切片 \N{FACE WITH TEARS OF JOY}", r"$\frac{", "x" * 400, "a\tb", ""]
)
def test_any_title_is_drawn_without_a_warning(slide: Slide, title: str) -> None:
    heatmap = render_heatmap(hot_prediction(all_places(14, 10), STRIDE))
    plain = render_overlay(slide, heatmap, "S1", max_px=200)
    assert render_overlay(slide, heatmap, title, max_px=200).size == plain.size


def test_a_length_is_rounded_down_to_1_2_or_5() -> None:
    for limit in [*np.geomspace(0.01, 1e6, 300), 1000.0, 0.1, 5.0]:
        length = round_length(limit)
        assert 0.39 * limit <= length <= limit
        assert f"{length:e}"[0] in "125"
        assert float(f"{length:.0e}") == pytest.approx(length)
    assert round_length(1000.0) == 1000


def test_a_colour_scale_from_outside_decides_on_what_is_drawn(slide: Slide) -> None:
    heatmap = render_heatmap(make_prediction(make_grid(all_places(6, 5), 128, 96, ORIGIN)))
    thumbnail = fit_thumbnail(slide, 300)
    norm, colours = colour_scale(heatmap)
    hidden = ListedColormap(np.zeros((4, 4)))
    np.testing.assert_array_equal(blend(heatmap, thumbnail, (norm, hidden)), thumbnail.rgb)
    np.testing.assert_array_equal(
        blend(heatmap, thumbnail, (norm, colours)), blend(heatmap, thumbnail)
    )
    title = "t"
    plain = np.asarray(render_overlay(slide, heatmap, title, max_px=200))
    narrow = np.asarray(
        render_overlay(slide, heatmap, title, max_px=200, scale=(LogNorm(0.9, 1.1), colours))
    )
    rows = slice(-60, None)  # the colour bar
    assert (plain[rows] != narrow[rows]).any()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 10.0, [0.1, 0.2, 0.5, 1, 2, 5, 10]),
        (0.5, 4.0, [0.5, 1, 2]),
        (1.1, 1.9, [1.1, 1.9]),
        (0.01, 0.1, [0.01, 0.02, 0.05, 0.1]),
    ],
)
def test_the_ticks_of_a_logarithmic_scale_lie_within_it(
    low: float, high: float, expected: list[float]
) -> None:
    assert _logarithmic_ticks(low, high) == pytest.approx(expected)


def test_a_title_names_a_member(slide: Slide) -> None:
    prediction = make_prediction(make_grid(all_places(6, 5), 128, 96, ORIGIN))
    assert overlay_title(prediction, "S1, member 2").startswith("S1, member 2: ")
