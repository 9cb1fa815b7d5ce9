"""The QC picture shows tissue, pen and patches where they lie, for any slide and grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor
from skimage.color import deltaE_ciede2000, rgb2lab

from milpath.figures import qc
from milpath.figures.canvas import encode_png, write_png
from milpath.figures.qc import draw_qc
from milpath.patches.grid import PatchGrid
from milpath.slides.lattice import Lattice
from milpath.slides.thumbnail import Thumbnail
from milpath.slides.tissue import TissueMask
from milpath.synthetic.artefacts import PENS


def make_thumbnail(rows: int = 300, cols: int = 400, cell: float = 16.0) -> Thumbnail:
    rgb = np.full((rows, cols, 3), 240, np.uint8)
    return Thumbnail(rgb, Lattice((50, 70), (cell, cell)), 8.0, np.zeros((rows, cols), bool))


def make_tissue(thumbnail: Thumbnail, share: float = 0.5, pen: bool = False) -> TissueMask:
    mask = np.zeros(thumbnail.rgb.shape[:2], bool)
    mask[:, : int(mask.shape[1] * share)] = True
    inked = np.zeros_like(mask)
    inked[10:40, -60:-10] = pen
    return TissueMask(mask, thumbnail.lattice, "bright", inked)


def make_grid(count: int, side: int = 64) -> PatchGrid:
    cols = max(1, int(np.sqrt(count)))
    places = np.stack([np.arange(count) % cols, np.arange(count) // cols], axis=1)
    coords = (places * side + [50, 70]).astype(np.int64)
    return PatchGrid(coords, 256, side, side, (50, 70), 0.5, 0)


def bluish(rgb: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where patches are drawn; without the legend at the bottom of the picture."""
    blue: NDArray[np.bool_] = rgb[:-80, :, 2] - rgb[:-80, :, :2].max(axis=-1) > 40
    return blue


