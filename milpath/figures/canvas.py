"""Canvas: what all pictures share: title, panels, text, scale bar, PNG without metadata."""

from __future__ import annotations

import io
import math
import unicodedata
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from milpath.slides.thumbnail import Thumbnail
from milpath.store import publish_bytes

INK = "#222222"
_MIN_CANVAS_PX = 640  # room for the title and the colour bar of a very narrow slide
_WIDE = 1.8  # panels with a greater aspect ratio are stacked


@dataclass(frozen=True)
class Canvas:
    """A picture and the positions on it, in pixels from its top-left corner.

    Attributes
    ----------
    image : the RGB picture; functions draw on it in place
    text_px : height of plain text; all distances scale with it
    panels : (x, y) of the panels' top-left corners
    panel_size : (width, height) of each panel
    """

    image: Image.Image
    text_px: int
    panels: tuple[tuple[int, int], ...]
    panel_size: tuple[int, int]

    @property
    def footer_y(self) -> int:
        """Top of the scale bar and the colour bar."""
        return self.panels[-1][1] + self.panel_size[1] + self.text_px

    @property
    def footer_right(self) -> int:
        """Right end of the colour bar or legend, also below a very narrow slide."""
        return max(self.panels[-1][0] + self.panel_size[0], self.image.width - 2 * self.text_px)


def open_canvas(panel_size: tuple[int, int], count: int, title: str, footer: float = 5.0) -> Canvas:
    """Create a white canvas for `count` panels, side by side, or stacked when they are wide.

    Parameters
    ----------
    panel_size : (width, height) of one panel, pixels
    count : number of panels
    title : the first line is large, further lines small
    footer : height of the space below the panels, in lines of text
    """
    w, h = panel_size
    across, down = (1, count) if w > _WIDE * h else (count, 1)
    text = round(min(max(across * w / 70, 12), 28))
    lines = title.split("\n")
    content = across * w + (across - 1) * text
    width = max(content, _MIN_CANVAS_PX) + 2 * text
    top = round(text * (2.6 + 1.5 * len(lines[1:])))
    height = top + down * h + (down - 1) * text + round(footer * text)
    panels = tuple(
        (text + i * (w + text), top + j * (h + text)) for j in range(down) for i in range(across)
    )
    canvas = Canvas(Image.new("RGB", (width, height), "white"), text, panels, panel_size)
    for index, line in enumerate(lines):
        size, y = (1.35, 1.3) if index == 0 else (1.0, 1.25 + 1.5 * index)
        write_text(canvas, panels[0][0], round(y * text), line, size, bold=index == 0)
    return canvas


def write_text(
    canvas: Canvas,
    x: float,
    y: float,
    text: str,
    size: float = 1.0,
    *,
    bold: bool = False,
    align: Literal["left", "middle", "right"] = "left",
) -> float:
    """Write a line of text centred on height `y`, aligned at `x`, and shrunk until it fits.

    Returns its width, pixels.
    """
    text = printable(text, bold=bold)
    left, right = x - canvas.text_px, canvas.image.width - x - canvas.text_px
    room = {"left": right, "middle": 2 * min(left, right), "right": left}[align]
    px = size * canvas.text_px
    while (taken := _font(px, bold=bold).getlength(text)) > room and px > 1:
        px = max(1.0, px * min(0.97, room / taken))  # widths are rounded to pixels, so repeat
    place = round(x), round(y + 0.26 * px)  # the baseline lies below the middle of the line
    draw = ImageDraw.Draw(canvas.image)
    draw.text(place, text, INK, _font(px, bold=bold), anchor=f"{align[0]}s")
    return taken


def printable(text: str, *, bold: bool = False) -> str:
    """Replace characters that the font lacks by U+FFFD; they would be drawn as empty boxes."""
    text = unicodedata.normalize("NFC", text)
    return "".join(c if c.isprintable() and _is_known(c, bold=bold) else "\ufffd" for c in text)


@lru_cache(4096)
def _is_known(character: str, *, bold: bool) -> bool:
    font = _font(32, bold=bold)
    return bytes(font.getmask(character)) != bytes(font.getmask("\U0010ffff"))


@lru_cache(64)
def _font(px: float, *, bold: bool) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans with the basic layout, the same on every machine."""
    path = _fonts() / f"DejaVuSans{'-Bold' * bold}.ttf"
    return ImageFont.truetype(path, px, layout_engine=ImageFont.Layout.BASIC)


@cache
def _fonts() -> Path:
    """Find the fonts of matplotlib without importing it, which takes half a second."""
    spec = find_spec("matplotlib")
    assert spec is not None  # a dependency
    assert spec.origin is not None
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"


def draw_box(
    canvas: Canvas,
    x: float,
    y: float,
    w: float,
    h: float,
    *,
    fill: str | None = None,
    outline: str | None = None,
    line_px: int = 1,
) -> None:
    """Draw a rectangle with its top-left corner at (x, y), rounded to pixels, its line inside."""
    left, top, right, bottom = round(x), round(y), round(x + w) - 1, round(y + h) - 1
    if left <= right and top <= bottom:
        draw = ImageDraw.Draw(canvas.image)
        draw.rectangle((left, top, right, bottom), fill, outline, line_px)


def place_picture(
    canvas: Canvas, index: int, rgb: NDArray[np.uint8], *, frame: bool = True
) -> None:
    """Paste a picture of the panels' size into a panel, with a thin frame around it."""
    (x, y), (w, h) = canvas.panels[index], canvas.panel_size
    canvas.image.paste(Image.fromarray(rgb), (x, y))
    if frame:
        draw_box(canvas, x - 1, y - 1, w + 2, h + 2, outline="#bbbbbb")


def draw_scale_bar(canvas: Canvas, mpp: float) -> None:
    """Draw a scale bar of a round length at the lower left, for panels of `mpp` µm per pixel."""
    w, text = canvas.panel_size[0], canvas.text_px
    length_um = round_length(max(w / 4, min(w, 8 * text)) * mpp)
    x, y = canvas.panels[0][0], canvas.footer_y
    draw_box(canvas, x, y, length_um / mpp, max(2, text // 4), fill=INK)
    label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    write_text(canvas, x, y + round(1.3 * text), label)


def round_length(limit: float) -> float:
    """Round down to 1, 2 or 5 x 10^n."""
    power = 10.0 ** math.floor(math.log10(limit))
    return float(max(f * power for f in (0.5, 1, 2, 5, 10) if f * power <= limit))


def encode_png(image: Image.Image) -> bytes:
    """Encode a picture as PNG without metadata."""
    file = io.BytesIO()
    image.save(file, format="png")
    return file.getvalue()


def write_png(path: Path, image: Image.Image) -> None:
    """Write a picture as PNG without metadata; the file is complete or not there."""
    publish_bytes(path, encode_png(image))


def enlarge(thumbnail: Thumbnail, max_px: int) -> Thumbnail:
    """Enlarge a small thumbnail by the largest whole factor that `max_px` allows, unsmoothed."""
    factor = max_px // max(thumbnail.rgb.shape[:2])
    if factor <= 1:
        return thumbnail
    return replace(
        thumbnail,
        rgb=thumbnail.rgb.repeat(factor, axis=0).repeat(factor, axis=1),
        unreadable=thumbnail.unreadable.repeat(factor, axis=0).repeat(factor, axis=1),
        lattice=thumbnail.lattice.divided(factor),
        mpp=thumbnail.mpp / factor,
    )
