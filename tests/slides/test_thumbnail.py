"""The thumbnail shows all of the slide's bounds, for any levels and any damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.drawing import damage_tile, noise, write_levels

from milpath.errors import ResolutionError, SlideReadError
from milpath.slides import thumbnail as module
from milpath.slides.slide import Slide
from milpath.slides.thumbnail import fit_thumbnail, read_thumbnail
from milpath.synthetic import SyntheticSlide


def smooth(rows: int, cols: int) -> NDArray[np.uint8]:
    coarse = Image.fromarray(noise(rows // 32, cols // 32))
    return np.asarray(coarse.resize((cols, rows), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("mpp", [4.0, 8.0, 7.3, 31.0])
def test_the_cells_cover_the_bounds_exactly(drawn: SyntheticSlide, mpp: float) -> None:
    with Slide(drawn.path) as slide:
        found = read_thumbnail(slide, mpp)
        x, y, width, height = slide.bounds_l0
    rows, cols = found.rgb.shape[:2]
    assert found.lattice.origin_l0 == (x, y)
    assert (cols * found.lattice.cell_l0[0], rows * found.lattice.cell_l0[1]) == pytest.approx(
        (width, height)
    )
    assert found.mpp == pytest.approx(mpp, rel=0.03)
    assert found.unreadable.shape == (rows, cols)
    assert not found.unreadable.any()


def test_a_slide_of_one_level_gives_the_same_thumbnail_as_a_pyramid(tmp_path: Path) -> None:
    full = smooth(1024, 1536)
    half = full.reshape(256, 4, 384, 4, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    one = write_levels(tmp_path / "one.tif", [full])
    two = write_levels(tmp_path / "two.tif", [full, half])
    with Slide(one) as a, Slide(two) as b:
        alone, pyramid = (read_thumbnail(slide, 4.0).rgb.astype(int) for slide in (a, b))
    assert np.abs(alone - pyramid).max() <= 8
    assert np.abs(alone - pyramid).mean() < 2


def test_blocks_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_levels(tmp_path / "n.tif", [noise(1024, 1536)])
    with Slide(path) as slide:
        whole = read_thumbnail(slide, 3.3)
        monkeypatch.setattr(module, "_BLOCK_PX", 300)
        blocks = read_thumbnail(slide, 3.3)
    assert np.abs(whole.rgb.astype(int) - blocks.rgb).max() <= 1


def test_unreadable_areas_are_marked_and_the_rest_is_read(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "n.tif", [noise(1024, 1024)])
    with Slide(path) as slide:
        clean = read_thumbnail(slide, 2.0)
    damage_tile(path, 5)  # of 4 x 4: cells 64 to 127 both ways
    with Slide(path) as slide:
        found = read_thumbnail(slide, 2.0)
    assert found.unreadable[64:128, 64:128].all()
    assert 64 * 64 <= found.unreadable.sum() <= 128 * 128
    assert (found.rgb[found.unreadable] == 255).all()
    read = ~found.unreadable
    assert np.abs(found.rgb[read].astype(int) - clean.rgb[read]).max() <= 1


def test_where_a_coarse_level_is_damaged_a_finer_one_is_read(tmp_path: Path) -> None:
    full = smooth(1024, 1024)
    half = full.reshape(512, 2, 512, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    path = write_levels(tmp_path / "n.tif", [full, half])
    with Slide(path) as slide:
        clean = read_thumbnail(slide, 2.0)
    damage_tile(path, 0, level=1)
    with Slide(path) as slide:
        found = read_thumbnail(slide, 2.0)
    assert not found.unreadable.any()
    assert np.abs(found.rgb.astype(int) - clean.rgb).max() <= 8


def test_a_slide_without_any_readable_part_raises(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "n.tif", [noise(500, 500)])
    damage_tile(path, 0, 1, 2, 3)
    with Slide(path) as slide, pytest.raises(SlideReadError, match=r"n\.tif: cannot be read"):
        read_thumbnail(slide, 8.0)


def test_a_slide_coarser_than_the_thumbnail_keeps_its_pixels(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "n.tif", [noise(200, 300)], mpp=(16, 16))
    with Slide(path) as slide:
        found = read_thumbnail(slide, 8.0)
    assert np.array_equal(found.rgb, noise(200, 300))
    assert found.lattice.cell_l0 == (1.0, 1.0)


def test_a_slide_of_three_rows_still_gives_one_row(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "n.tif", [noise(3, 2000)])
    with Slide(path) as slide:
        assert read_thumbnail(slide, 64.0).rgb.shape == (1, 16, 3)


def test_a_slide_without_resolution_raises(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "n.tif", [noise(100, 100)], mpp=None)
    with Slide(path) as slide, pytest.raises(ResolutionError, match="--slide-mpp"):
        read_thumbnail(slide, 8.0)


@pytest.mark.parametrize("max_px", [64, 300, 5000])
def test_a_thumbnail_keeps_the_maximum_length(drawn: SyntheticSlide, max_px: int) -> None:
    with Slide(drawn.path) as slide:
        found = fit_thumbnail(slide, max_px)
    assert max(found.rgb.shape[:2]) == min(max_px, 1500)


def test_the_unreadable_fine_levels_of_a_real_slide_do_not_hide_the_coarse(
    shared_data: Path,
) -> None:
    with Slide(shared_data / "slides/mirax_partial/Mirax2-Fluorescence-2.mrxs") as slide:
        found = read_thumbnail(slide, 8.0)
    assert not found.unreadable.any()
    assert found.lattice.origin_l0 != (0, 0)
