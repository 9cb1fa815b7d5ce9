"""QC: a picture of the tissue and the patches that were found on a slide.

Lines and squares are drawn by coverage: the fraction of each pixel that they hide.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from milpath.figures.canvas import (
    Canvas,
    draw_box,
    draw_scale_bar,
    enlarge,
    open_canvas,
    place_picture,
    write_text,
)
from milpath.patches.grid import PatchGrid
from milpath.slides.thumbnail import Thumbnail
from milpath.slides.tissue import TissueMask

Field = NDArray[np.float32] | NDArray[np.float64]

_MAX_QC_PX = 1600
_TISSUE, _PATCH, _PEN = "#ffe600", "#1f5fbf", "#d000a0"
"""Yellow is 25 or more from H&E, DAB, AEC, inks, background and the other lines (CIEDE2000)."""
_CASING = "#000000"
_CASING_OPACITY = 0.5  # of the dark rim of the tissue's line, which is pale on a pale background
_LINE_PX = 1.5
_SHARP_PX = 8  # lines of patches this far apart are snapped to pixels; of finer ones it aliases


def draw_qc(thumbnail: Thumbnail, tissue: TissueMask, grid: PatchGrid, title: str) -> Image.Image:
    """Draw a slide's thumbnail with the contour of its tissue, excluded pen, and the patches.

    Parameters
    ----------
    thumbnail : of the slide
    tissue : result of `segment_tissue`
    grid : any number of patches
    title : the first line; the second line describes the patches and the tissue
    """
    thumbnail = enlarge(_shrink(thumbnail, _MAX_QC_PX), _MAX_QC_PX)
    rows, cols = thumbnail.rgb.shape[:2]
    canvas = open_canvas((cols, rows), 1, f"{title}\n{_describe(thumbnail, tissue, grid)}", 3.2)
    place_picture(canvas, 0, thumbnail.rgb)
    _draw_patches(canvas, thumbnail, grid)
    _draw_mask(canvas, tissue.pen, _PEN, fill=0.35)
    _draw_mask(canvas, tissue.mask, _TISSUE, casing=True)
    draw_scale_bar(canvas, thumbnail.mpp)
    _draw_legend(canvas, pen=bool(tissue.pen.any()))
    return canvas.image


def _shrink(thumbnail: Thumbnail, max_px: int) -> Thumbnail:
    """Shrink a thumbnail to at most `max_px` pixels on its longer side."""
    rows, cols = thumbnail.rgb.shape[:2]
    factor = max_px / max(rows, cols)
    if factor >= 1:
        return thumbnail
    size = max(1, round(cols * factor)), max(1, round(rows * factor))
    shrunk = Image.fromarray(thumbnail.rgb).resize(size, Image.Resampling.BOX)
    lattice = thumbnail.lattice.resized((rows, cols), size[::-1])
    growth = math.sqrt(lattice.cell_area_l0 / thumbnail.lattice.cell_area_l0)
    return replace(thumbnail, rgb=np.asarray(shrunk), lattice=lattice, mpp=thumbnail.mpp * growth)


def _describe(thumbnail: Thumbnail, tissue: TissueMask, grid: PatchGrid) -> str:
    um_per_l0 = thumbnail.mpp / math.sqrt(thumbnail.lattice.cell_area_l0)
    cell_um2 = tissue.lattice.cell_area_l0 * um_per_l0**2
    area_mm2 = int(tissue.mask.sum()) * cell_um2 / 1e6
    patches = "1 patch" if len(grid) == 1 else f"{len(grid):,} patches"
    return (
        f"{patches} of {grid.patch_px} px at {grid.patch_mpp:.4g} µm/px"
        f"  ·  {area_mm2:.3g} mm² of tissue  ·  level 0 at {um_per_l0:.4g} µm/px"
    )


def _draw_patches(canvas: Canvas, thumbnail: Thumbnail, grid: PatchGrid) -> None:
    """Draw all patches as translucent squares, with thinner lines when there are many.

    By coverage and not by ImageDraw, which has neither fractions of a pixel nor translucency and is
    slower for many patches (200,000: 1.1 against 0.5 s).
    """
    shown_px = float(thumbnail.lattice.size_to_cells(grid.stride_l0)[1])
    side_px = float(thumbnail.lattice.size_to_cells(grid.patch_size_l0).min())
    line = min(1.4 * min(max(shown_px / 16, 0.25), 1.0), side_px)
    ends = thumbnail.lattice.to_cells(np.stack([grid.coords, grid.coords + grid.patch_size_l0]))
    (y, row), (x, col) = (_group_ends(ends[..., axis]) for axis in (0, 1))
    present = np.zeros((y.shape[1], x.shape[1]))
    present[row, col] = 1.0
    if shown_px >= _SHARP_PX:
        y, x = np.floor(y) + 0.5, np.floor(x) + 0.5
    w, h = canvas.panel_size
    fill = math.log1p(-0.08 * (grid.stride_l0 / grid.patch_size_l0) ** 2)
    edge = math.log1p(-min(0.7, 0.1 + shown_px / 12))
    strips, across = [], []
    # a line is what lies inside its outer border and not inside its inner one
    for weight, grow in ((fill, 0.0), (edge, line / 2), (-edge, -line / 2)):
        margin = np.array([[-grow], [grow]])
        strips.append(weight * _fill_intervals(present, y + margin, h).T)
        across.append(x + margin)
    log_transmittance = _fill_intervals(np.concatenate(strips), np.hstack(across), w).T
    _paste_colour(canvas, 1 - np.exp(log_transmittance), _PATCH)


def _group_ends(ends: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the unique columns of (2, N) ends by their first row, and each column's index."""
    _, first, index = np.unique(ends[0], return_index=True, return_inverse=True)
    return ends[:, first], index