def yellowish(rgb: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where the tissue's line is drawn."""
    yellow: NDArray[np.bool_] = rgb[..., :2].min(axis=-1) - rgb[..., 2] > 100
    return yellow


def colour_of(name: str) -> NDArray[np.float64]:
    return np.array(ImageColor.getrgb(name), np.float64)


def panel_of(picture: Image.Image) -> NDArray[np.int64]:
    """Crop the panel: its outer rows and columns show some of the grey background."""
    rgb = np.asarray(picture).astype(np.int64)
    background = (rgb == 240).all(axis=-1)  # text has no such long runs
    rows, cols = ((background.sum(axis=axis) > 300).nonzero()[0] for axis in (1, 0))
    return rgb[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]


def pixels(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as image:
        assert not image.info
        return np.asarray(image.convert("RGB")).astype(np.int64)


@pytest.mark.parametrize("count", [0, 1, 20_000])
def test_the_picture_is_drawn_for_any_number_of_patches(tmp_path: Path, count: int) -> None:
    thumbnail = make_thumbnail(600, 600)
    write_png(
        tmp_path / "q.png", draw_qc(thumbnail, make_tissue(thumbnail), make_grid(count), "S1")
    )
    rgb = pixels(tmp_path / "q.png")
    assert max(rgb.shape) <= 1800
    assert bluish(rgb).any() == (count > 0)


def test_a_patch_is_drawn_over_its_own_square() -> None:
    thumbnail = make_thumbnail(1000, 1000, 4.0)
    grid = PatchGrid(np.array([[1250, 2070]]), 256, 800, 800, (50, 70), 0.5, 0)
    panel = panel_of(draw_qc(thumbnail, make_tissue(thumbnail, 0), grid, "S1"))
    blue = panel[..., 2] - panel[..., :2].max(axis=-1) > 40
    rows, cols = blue.any(axis=1).nonzero()[0], blue.any(axis=0).nonzero()[0]
    # (1250 - 50) / 4 = 300 along x, (2070 - 70) / 4 = 500 along y, 200 pixels a side
    assert (cols[0], cols[-1]) == pytest.approx((300, 500), abs=1.5)
    assert (rows[0], rows[-1]) == pytest.approx((500, 700), abs=1.5)


def test_the_same_slide_gives_the_same_bytes() -> None:
    thumbnail = make_thumbnail()
    once, again = (
        encode_png(draw_qc(thumbnail, make_tissue(thumbnail, pen=True), make_grid(50), "S1"))
        for _ in range(2)
    )
    assert once == again


@pytest.mark.parametrize("cell", [16.0, 90.0])
def test_patches_hide_the_same_area_wherever_they_lie_between_pixels(cell: float) -> None:
    thumbnail = make_thumbnail(1000, 1000, cell)
    hidden = []
    for shift in (0, 17, 40):
        grid = make_grid(400, 229)
        grid = replace(grid, coords=grid.coords + 10 * 90 + shift)
        panel = panel_of(draw_qc(thumbnail, make_tissue(thumbnail, 0), grid, "S1"))
        hidden.append((240 - panel[..., 0]).sum())
    assert hidden[1:] == pytest.approx([hidden[0]] * 2, rel=0.03)
    assert hidden[0] > 0


def test_overlapping_patches_are_translucent() -> None:
    thumbnail = make_thumbnail(1000, 1000, 4.0)
    grid = PatchGrid(np.array([[450, 470], [850, 470]]), 256, 800, 400, (50, 70), 0.5, 0)
    panel = panel_of(draw_qc(thumbnail, make_tissue(thumbnail, 0), grid, "S1"))
    background, one, both, other = 240 - panel[200, [50, 150, 250, 350], 0]
    assert background == 0
    assert one == other > 0
    assert one < both <= 2 * one


def test_the_contour_runs_along_the_border_of_the_tissue() -> None:
    thumbnail = make_thumbnail(400, 400)
    mask = np.zeros((400, 400), bool)
    mask[100:300, 120:] = True
    tissue = TissueMask(mask, thumbnail.lattice, "bright", mask & False)
    panel = panel_of(draw_qc(thumbnail, tissue, make_grid(0), "S1"))
    rows, cols = yellowish(panel).nonzero()
    assert (cols.min(), cols.max() + 1) == pytest.approx((480, 1600), abs=1)  # 4 pixels a cell
    assert (rows.min(), rows.max() + 1) == pytest.approx((400, 1200), abs=1)
    assert 2 * (800 + 1120) - 8 <= len(rows) <= 2 * 2 * (800 + 1120)  # thin, closed at the border


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_contours_are_drawn_where_there_is_tissue_or_pen(tmp_path: Path, share: float) -> None:
    thumbnail = make_thumbnail()
    for pen in (False, True):
        tissue = make_tissue(thumbnail, share, pen)
        write_png(tmp_path / f"{pen}.png", draw_qc(thumbnail, tissue, make_grid(0), "S1"))
    without, with_pen = pixels(tmp_path / "False.png")[:-80], pixels(tmp_path / "True.png")[:-80]
    magenta = (with_pen[..., 0] - with_pen[..., 1] > 60) & (with_pen[..., 2] > 100)
    assert magenta.any()
    assert not ((without[..., 0] - without[..., 1]) > 60).any()
    assert yellowish(without).any() == (share > 0)


STAINS = {  # optical density of red, green, blue, per unit of stain
    "haematoxylin": (0.65, 0.70, 0.29),
    "eosin": (0.07, 0.99, 0.11),
    "dab": (0.27, 0.57, 0.78),
    "aec": (0.27, 0.68, 0.68),
    "methyl_blue": (0.80, 0.59, 0.11),
    "ponceau": (0.10, 0.74, 0.67),
    "orange_g": (0.11, 0.37, 0.92),
    "alcian": (0.87, 0.46, 0.16),
    "light_green": (0.95, 0.26, 0.16),
}


def test_the_tissues_line_is_apart_from_every_stain_ink_and_the_other_lines() -> None:
    line = colour_of(qc._TISSUE)
    amounts = np.linspace(0.1, 1.2, 8)[:, None]
    stained = [243 * 10 ** (-amounts * np.array(stain)) for stain in STAINS.values()]
    inks = 243 * 10 ** -(np.array(PENS) * 0.8)
    others = np.array([colour_of(qc._PATCH), colour_of(qc._PEN), (243, 243, 243)])
    every = np.concatenate([*stained, inks, others]) / 255
    apart = deltaE_ciede2000(rgb2lab(np.tile(line / 255, (len(every), 1))), rgb2lab(every))
    assert apart[:32].min() > 25  # haematoxylin, eosin, DAB, AEC
    assert apart.min() > 18  # pale orange G; the dark rim tells them apart


def test_a_large_thumbnail_is_shrunk_and_a_small_one_enlarged(tmp_path: Path) -> None:
    for name, rows, cols in (("large", 900, 4000), ("small", 16, 16), ("line", 1, 3000)):
        thumbnail = make_thumbnail(rows, cols)
        write_png(
            tmp_path / f"{name}.png", draw_qc(thumbnail, make_tissue(thumbnail), make_grid(4), name)
        )
        assert 640 <= pixels(tmp_path / f"{name}.png").shape[1] <= 1700
