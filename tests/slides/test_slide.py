"""A slide is read exactly where requested, and reveals only an allow-list of properties."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.drawing import damage_tile, noise, write_levels
from tifffile import TiffFile

from milpath.errors import MilpathError, ResolutionError, SlideReadError, UnsupportedSlideError
from milpath.slides.facts import SlideFacts
from milpath.slides.slide import Slide
from milpath.synthetic import SyntheticSlide

SIDE = 1023  # 4 times 256 less a bit, and 15.738 times 65
SPOTS = ((200.0, 300.0), (500.5, 700.5), (801.3, 402.7))
SIGMA = 24.0


def spotted(side: int, factor: float) -> NDArray[np.uint8]:
    """Dark round spots on white, the same picture reduced by any factor."""
    at = (np.arange(side) + 0.5) * factor
    dark = np.zeros((side, side))
    for x, y in SPOTS:
        dark += np.outer(
            np.exp(-((at - y) ** 2) / 2 / SIGMA**2), np.exp(-((at - x) ** 2) / 2 / SIGMA**2)
        )
    grey = (255 - 220 * dark.clip(0, 1)).round().astype(np.uint8)
    return grey[..., None].repeat(3, axis=2)


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    levels = [spotted(SIDE, 1), spotted(256, 4), spotted(65, SIDE / 65)]
    return write_levels(tmp_path_factory.mktemp("spots") / "spots.tif", levels)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of 1024 x 1024 px with an exact half-size level."""
    full = noise(1024, 1024)
    half = full.reshape(512, 2, 512, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    return write_levels(tmp_path_factory.mktemp("noise") / "noise.tif", [full, half])


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return write_levels(tmp_path / "flat.tif", [np.full((300, 300, 3), 200, np.uint8)])


# -- placement -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "y"), [(0, 0), (100, 37), (700, 500)])
def test_a_region_at_scale_one_equals_a_crop_of_level_0(noisy: Path, x: int, y: int) -> None:
    with Slide(noisy) as slide:
        read = slide.read_region((x, y), (200, 120), (200, 120), 0)
    assert np.array_equal(read, noise(1024, 1024)[y : y + 120, x : x + 200])


@settings(max_examples=60, deadline=None)
@given(
    spot=st.sampled_from(SPOTS),
    shift=st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
    size_px=st.sampled_from([40, 48, 57, 100, 180, 192]),
    level=st.sampled_from([0, 1, 2]),
)
def test_a_spot_keeps_its_place_at_any_offset_scale_and_level(
    spots: Path, spot: tuple[float, float], shift: tuple[float, float], size_px: int, level: int
) -> None:
    side = 191.7
    corner = (spot[0] - side / 2 + shift[0], spot[1] - side / 2 + shift[1])
    with Slide(spots) as slide:
        read = slide.read_region(corner, (side, side), (size_px, size_px), level)
        downsample = slide.level_downsamples[level]
    dark = (245.0 - read[..., 0]).clip(0)  # without the faint rim, where a grey level is wide
    centres = (np.arange(size_px) + 0.5) * side / size_px
    x = corner[0] + (dark.sum(axis=0) * centres).sum() / dark.sum()
    y = corner[1] + (dark.sum(axis=1) * centres).sum() / dark.sum()
    # OpenSlide itself places a reduced level to 1/128 of its pixels, in 8 bits
    assert (x, y) == pytest.approx(spot, abs=0.06 * max(downsample, side / size_px))


@pytest.mark.parametrize("offset", [0.0, 0.25, 0.5, 0.75])
def test_at_scale_one_a_fractional_offset_shifts_a_ramp_by_that_offset(
    tmp_path: Path, offset: float
) -> None:
    ramp = np.repeat(np.arange(0, 250, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    with Slide(write_levels(tmp_path / "ramp.tif", [ramp])) as slide:
        read = slide.read_region((50 + offset, 50), (100, 100), (100, 100), 0)
    assert np.abs(read[..., 0] - (50 + offset + np.arange(100))).max() <= 0.5


@pytest.mark.parametrize(
    ("level", "scale"), [(0, 1.0), (0, 1.3), (0, 1.7), (0, 4.0), (1, 2.0), (1, 3.1)]
)
def test_neighbouring_patches_join_without_a_seam(noisy: Path, level: int, scale: float) -> None:
    px = 48
    side = px * scale
    with Slide(noisy) as slide:
        whole = slide.read_region((36, 42), (3 * side, 3 * side), (3 * px, 3 * px), level)
        for row in range(3):
            for col in range(3):
                corner = (36 + col * side, 42 + row * side)
                alone = slide.read_region(corner, (side, side), (px, px), level)
                part = whole[row * px :, col * px :][:px, :px]
                assert np.abs(alone.astype(int) - part).max() <= 1


def test_at_a_fractional_downsample_patches_join_within_openslides_interpolation(
    drawn: SyntheticSlide,
) -> None:
    with Slide(drawn.path) as slide:
        assert slide.level_downsamples[1] % 1 > 0.001
        whole = slide.read_region((300, 500), (512, 512), (128, 128), 1).astype(int)
        alone = slide.read_region((300 + 256, 500), (256, 256), (64, 64), 1)
    seam = np.abs(whole[:64, 64:] - alone)
    assert seam.mean() < 2
    assert seam.max() <= 16


def test_at_the_slides_edge_a_fractional_downsample_causes_no_shift(tmp_path: Path) -> None:
    rgb = noise(601, 1030)
    third = np.ascontiguousarray(rgb[:200, :343])  # OpenSlide makes 3.004 of the two axes
    with Slide(write_levels(tmp_path / "edge.tif", [rgb, third])) as slide:
        assert slide.level_downsamples[1] > 3.001
        assert slide.level_factors[1] == (3, 3)
        got = slide.read_region((0, 0), (343 * 3, 200 * 3), (343, 200), 1)
    np.testing.assert_array_equal(got, third)


@pytest.mark.parametrize("corner", [(-100, -50), (924, 974), (5000, 5000)])
def test_the_area_outside_the_slide_has_the_background_colour(
    noisy: Path, corner: tuple[int, int]
) -> None:
    with Slide(noisy) as slide:
        read = slide.read_region(corner, (200, 200), (200, 200), 0)
        assert slide.background == (255, 255, 255)
    expected = np.full((200, 200, 3), 255, np.uint8)
    full = noise(1024, 1024)
    x, y = corner
    for row in range(max(0, -y), min(200, 1024 - y)):
        for col in range(max(0, -x), min(200, 1024 - x)):
            expected[row, col] = full[y + row, x + col]
    assert np.array_equal(read, expected)


def test_a_slide_reopened_reads_the_same_and_keeps_its_resolution(noisy: Path) -> None:
    with Slide(noisy, "other", 0.3, "cohort") as slide, slide.reopen() as again:
        assert again.facts == slide.facts
        one, two = (each.read_region((5, 5), (90, 90), (50, 50), 0) for each in (slide, again))
    assert np.array_equal(one, two)


# -- resolution ------------------------------------------------------------------------------------


def test_the_files_own_resolution_is_read_and_its_source_recorded(flat: Path) -> None:
    with Slide(flat) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5), rel=1e-6)
        assert slide.facts.mpp_source == "slide"


@pytest.mark.parametrize("source", ["option", "cohort"])
def test_a_given_resolution_overrides_the_files_and_its_source_is_recorded(
    flat: Path, source: str
) -> None:
    with Slide(flat, mpp=0.25, mpp_source=source) as slide:  # type: ignore[arg-type]
        assert slide.mpp == (0.25, 0.25)
        assert slide.facts.mpp_source == source


def test_a_missing_resolution_raises_with_the_remedies(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "bare.tif", [noise(300, 300)], mpp=None)
    with (
        Slide(path) as slide,
        pytest.raises(
            ResolutionError,
            match=r"bare\.tif: .*does not contain its µm per pixel.*--slide-mpp.*mpp column",
        ),
    ):
        _ = slide.facts


@pytest.mark.parametrize("mpp", [1e-3, 352.78])
def test_an_implausible_tag_raises(tmp_path: Path, mpp: float) -> None:
    path = write_levels(tmp_path / "odd.tif", [noise(300, 300)], mpp=(mpp, mpp))
    with (
        Slide(path) as slide,
        pytest.raises(ResolutionError, match=r"is not plausible.*0\.05 to 20"),
    ):
        _ = slide.mpp


@pytest.mark.parametrize("mpp", [0.0, -0.5, 353.0, float("nan"), float("inf")])
def test_an_implausible_given_resolution_raises(flat: Path, mpp: float) -> None:
    with Slide(flat, mpp=mpp) as slide, pytest.raises(ResolutionError, match="is not plausible"):
        _ = slide.mpp


def test_pixels_that_are_not_square_within_two_percent_raise(tmp_path: Path) -> None:
    near = write_levels(tmp_path / "near.tif", [noise(300, 300)], mpp=(0.5, 0.508))
    far = write_levels(tmp_path / "far.tif", [noise(300, 300)], mpp=(0.5, 0.512))
    with Slide(near) as slide:
        assert slide.mpp_mean == pytest.approx((0.5 * 0.508) ** 0.5, rel=1e-5)
    with Slide(far) as slide, pytest.raises(ResolutionError, match="not square"):
        _ = slide.mpp


@pytest.mark.parametrize(
    ("mpp", "level"),
    [(0.4, 0), (0.5, 0), (1.9, 0), (1.999, 1), (2.5, 1), (7.7, 1), (7.8, 2), (8, 2), (20, 2)],
)
def test_the_coarsest_level_that_is_fine_enough_is_read(
    spots: Path, mpp: float, level: int
) -> None:
    with Slide(spots) as slide:  # 0.5, 1.998 and 7.869 µm per pixel
        assert slide.level_for(mpp) == level


def test_requesting_more_detail_than_the_slide_has_raises(spots: Path) -> None:
    with Slide(spots) as slide:
        assert slide.level_for(0.5 / 1.249) == 0
        with pytest.raises(ResolutionError, match=r"coarser than.*give --mpp 0\.5 or more"):
            slide.level_for(0.5 / 1.26)
        with pytest.raises(ResolutionError, match=r"at most 1\.25 times that; scan it again$"):
            slide.level_for(0.5 / 1.26, "scan it again")


# -- damage ----------------------------------------------------------------------------------------


def test_a_slide_stays_readable_after_a_damaged_tile(noisy: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(noisy, tmp_path / "damaged.tif"))
    damage_tile(path, 5)  # of 4 x 4: x 256 to 511, y 256 to 511
    with Slide(path) as damaged, Slide(noisy) as clean:
        for _ in range(2):
            with pytest.raises(SlideReadError, match=r"^damaged\.tif: cannot be read at level 0"):
                damaged.read_region((300, 300), (100, 100), (100, 100), 0)
            for corner in ((0, 0), (520, 300), (300, 520)):
                one, two = (
                    each.read_region(corner, (200, 200), (77, 77), 0) for each in (damaged, clean)
                )
                assert np.array_equal(one, two)


def _folder(path: Path) -> None:
    path.mkdir()


def _bytes(data: bytes) -> object:
    return lambda path: path.write_bytes(data)


FAULTS: dict[str, tuple[object, str]] = {
    "missing": (lambda _: None, "no such file"),
    "folder": (_folder, "a folder, not a slide"),
    "empty": (_bytes(b""), "the file is empty"),
    "text": (_bytes(b"just some words\n"), "plain text"),
    "html": (_bytes(b"<!doctype html><p>404"), "a web page"),
    "lfs": (_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git-lfs pointer"),
    "png": (_bytes(b"\x89PNG\r\n\x1a\n123"), "a PNG picture"),
    "cut": (_bytes(b"II*\0\x08\0\0\0\0\0"), "a TIFF that is truncated"),
    "zeros": (_bytes(bytes(999)), "contents unknown"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_a_slide_raises_one_line_without_its_folder(
    tmp_path: Path, fault: str
) -> None:
    make, text = FAULTS[fault]
    path = tmp_path / "Doe, Jane" / "x.svs"
    path.parent.mkdir()
    make(path)  # type: ignore[operator]
    with pytest.raises(UnsupportedSlideError, match=text) as caught:
        Slide(path)
    assert "\n" not in str(caught.value)
    assert "Doe" not in str(caught.value)
    assert str(caught.value).startswith("x.svs: ")


def test_a_path_that_is_too_long_raises(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSlideError, match="cannot be read"):
        Slide(tmp_path / ("a" * 300))


def test_a_read_error_names_no_folder(noisy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Doe, Jane"
    folder.mkdir()
    path = Path(shutil.copy(noisy, folder / "x.tif"))
    damage_tile(path, 0)
    with Slide(path) as slide, pytest.raises(SlideReadError) as caught:
        slide.read_region((0, 0), (9, 9), (9, 9), 0)
    assert "Doe" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ü.tif", "日本.tif", "😐.tif", "a b%20.tif", "-x.tif"])
def test_file_names_with_any_letters_open(flat: Path, tmp_path: Path, name: str) -> None:
    with Slide(shutil.copy(flat, tmp_path / name)) as slide:
        assert slide.dimensions == (300, 300)
        assert slide.slide_id == name.removesuffix(".tif")


# -- wrong headers ---------------------------------------------------------------------------------


def change_tags(path: Path, **tags: int) -> Path:
    """Change the values of some tags of the first page."""
    with TiffFile(path, mode="r+b") as tiff:
        for name, value in tags.items():
            tiff.pages[0].tags[name].overwrite(value)
    return path


def test_a_header_with_more_tiles_than_the_file_lists_raises(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "s.tif", [noise(300, 300)], compression="jpeg")
    change_tags(path, ImageWidth=1 << 20)
    with pytest.raises(UnsupportedSlideError, match=r"^s\.tif: "):
        Slide(path)


def test_tiles_too_large_for_memory_raise_before_any_is_read(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "s.tif", [noise(256, 256)])
    change_tags(path, TileWidth=1 << 15, TileLength=1 << 15)
    with pytest.raises(UnsupportedSlideError, match=r"^s\.tif: its tiles are 32768 x 32768 px"):
        Slide(path)


# -- privacy ---------------------------------------------------------------------------------------

APERIO = (
    "Aperio Image Library v12\n300x300 [0,0 300x300] (256x256) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"
    "|Filename = DOE JANE|User = 5c3r37|Patient = DOE"
)


def test_facts_are_an_allow_list(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "s.svs", [noise(300, 300)], None, APERIO)
    assert openslide.OpenSlide(path).properties["aperio.Filename"] == "DOE JANE"
    with Slide(path) as slide:
        facts = slide.facts
        revealed = repr(facts) + " ".join(
            repr(getattr(slide, name)) for name in dir(slide) if not name.startswith("_")
        )
    assert {field.name for field in dataclasses.fields(SlideFacts)} == {
        *("slide_id", "vendor", "width_l0", "height_l0", "mpp_x", "mpp_y", "mpp_source"),
        *("objective", "quickhash", "content_hash", "bounds_x_l0", "bounds_y_l0"),
    }
    assert (facts.vendor, facts.objective, facts.mpp_x) == ("aperio", 20.0, 0.5)
    for secret in ("DOE", "5c3r37"):
        assert secret not in revealed


def test_label_and_macro_pictures_are_never_opened(
    spots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("the label was opened")

    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(refuse))
    with Slide(spots) as slide:
        assert slide.facts.vendor == "generic-tiff"
        slide.read_region((0, 0), (99, 99), (9, 9), 1)


def test_different_slides_have_different_hashes_and_a_reopened_one_the_same(
    spots: Path, noisy: Path
) -> None:
    with Slide(spots) as one, Slide(noisy) as two, one.reopen() as three:
        assert one.quickhash == three.quickhash != two.quickhash


# -- real slides -----------------------------------------------------------------------------------


def test_every_broken_file_raises_one_line(shared_data: Path) -> None:
    files = sorted((shared_data / "broken").iterdir())
    assert len(files) >= 12
    for path in files:
        with pytest.raises(MilpathError) as caught:
            read_all(path)
        assert str(caught.value).startswith(path.name + ": ")
        assert "\n" not in str(caught.value)
        assert str(path.parent) not in str(caught.value)


def read_all(path: Path) -> Sequence[int]:
    with Slide(path, mpp=0.25) as slide:
        width, height = slide.dimensions
        return slide.read_region((0, 0), (width, height), (width, height), 0).shape


def test_a_slide_without_resolution_raises_with_the_remedy(
    shared_data: Path,
) -> None:
    with (
        Slide(shared_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs") as slide,
        pytest.raises(ResolutionError, match="--slide-mpp"),
    ):
        _ = slide.mpp


def test_bounds_are_the_scanned_part_of_a_sparse_canvas(shared_data: Path) -> None:
    with Slide(shared_data / "slides/mirax_partial/Mirax2-Fluorescence-2.mrxs") as slide:
        assert slide.bounds_l0[2:] == (10439, 7641)
        assert slide.dimensions == (72448, 152080)
