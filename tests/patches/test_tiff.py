"""Tiles decoded directly from a TIFF equal OpenSlide's, or are left to OpenSlide."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.drawing import Pixels, damage_tile, lose_tile, noise, write_levels
from tifffile import TiffFile, TiffWriter

from milpath.errors import SlideReadError
from milpath.patches import tiff
from milpath.patches.tiff import TiffLevel, open_tiff_level
from milpath.slides.slide import Slide
from milpath.synthetic import SyntheticSlide

KINDS = {
    "deflate": {},
    "jpeg of RGB": {"compression": "jpeg"},
    "jpeg of YCbCr": {"compression": "jpeg", "subsampling": (1, 1)},
    "jpeg 4:2:0": {"compression": "jpeg", "subsampling": (2, 2)},
}


def blurred(rows: int, cols: int) -> Pixels:
    """Blurred noise, which JPEG compresses well."""
    return np.asarray(Image.fromarray(noise(rows, cols)).filter(ImageFilter.GaussianBlur(3)))


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    levels = [blurred(700, 1000), blurred(350, 500), blurred(175, 250)]
    return write_levels(tmp_path / "s.tif", levels, **KINDS[request.param])


def shown(slide: Slide, level: TiffLevel, number: int, row: int, col: int) -> Pixels | None:
    """A tile as OpenSlide returns it, cropped at the level's edge; None where it raises."""
    x, y = col * level.tile[0], row * level.tile[1]
    down = round(slide.level_downsamples[number])
    size = min(level.tile[0], level.size[0] - x), min(level.tile[1], level.size[1] - y)
    try:
        return slide.read_level((x * down, y * down), number, size)
    except SlideReadError:
        return None


# -- laws ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_tile_equals_openslides(path: Path, number: int) -> None:
    with Slide(path) as slide:
        level = open_tiff_level(slide, number)
        assert level is not None
        with level:
            for row, col in np.ndindex(level.counts.shape):
                own, other = level.read_tile(row, col), shown(slide, level, number, row, col)
                assert own is not None
                assert other is not None
                assert own.shape == (256, 256, 3)
                assert np.array_equal(own[: other.shape[0], : other.shape[1]], other)


def test_a_damaged_tile_returns_none_or_what_openslide_returns(path: Path) -> None:
    random = np.random.default_rng(7)
    with Slide(path) as slide:
        level = open_tiff_level(slide, 0)
    assert level is not None
    with TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    rejected = 0
    with level, path.open("r+b", buffering=0) as file:
        file.seek(offset)
        good = file.read(count)
        for _ in range(60):
            bad = bytearray(good)
            start = int(random.integers(count))
            span = int(random.integers(1, 60))
            bad[start : start + span] = random.bytes(len(bad[start : start + span]))
            file.seek(offset)
            file.write(bad)
            own = level.read_tile(1, 1)
            rejected += own is None
            with Slide(path) as slide:
                other = shown(slide, level, 0, 1, 1)
            assert own is None or (other is not None and np.array_equal(own, other))
    assert rejected > 10


def test_a_fractional_level_equals_openslides_at_aligned_pixels(drawn: SyntheticSlide) -> None:
    with Slide(drawn.path) as slide:
        assert slide.level_downsamples[1] % 1 > 0.001
        level = open_tiff_level(slide, 1)
        assert level is not None
        with level:
            own = level.read_tile(0, 0)
            assert own is not None
            assert np.array_equal(own, slide.read_level((0, 0), 1, (256, 256)))


# -- examples and faults ---------------------------------------------------------------------------


def test_a_tile_that_was_never_scanned_is_not_available(path: Path) -> None:
    lose_tile(path, 1)
    with Slide(path) as slide:
        level = open_tiff_level(slide, 0)
    assert level is not None
    with level:
        assert level.read_tile(0, 0) is not None
        assert level.read_tile(0, 1) is None


