"""Overlay: a picture of a heatmap over its slide.

Each pixel shows the cell that contains its centre, so a cell covers exactly its own square.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor
from scipy.ndimage import binary_erosion

from milpath.figures.canvas import (
    Canvas,
    draw_box,
    draw_scale_bar,
    enlarge,
    open_canvas,
    place_picture,
    round_length,
    write_png,
    write_text,
)
from milpath.figures.colormap import ColourScale, colour_scale, is_logarithmic
from milpath.figures.heatmap import Heatmap
from milpath.formats.prediction import Prediction
from milpath.formats.scores import format_probability
from milpath.slides.slide import Slide
from milpath.slides.thumbnail import Thumbnail, fit_thumbnail

SEEN = "the model was trained on this slide"
"""Warning of a prediction that is no evidence of how the model does on new slides."""

_GREY = "#888888"


def blend(
    heatmap: Heatmap, thumbnail: Thumbnail, scale: ColourScale | None = None
) -> NDArray[np.uint8]:
    """Blend a heatmap over a thumbnail: RGB (rows, cols, 3) of the thumbnail's size.

    Parameters
    ----------
    heatmap, thumbnail : of the same slide
    scale : by default `colour_scale`; what it makes fully transparent is as if without a patch
    """
    rows, cols = thumbnail.rgb.shape[:2]
    centres = thumbnail.lattice.centres((rows, cols))
    row, col = (np.floor(axis).astype(int) for axis in heatmap.lattice.axes_to_cells(*centres))
    inside_row = (row >= 0) & (row < heatmap.values.shape[0])
    inside_col = (col >= 0) & (col < heatmap.values.shape[1])
    values = np.full((rows, cols), np.nan)
    values[np.ix_(inside_row, inside_col)] = heatmap.values[
        np.ix_(row[inside_row], col[inside_col])
    ]
    shown = np.isfinite(values)
    norm, colours = scale or colour_scale(heatmap)
    rgba = colours(norm(values[shown]))
    shown[shown], rgba = rgba[:, 3] > 0, rgba[rgba[:, 3] > 0]
    blended = thumbnail.rgb.copy()
    mixed = rgba[:, :3] * 255 * rgba[:, 3:] + blended[shown] * (1 - rgba[:, 3:])
    blended[shown] = np.rint(mixed).astype(np.uint8)
    rim = shown & ~binary_erosion(shown, border_value=1)
    blended[rim] = blended[rim] // 2 + 64  # separates weak scores from none on white background
    return blended


def overlay_title(prediction: Prediction, name: str | None = None) -> str:
    """Two lines: slide, predicted class and its probability; effective number of patches.

    A third one if the model was trained on this slide.

    Parameters
    ----------
    prediction : of one slide
    name : in place of the slide's id
    """
    name = prediction.slide.slide_id if name is None else name
    if prediction.predicted is None:
        return f"{name}: no tissue"
    count, effective = len(prediction.grid), max(1, round(prediction.effective_patches))
    probability = format_probability(float(np.max(prediction.probs)))
    if len(prediction.member_bias) > 1:
        probability += f" ± {np.max(prediction.spread):.2f} over the ensemble"
    title = (
        f"{name}: {prediction.predicted}, probability {probability}\n"
        f"effective number of patches: {effective:,} of {count:,}"
    )
    return f"{title}\n{SEEN}" if prediction.in_training else title


def render_overlay(
    slide: Slide,
    heatmap: Heatmap,
    title: str,
    *,
    max_px: int = 1000,
    side_by_side: bool = True,
    scale: ColourScale | None = None,
) -> Image.Image:
    """Draw a slide and, beside it, the slide with its heatmap, scale bar and colour bar.

    Parameters
    ----------
    slide : the classified slide
    heatmap : of its prediction
    title : first line large, further lines small; see `overlay_title`
    max_px : longer side of one panel, pixels
    side_by_side : also show the slide without the heatmap (left, or above when the slide is wide)
    scale : see `blend`
    """
    thumbnail = enlarge(fit_thumbnail(slide, max_px), max_px)
    rows, cols = thumbnail.rgb.shape[:2]
    pictures = [blend(heatmap, thumbnail, scale)]
    if side_by_side:
        pictures.insert(0, thumbnail.rgb)
    canvas = open_canvas((cols, rows), len(pictures), title)
    for index, picture in enumerate(pictures):
        place_picture(canvas, index, picture)
    draw_scale_bar(canvas, thumbnail.mpp)
    draw_colour_bar(canvas, heatmap, scale)
    return canvas.image


def write_overlay(
    path: Path,
    slide: Slide,
    heatmap: Heatmap,
    title: str,
    *,
    max_px: int = 1000,
    scale: ColourScale | None = None,
) -> None:
    """Write `render_overlay` as a PNG file; the file is complete or not there."""
    write_png(path, render_overlay(slide, heatmap, title, max_px=max_px, scale=scale))


def draw_colour_bar(canvas: Canvas, heatmap: Heatmap, scale: ColourScale | None = None) -> None:
    """Draw the colour bar at the lower right, on white; pointed where values exceed the limits.

    Not by matplotlib, as the curves are: there it takes 240 ms instead of 18 and another second of
    imports, and its text and pixels differ.
    """
    norm, colours = scale or colour_scale(heatmap)
    limits: Any = norm
    text = canvas.text_px
    width, height = min(canvas.image.width // 2 - 2 * text, 34 * text), round(0.8 * text)
    left, top = canvas.footer_right - text - width, canvas.footer_y
    below = 0.05 * width * bool(np.nanmin(heatmap.values) < limits.vmin)
    above = 0.05 * width * bool(np.nanmax(heatmap.values) > limits.vmax)
    start, length = left + below, width - below - above
    rgba = colours(np.clip((np.arange(width) + 0.5 - below) / length, 0, 1))
    on_white = (rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]) * 255
    canvas.image.paste(_draw_strip(on_white, height, below, above), (left, top))
    for value, label in _ticks(heatmap, limits.vmin, limits.vmax, width / (4.5 * text)):
        x = start + float(norm(value)) * length
        mark = min(int(x), left + width - 1)
        draw_box(canvas, mark, top + height, 1, text // 6, fill=_GREY)
        write_text(canvas, x, top + height + 0.85 * text, label, 0.9, align="middle")
    write_text(canvas, left + width / 2, top + height + 2.1 * text, heatmap.label, align="middle")


def _draw_strip(
    colours: NDArray[np.float64], height: int, below: float, above: float
) -> Image.Image:
    """Draw one colour per column inside a thin line; `below` and `above` taper the ends, pixels."""
    left = np.arange(len(colours)) + 0.5
    right = len(colours) - left
    taper = np.minimum(left / max(below, 0.5), right / max(above, 0.5)).clip(0, 1) * height / 2
    off_middle = np.abs(np.arange(height) + 0.5 - height / 2)[:, None]
    depth = np.minimum(taper - off_middle, np.minimum(left, right))[..., None]  # within the edge
    lined = colours + (1.5 - depth).clip(0, 1) * (np.array(ImageColor.getrgb(_GREY)) - colours)
    shown = 255 + (depth + 0.5).clip(0, 1) * (lined - 255)
    return Image.fromarray(np.rint(shown).astype(np.uint8))


def _ticks(heatmap: Heatmap, low: float, high: float, most: float) -> list[tuple[float, str]]:
    """Choose about `most` round values from `low` to `high`, and their labels."""
    if is_logarithmic(heatmap):
        return [(value, f"{value:.3g}×") for value in _logarithmic_ticks(low, high)]
    step = 1 / round_length(most / (high - low))
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    values = [step * number for number in range(first, last + 1)]
    return [(value, f"{value:g}".replace("-", "\N{MINUS SIGN}")) for value in values]


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    """Return the values 1, 2 and 5 x 10^n from `low` to `high`; both ends if there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    inside = [each for each in values if low * (1 - 1e-9) <= each <= high * (1 + 1e-9)]
    return inside if len(inside) > 1 else [low, high]
