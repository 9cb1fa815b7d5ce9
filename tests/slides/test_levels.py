"""A level that shows something else than level 0 is not used, and that is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.drawing import Pixels, noise, write_levels

from milpath.params import TileParams
from milpath.slides.levels import choose_level, is_trusted
from milpath.slides.slide import Slide
from milpath.slides.thumbnail import read_thumbnail
from milpath.tile import plan_slide

SIDE = 2048


def picture(share: float) -> Pixels:
    """Pink tissue in one corner of a white slide, as a share of its sides."""
    rgb = np.full((SIDE, SIDE, 3), 244, np.uint8)
    span = round(SIDE * share)
    rgb[-span:, -span:] = (200, 120, 180) + noise(span, span).astype(int) % 40 - 20
    return rgb


def reduce(rgb: Pixels, factor: int) -> Pixels:
    rows, cols = rgb.shape[0] // factor, rgb.shape[1] // factor
    blocks = rgb[: rows * factor, : cols * factor].reshape(rows, factor, cols, factor, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def half_white(rgb: Pixels) -> Pixels:
    broken = rgb.copy()
    broken[len(rgb) // 2 :] = 255
    return broken


BROKEN = {
    "white": lambda rgb: np.full_like(rgb, 255),
    "black": np.zeros_like,
    "a mask": lambda rgb: np.where(rgb[..., 1:2] < 200, 255, 0).repeat(3, 2).astype(np.uint8),
    "one colour": lambda rgb: np.full_like(rgb, (10, 120, 40)),
    "mirrored": lambda rgb: np.ascontiguousarray(rgb[:, ::-1]),
    "half white": half_white,
}


def drawn(path: Path, share: float, *broken: int, kind: str = "white", **given: str) -> Path:
    """A pyramid of 1, 4 and 16, of which some levels are broken."""
    levels = [picture(share)]
    for number, factor in enumerate((4, 16), 1):
        level = reduce(levels[0], factor)
        levels.append(BROKEN[kind](level) if number in broken else level)
    return write_levels(path, levels, (0.5, 0.5), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("compression", ["zlib", "jpeg"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_level_is_not_used(
    tmp_path: Path, kind: str, compression: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = drawn(tmp_path / "s.tif", 0.7, 2, kind=kind, compression=compression)
    with Slide(path) as slide, slide.reopen() as other:
        assert choose_level(slide, 8.0) == choose_level(other, 8.0) == 1
    assert caplog.messages == [
        "s: level 2 (128 x 128 px) shows something else than level 0 and is not used"
    ]


@pytest.mark.parametrize("kind", ["white", "black"])
def test_a_blank_level_is_found_out_by_little_tissue(tmp_path: Path, kind: str) -> None:
    with Slide(drawn(tmp_path / "s.tif", 0.1, 1, 2, kind=kind)) as slide:
        assert choose_level(slide, 8.0) == 0


def test_a_sound_level_is_used_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for share in (0.01, 0.7, 1.0):
        with Slide(drawn(tmp_path / "s.tif", share)) as slide:
            assert [choose_level(slide, mpp) for mpp in (0.5, 2.0, 8.0)] == [0, 1, 2]
    assert not caplog.messages


def test_a_level_is_compared_once_with_a_bounded_number_of_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read_rgba = Slide.read_rgba

    def count(self: Slide, *given: object) -> object:
        reads.append(1)
        return read_rgba(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Slide, "read_rgba", count)
    for share, most in ((0.7, 2 * 25), (0.001, 2 * (25 + 400))):
        with Slide(drawn(tmp_path / "s.tif", share)) as slide:
            reads.clear()
            assert is_trusted(slide, 2)
            assert 0 < len(reads) <= most
            reads.clear()
            assert is_trusted(slide, 2)
            assert not reads


def test_a_slide_with_a_blank_level_has_the_patches_of_one_without(tmp_path: Path) -> None:
    found = []
    for name, broken in (("sound", ()), ("white", (2,))):
        with Slide(drawn(tmp_path / f"{name}.tif", 0.7, *broken)) as slide:
            found.append(plan_slide(slide, TileParams()).grid.coords)
            assert read_thumbnail(slide, 8.0).rgb.min() < 200
    assert len(found[0]) > 10
    assert np.array_equal(*found)


def test_patches_are_not_read_from_a_broken_level(tmp_path: Path) -> None:
    path = drawn(tmp_path / "s.tif", 0.7, 1)
    params = TileParams.model_validate({"grid": {"mpp": 2.0, "patch_px": 64}})
    with Slide(path) as slide:
        assert slide.level_for(2.0) == 1
        assert plan_slide(slide, params).grid.level == 0