def _fill_intervals(values: Field, ends: Field, count: int) -> Field:
    """Sum the rows of (N, M) values, each over its interval of pixels.

    Parameters
    ----------
    values : (N, M)
    ends : (2, N), start and end of each row's interval, pixels; fractions are covered in part
    count : number of pixels

    Returns
    -------
    (count, M)
    """
    steps = np.zeros((count + 2, values.shape[1]), np.float32)
    for places, sign in zip(ends.clip(0, count), (1, -1), strict=True):
        for place, row in zip(places, values, strict=True):
            px, fraction = int(place), place % 1
            steps[px] += sign * (1 - fraction) * row
            steps[px + 1] += sign * fraction * row
    return steps.cumsum(axis=0)[:count]


def _draw_mask(
    canvas: Canvas, mask: NDArray[np.bool_], colour: str, fill: float = 0.0, *, casing: bool = False
) -> None:
    """Draw the contour of a mask over the whole panel, closed also along the panel's border."""
    if not mask.any():
        return
    resized = Image.fromarray(mask.view(np.uint8) * 255).resize(
        canvas.panel_size, Image.Resampling.BILINEAR
    )
    if fill:
        canvas.image.paste(colour, canvas.panels[0], resized.point(lambda share: fill * share))
    around = np.pad(np.asarray(resized), 1)
    here = around[1:-1, 1:-1]
    beside = around[1:-1, :-2], around[1:-1, 2:], around[:-2, 1:-1], around[2:, 1:-1]
    rim = np.logical_or.reduce([here != other for other in beside]).nonzero()
    share = here[rim] / np.float32(255)
    west, east, north, south = (np.abs(other[rim] / np.float32(255) - share) for other in beside)
    slope = np.hypot(np.maximum(west, east), np.maximum(north, south))
    from_rim = np.abs(share - 0.5) / slope
    line = np.zeros(here.shape, np.float32)
    line[rim] = np.clip((_LINE_PX + 1) / 2 - from_rim, 0, 1)
    if casing:
        _paste_colour(canvas, _CASING_OPACITY * _widen(line), _CASING)
    _paste_colour(canvas, line, colour)


def _widen(line: Field) -> Field:
    """Widen a line by one pixel on every side."""
    around = np.pad(line, 1)
    rows, cols = line.shape
    parts = [around[y : y + rows, x : x + cols] for y in range(3) for x in range(3)]
    wide: Field = np.maximum.reduce(parts)
    return wide


def _paste_colour(canvas: Canvas, coverage: Field, colour: str) -> None:
    """Blend a colour into the panel by the coverage of each pixel, 0..1."""
    mask = Image.fromarray(np.rint(coverage * 255).astype(np.uint8))
    canvas.image.paste(colour, canvas.panels[0], mask)


def _draw_legend(canvas: Canvas, *, pen: bool) -> None:
    """Draw the legend at the lower right."""
    entries = [("tissue", _TISSUE), ("patches", _PATCH)] + [("pen, excluded", _PEN)] * pen
    text, right = canvas.text_px, float(canvas.footer_right)
    middle = canvas.footer_y + text // 8  # level with the scale bar
    for name, colour in reversed(entries):
        right -= write_text(canvas, right, middle, name, align="right") + 0.8 * text
        draw_box(canvas, right - 2 * text, middle - 1, 2 * text, 3, fill=colour)
        right -= 4 * text
