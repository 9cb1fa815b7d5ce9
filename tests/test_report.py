"""Pictures and pages are drawn for every input, escape what they are given, and stand alone."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from milpath.grid import PatchGrid
from milpath.overview import Overview
from milpath.page import Section, write_page
from milpath.report import draw_qc, write_curves
from milpath.sheet import write_png
from milpath.tissue import TissueMask


def make_overview(rows: int = 300, cols: int = 400, cell: float = 16.0) -> Overview:
    rgb = np.full((rows, cols, 3), 240, np.uint8)
    return Overview(rgb, (50, 70), (cell, cell), 8.0, np.zeros((rows, cols), bool))


def make_tissue(overview: Overview, share: float = 0.5, pen: bool = False) -> TissueMask:
    mask = np.zeros(overview.rgb.shape[:2], bool)
    mask[:, : int(mask.shape[1] * share)] = True
    inked = np.zeros_like(mask)
    inked[10:40, -60:-10] = pen
    return TissueMask(mask, overview.origin_l0, overview.cell_l0, "bright", inked)


def make_grid(count: int, side: int = 64) -> PatchGrid:
    cols = max(1, int(np.sqrt(count)))
    places = np.stack([np.arange(count) % cols, np.arange(count) // cols], axis=1)
    coords = (places * side + [50, 70]).astype(np.int64)
    return PatchGrid(coords, 256, side, side, (50, 70), 0.5, 0)


def bluish(rgb: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where patches are drawn; without the key at the foot of the picture."""
    blue: NDArray[np.bool_] = rgb[:-80, :, 2] - rgb[:-80, :, :2].max(axis=-1) > 40
    return blue


def pixels(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as image:
        assert not image.info
        return np.asarray(image.convert("RGB")).astype(np.int64)


@pytest.mark.parametrize("count", [0, 1, 20_000])
def test_a_tiling_picture_is_drawn_for_any_number_of_patches(tmp_path: Path, count: int) -> None:
    overview = make_overview(600, 600)
    write_png(tmp_path / "q.png", draw_qc(overview, make_tissue(overview), make_grid(count), "S1"))
    rgb = pixels(tmp_path / "q.png")
    assert max(rgb.shape) <= 1800
    assert bluish(rgb).any() == (count > 0)


def test_a_patch_is_drawn_over_its_own_square(tmp_path: Path) -> None:
    overview = make_overview(1000, 1000, 4.0)
    grid = PatchGrid(np.array([[1250, 2070]]), 256, 800, 800, (50, 70), 0.5, 0)
    write_png(tmp_path / "q.png", draw_qc(overview, make_tissue(overview, 0), grid, "S1"))
    rgb = pixels(tmp_path / "q.png")
    glass = (rgb == 240).all(axis=-1)  # the panel: text has no such long runs
    top, left = int((glass.sum(axis=1) > 300).argmax()), int((glass.sum(axis=0) > 300).argmax())
    rows, cols = bluish(rgb).any(axis=1).nonzero()[0], bluish(rgb).any(axis=0).nonzero()[0]
    # (1250 - 50) / 4 = 300 along x, (2070 - 70) / 4 = 500 along y, 200 pixels a side
    assert (cols[0] - left, cols[-1] - left) == pytest.approx((300, 500), abs=1.5)
    assert (rows[0] - top, rows[-1] - top) == pytest.approx((500, 700), abs=1.5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_tissue_and_pen_are_outlined_where_there_is_any(tmp_path: Path, share: float) -> None:
    overview = make_overview()
    for pen in (False, True):
        tissue = make_tissue(overview, share, pen)
        write_png(tmp_path / f"{pen}.png", draw_qc(overview, tissue, make_grid(0), "S1"))
    without, with_pen = pixels(tmp_path / "False.png")[:-80], pixels(tmp_path / "True.png")[:-80]
    magenta = (with_pen[..., 0] - with_pen[..., 1] > 60) & (with_pen[..., 2] > 100)
    assert magenta.any()
    assert not ((without[..., 0] - without[..., 1]) > 60).any()
    assert (without[..., 1] - without[..., 0] > 60).any() == (share > 0)  # green


def test_a_large_overview_is_shrunk_and_a_small_one_enlarged(tmp_path: Path) -> None:
    for name, rows, cols in (("large", 900, 4000), ("small", 16, 16), ("line", 1, 3000)):
        overview = make_overview(rows, cols)
        write_png(
            tmp_path / f"{name}.png", draw_qc(overview, make_tissue(overview), make_grid(4), name)
        )
        assert 640 <= pixels(tmp_path / f"{name}.png").shape[1] <= 1700


def history(epochs: int, *names: str) -> dict[str, list[float]]:
    return {name: list(np.linspace(1, 0.5, epochs)) for name in names}


@pytest.mark.parametrize(
    "histories",
    [
        [],
        [history(1, "loss", "val_loss")],
        [history(30, "loss", "val_loss", "accuracy", "val_accuracy")],
        [history(5 + k, "loss", "val_loss", "val_accuracy") for k in range(50)],
        [{"loss": [1.0, float("nan")], "val_loss": [float("nan"), float("nan")]}],
        [{"loss": [1.0, 0.5]}],
        [{"val_loss": [1.0, 0.5], "val_accuracy": [0.5]}],
    ],
)
def test_curves_are_drawn_for_any_training_alike_twice(
    tmp_path: Path, histories: list[dict[str, list[float]]]
) -> None:
    for name in ("a.png", "b.png"):
        write_curves(tmp_path / name, histories, "model <1>")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (pixels(tmp_path / "a.png") < 100).any()


def write_picture(path: Path, side: int) -> Path:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 255, (8, 8, 3), np.uint8)
    noise = np.asarray(Image.fromarray(smooth).resize((side, side))).astype(int)
    noisy = (noise + rng.integers(-9, 9, noise.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path)
    return path


def test_a_page_escapes_all_text_and_fetches_nothing(tmp_path: Path) -> None:
    bad = '<script>alert("1")</script>&'
    picture = write_picture(tmp_path / "p.png", 32)
    sections = [Section(bad, [bad], [[bad, "value"], [bad, 0.5]], [(picture, bad)])]
    write_page(tmp_path / "r.html", bad, sections, bad)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script" not in text.lower()
    assert text.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;") == 9
    assert not re.search(r"https?:|url\(|<link|@import|src=\"(?!data:)", text)
    assert str(tmp_path) not in text


def test_a_small_picture_is_inlined_as_it_is_and_a_large_one_as_jpeg(tmp_path: Path) -> None:
    small = write_picture(tmp_path / "small.png", 64)
    large = write_picture(tmp_path / "large.png", 900)
    section = Section("S", figures=[(small, "small"), (large, "large")])
    write_page(tmp_path / "r.html", "T", [section])
    found = re.findall(r"data:image/(\w+);base64,([^\"]+)", (tmp_path / "r.html").read_text())
    assert [kind for kind, _ in found] == ["png", "jpeg"]
    assert base64.b64decode(found[0][1]) == small.read_bytes()
    assert len(base64.b64decode(found[1][1])) < large.stat().st_size / 2


def test_a_dollar_sign_in_a_page_stays_one(tmp_path: Path) -> None:
    write_page(tmp_path / "r.html", "$title $$", [Section("${x}")])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h1>$title $$</h1>" in text
    assert "<h2>${x}</h2>" in text
