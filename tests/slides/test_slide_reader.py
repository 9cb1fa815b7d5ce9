"""A slide is read through a reader, and any reader with the same members can take its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.drawing import Pixels, damage_tile, noise, write_levels

from milpath.errors import SlideReadError, UnsupportedSlideError
from milpath.slides.reader import (
    FileProperties,
    ReaderError,
    SlideReader,
    UnknownFormatError,
    open_reader,
)
from milpath.slides.slide import Slide


class ArrayReader:
    """A reader of a picture in memory; fails in its last row."""

    properties = FileProperties(
        "own", (0.25, 0.25), 40.0, (10.0, 20.0, 1e6, 30.0), (1, 2, 3), "c0ffee"
    )
    level_downsamples = (1.0,)
    tile_sizes = ((0, 0),)

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.level_dimensions = ((pixels.shape[1], pixels.shape[0]),)
        self.closed = False

    def read_rgba(
        self, location_l0: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Image.Image:
        (x, y), (width, height) = location_l0, size
        if y + height >= len(self.pixels):
            raise ReaderError("disk on fire")
        rgba = np.zeros((height, width, 4), np.uint8)
        part = self.pixels[y : y + height, x : x + width]
        rgba[: part.shape[0], : part.shape[1], :3] = part
        rgba[: part.shape[0], : part.shape[1], 3] = 255
        return Image.fromarray(rgba)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_levels(tmp_path / "x.tif", [noise(300, 300)])


def test_another_reader_gives_a_slide(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[ArrayReader] = []

    def open_array(_: Path) -> SlideReader:
        opened.append(ArrayReader(noise(200, 100)))
        return opened[-1]

    monkeypatch.setattr("milpath.slides.handle.open_reader", open_array)
    with Slide(path) as slide:
        facts = slide.facts
        assert (facts.vendor, facts.mpp_x, facts.objective) == ("own", 0.25, 40.0)
        assert (facts.width_l0, facts.height_l0, facts.quickhash) == (100, 200, "c0ffee")
        assert slide.bounds_l0 == (10, 20, 90, 30)
        read = slide.read_region((90, 50), (20, 30), (20, 30), 0)
        assert np.array_equal(read[:, :10], noise(200, 100)[50:80, 90:])
        assert (read[:, 10:] == (1, 2, 3)).all()
        with pytest.raises(SlideReadError, match=r"^x\.tif: cannot be read .*\(disk on fire\)"):
            slide.read_region((0, 190), (10, 10), (10, 10), 0)
    # opened again after the error, and after the second try
    assert [each.closed for each in opened] == [True, True, True]


@pytest.mark.parametrize("text", ["Couldn't get image flavor", "Unsupported TIFF compression: 1"])
def test_the_librarys_own_text_is_only_a_detail_of_the_message(
    path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def fail(_: Path) -> SlideReader:
        raise ReaderError(f"Reading {path}: {text}")

    monkeypatch.setattr("milpath.slides.handle.open_reader", fail)
    with pytest.raises(UnsupportedSlideError) as caught:
        Slide(path)
    message = str(caught.value)
    assert message.startswith(f"x.tif: cannot be opened as a slide (Reading x.tif: {text}); ")
    assert "expected a complete file" in message
    assert message.endswith("; copy it again or convert it")
    assert str(path.parent) not in message


def test_the_openslide_reader_reads_levels_and_properties(path: Path) -> None:
    reader = open_reader(path)
    assert reader.level_dimensions == ((300, 300),)
    assert reader.level_downsamples == (1.0,)
    assert reader.tile_sizes == ((256, 256),)
    assert reader.properties.mpp == pytest.approx((0.5, 0.5))
    assert reader.properties.bounds_l0 is None
    assert reader.properties.background_rgb == (255, 255, 255)
    rgba = np.asarray(reader.read_rgba((250, 280), 0, (100, 20)))
    assert np.array_equal(rgba[:, :50, :3], noise(300, 300)[280:, 250:])
    assert (rgba[:, :50, 3] == 255).all()
    assert (rgba[:, 50:, 3] == 0).all()
    reader.close()


def test_the_openslide_reader_raises_on_damage_and_on_other_files(
    path: Path, tmp_path: Path
) -> None:
    damage_tile(path, 0)
    reader = open_reader(path)
    with pytest.raises(ReaderError):
        reader.read_rgba((0, 0), 0, (10, 10))
    reader.close()
    other = tmp_path / "other.tif"
    other.write_text("no slide")
    with pytest.raises(UnknownFormatError):
        open_reader(other)
