"""Slides of other sample kinds are read as they are meant, or fail with the reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from milpath.cohort.cohort import SlideEntry
from milpath.errors import UnsupportedSlideError
from milpath.params import TileParams
from milpath.slides.levels import is_trusted
from milpath.slides.slide import Slide
from milpath.synthetic import draw_slide
from milpath.tile import Plan, plan_slide, tile_slide


@pytest.fixture(scope="module")
def rgb(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.uint8]:
    drawn = draw_slide(
        tmp_path_factory.mktemp("rgb") / "drawn.tif", seed=3, tumour=True, artefacts=False
    )
    with Slide(drawn.path) as slide:
        return slide.read_level((0, 0), 0, slide.dimensions)


def write(path: Path, pixels: NDArray[Any], photometric: str = "rgb", **given: Any) -> Path:
    tifffile.imwrite(
        path,
        pixels,
        photometric=photometric,
        tile=(256, 256),
        compression="zlib",
        resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
        metadata=None,
        **given,
    )
    return path


def plan(path: Path) -> Plan:
    with Slide(path) as slide:
        return plan_slide(slide, TileParams())


def grey_of(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (rgb @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("colour", [True, False])
def test_few_bits_in_sixteen_are_refused(
    rgb: NDArray[np.uint8], tmp_path: Path, bits: int, colour: bool
) -> None:
    pixels = (rgb if colour else grey_of(rgb)).astype(np.uint16) << (bits - 8)
    path = write(tmp_path / "s.tif", pixels, "rgb" if colour else "minisblack")
    with pytest.raises(UnsupportedSlideError, match=f"16 bits and use {bits}, .*convert it"):
        Slide(path)


def test_declared_bits_are_believed(rgb: NDArray[np.uint8], tmp_path: Path) -> None:
    pixels = rgb.astype(np.uint16) * 257
    tag = (281, "H", 3, (4095, 4095, 4095), True)
    with pytest.raises(UnsupportedSlideError, match="use 12"):
        Slide(write(tmp_path / "s.tif", pixels, extratags=[tag]))


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint32, np.float32])
def test_signed_and_wide_samples_are_refused(
    rgb: NDArray[np.uint8], tmp_path: Path, kind: type
) -> None:
    pixels = (rgb.astype(np.float64) * 128).astype(kind)
    with pytest.raises(UnsupportedSlideError, match="convert it to 8 bits"):
        Slide(write(tmp_path / "s.tif", pixels))


def test_sixteen_full_bits_give_the_same_patches(rgb: NDArray[np.uint8], tmp_path: Path) -> None:
    eight = plan(write(tmp_path / "8.tif", rgb))
    sixteen = plan(write(tmp_path / "16.tif", rgb.astype(np.uint16) * 257))
    assert len(eight.grid)
    assert np.array_equal(eight.grid.coords, sixteen.grid.coords)


@pytest.mark.parametrize("kind", ["grey", "grey16", "inverted", "rgb", "with_a_second_sample"])
def test_a_grey_slide_has_about_the_patches_of_its_colour_version(
    rgb: NDArray[np.uint8], tmp_path: Path, kind: str
) -> None:
    grey, path = grey_of(rgb), tmp_path / "s.tif"
    match kind:
        case "grey":
            write(path, grey, "minisblack")
        case "grey16":
            write(path, grey.astype(np.uint16) * 257, "minisblack")
        case "inverted":
            write(path, 255 - grey, "miniswhite")
        case "rgb":
            write(path, np.dstack([grey] * 3))
        case _:
            pair = np.dstack([grey, np.zeros_like(grey)])
            write(path, pair, "minisblack", extrasamples=["unspecified"])
    found, colour = plan(path), plan(write(tmp_path / "colour.tif", rgb))
    assert found.tissue.is_grey
    assert not colour.tissue.is_grey
    assert len(found.grid) == pytest.approx(len(colour.grid), rel=0.1)


@pytest.mark.parametrize("alpha", [0, 1, 128])
@pytest.mark.parametrize("kind", ["unspecified", "assocalpha", "unassalpha"])
def test_a_wholly_transparent_slide_is_not_an_empty_one(
    rgb: NDArray[np.uint8], tmp_path: Path, alpha: int, kind: str
) -> None:
    four = np.dstack([rgb, np.full(rgb.shape[:2], alpha, np.uint8)])
    path = write(tmp_path / "s.tif", four, extrasamples=[kind])
    with pytest.raises(UnsupportedSlideError, match="all of it is transparent"):
        plan(path)


def test_an_opaque_fourth_sample_changes_nothing(rgb: NDArray[np.uint8], tmp_path: Path) -> None:
    four = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    found = plan(write(tmp_path / "4.tif", four, extrasamples=["unspecified"]))
    assert np.array_equal(found.grid.coords, plan(write(tmp_path / "3.tif", rgb)).grid.coords)


def test_grey_of_sixteen_bits_with_a_cut_column_of_tiles_is_refused(tmp_path: Path) -> None:
    """OpenSlide would place the rows of these tiles wrongly; of eight bits it does not."""
    ramp = np.add.outer(np.arange(512), np.arange(600)).astype(np.uint8)
    pixels = ramp.astype(np.uint16) * 257
    for photometric in ("minisblack", "miniswhite"):
        with pytest.raises(UnsupportedSlideError, match="last column of tiles is not full"):
            Slide(write(tmp_path / "s.tif", pixels, photometric))
    for path in (write(tmp_path / "8.tif", ramp, "minisblack"),
                 write(tmp_path / "16.tif", pixels[:, :512], "minisblack")):  # fmt: skip
        with Slide(path) as slide:
            shown = slide.read_level((0, 0), 0, slide.dimensions)[..., 0]
        np.testing.assert_array_equal(shown, ramp[:, : shown.shape[1]])


def test_a_level_with_a_cut_column_of_tiles_of_grey_of_sixteen_bits_is_not_used(
    tmp_path: Path,
) -> None:
    ramp = np.add.outer(np.arange(512), np.arange(1024) // 4).astype(np.uint16) * 85
    with tifffile.TiffWriter(tmp_path / "s.tif") as tiff:
        for step in (1, 2, 4, 8):
            tiff.write(ramp[::step, ::step], tile=(256, 256), subfiletype=int(step > 1))
    with Slide(tmp_path / "s.tif", mpp=0.5) as slide:
        assert [is_trusted(slide, level) for level in range(4)] == [True, True, True, False]


def test_a_dark_background_is_said(
    rgb: NDArray[np.uint8], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan(write(tmp_path / "bright.tif", rgb))
    assert "underexposed" not in caplog.text
    plan(write(tmp_path / "15.tif", rgb.astype(np.uint16) * 128))
    assert "its background is dark, (12" in caplog.text


@pytest.mark.parametrize("kind", ["unspecified", "unassalpha"])
def test_transparent_parts_are_said(
    rgb: NDArray[np.uint8], tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    alpha[:, : alpha.shape[1] // 4] = 0
    plan(write(tmp_path / "s.tif", np.dstack([rgb, alpha]), extrasamples=[kind]))
    assert re.search("2[3-7]% of it is transparent and taken as empty", caplog.text)


def test_the_line_says_what_was_left_out_as_pen(
    rgb: NDArray[np.uint8], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marked = rgb.copy()
    marked[:, :400] = (45, 115, 100)
    path = write(tmp_path / "s.tif", marked)
    for _ in range(2):  # the second time from the bag
        done = tile_slide(SlideEntry(path, path.stem), tmp_path, TileParams())
        assert done.facts is not None
        area = len(rgb) * 400 * 0.25 / 1e6
        assert done.facts.pen_mm2 == pytest.approx(area, rel=0.15)
    path = write(
        tmp_path / "t.tif",
        np.where(np.arange(rgb.shape[1])[:, None] < 400, marked, 243).astype(np.uint8),
    )
    done = tile_slide(SlideEntry(path, path.stem), tmp_path, TileParams())
    assert "mm² of marker pen excluded" in done.message
    assert "--keep-pen" in caplog.text