def test_a_truncated_file_has_no_tile_where_it_ends(path: Path) -> None:
    with Slide(path) as slide:
        level = open_tiff_level(slide, 0)
        assert level is not None
        with level:
            damaged = int(level.counts.size) - 1
            with TiffFile(path) as tiff:
                end = int(tiff.pages[0].dataoffsets[damaged]) + 9
            with path.open("r+b") as file:
                file.truncate(end)
            assert level.read_tile(*np.unravel_index(damaged, level.counts.shape)) is None  # type: ignore[arg-type]


def test_a_level_that_differs_by_one_grey_level_is_left_to_openslide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_levels(tmp_path / "s.tif", [blurred(300, 300)], compression="jpeg")
    decode = tiff.decode_jpeg
    monkeypatch.setattr(tiff, "decode_jpeg", lambda *a, **k: decode(*a, **k) ^ 1)
    with Slide(path) as slide:
        assert open_tiff_level(slide, 0) is None


def test_the_tile_with_the_most_detail_is_the_one_compared(tmp_path: Path) -> None:
    picture = np.full((1024, 1024, 3), 240, np.uint8)
    picture[512:768, 256:512] = blurred(256, 256)
    path = write_levels(tmp_path / "s.tif", [picture], compression="jpeg")
    with Slide(path) as slide:
        level = open_tiff_level(slide, 0)
    assert level is not None
    level.close()
    damage_tile(path, 9)  # of 4 x 4: the detail; the background can still be compared
    with Slide(path) as slide:
        again = open_tiff_level(slide, 0)
    assert again is not None
    again.close()


def test_a_level_that_openslide_cannot_read_is_left_to_openslide(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Pixels:
        raise SlideReadError("damaged")

    with Slide(path) as slide:
        monkeypatch.setattr(slide, "read_level", refuse)
        assert open_tiff_level(slide, 0) is None


def test_grey_tiles_are_left_to_openslide(tmp_path: Path) -> None:
    path = tmp_path / "grey.tif"
    with TiffWriter(path) as tiff:
        tiff.write(
            blurred(512, 512)[..., 0], tile=(256, 256), photometric="minisblack", compression="jpeg"
        )
    with Slide(path) as slide:
        assert open_tiff_level(slide, 0) is None


# -- real slides -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "direct"),
    [
        ("slides/lscc_HE3.svs", (True, True, True)),
        ("slides/CMU-1-Small-Region.svs", (True,)),
        ("slides/csf_penring.tif", (True, True)),
        ("cohort/BS10_HE1.tif", (True, True, True, True)),
        ("slides/TCGA-CR-7395-01A-01-TS1.svs", (False, False)),  # JPEG 2000
        ("slides/hamamatsu_DAPI.ndpi", (False,)),
        ("slides/dicom_cmu_multilevel/level-0-frames-0-30.dcm", (False,)),
    ],
)
def test_real_slides_are_read_directly_where_their_format_allows(
    shared_data: Path, name: str, direct: tuple[bool, ...]
) -> None:
    with Slide(shared_data / name) as slide:
        for number, expected in enumerate(direct):
            level = open_tiff_level(slide, number)
            assert (level is not None) is expected, number
            if level is not None:
                level.close()


def test_every_tile_of_a_real_aperio_slide_equals_openslides(
    shared_data: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(shared_data / "slides" / "CMU-1-Small-Region.svs", tmp_path))
    with Slide(path) as slide:
        level = open_tiff_level(slide, 0)
        assert level is not None
        with level:
            for row, col in np.ndindex(level.counts.shape):
                own, other = level.read_tile(row, col), shown(slide, level, 0, row, col)
                assert own is not None
                assert other is not None
                assert np.array_equal(own[: other.shape[0], : other.shape[1]], other)


def test_where_tiles_and_openslide_show_different_pictures_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_levels(tmp_path / "s.tif", [blurred(300, 300)], compression="jpeg")
    decode = tiff.decode_jpeg
    for change, said in ((1, 0), (64, 1)):
        monkeypatch.setattr(
            tiff, "decode_jpeg", lambda *a, _bits=change, **k: decode(*a, **k) ^ _bits
        )
        with Slide(path) as slide:
            assert open_tiff_level(slide, 0) is None
        assert len(caplog.messages) == said
    assert caplog.messages[0].startswith("s: level 0: its tiles and what OpenSlide shows of them")
