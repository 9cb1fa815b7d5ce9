"""Sheet: what all pictures share: a title, panels pixel for pixel, a scale bar, plain bytes."""

from __future__ import annotations

import io
import math
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from milpath.overview import Overview
from milpath.store import publish_bytes

if TYPE_CHECKING:  # costs a second: loaded when the first picture is drawn
    from matplotlib.figure import Figure

DPI = 100
INK = "#222222"
FONT = "DejaVu Sans"  # comes with matplotlib
_LEAST_SHEET_PX = 640  # room for a title and a colour bar beside a very narrow slide
_WIDE = 1.8  # panels wider than this many heights are stacked


@dataclass(frozen=True)
class Sheet:
    """Where things lie on a picture, in pixels from its top-left corner.

    Attributes
    ----------
    figure : what is drawn on
    width, height : of the whole picture
    text_px : height of plain text; all distances follow it
    panels : (x, y) of the panels' top-left corners
    panel_size : (width, height) of each
    pictures : (x, y, RGB array) of what lies below all that is drawn
    """

    figure: Figure
    width: int
    height: int
    text_px: int
    panels: tuple[tuple[int, int], ...]
    panel_size: tuple[int, int]
    pictures: list[tuple[int, int, NDArray[np.uint8]]] = field(default_factory=list)

    @property
    def footer_y(self) -> int:
        """Where the scale bar and the colour bar begin."""
        return self.panels[-1][1] + self.panel_size[1] + self.text_px


def open_sheet(panel_size: tuple[int, int], count: int, title: str, footer: float = 5.0) -> Sheet:
    """A white sheet for `count` panels, side by side, or stacked when they are wide.

    The title's first line is set large, any others small below it; `footer` is the height of what
    comes below the panels, in lines of text.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    w, h = panel_size
    across, down = (1, count) if w > _WIDE * h else (count, 1)
    text = round(min(max(across * w / 70, 12), 28))
    lines = title.split("\n")
    content = across * w + (across - 1) * text
    width = max(content, _LEAST_SHEET_PX) + 2 * text
    top = round(text * (2.6 + 1.5 * len(lines[1:])))
    height = top + down * h + (down - 1) * text + round(footer * text)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="none")
    FigureCanvasAgg(figure)
    panels = tuple(
        (text + i * (w + text), top + j * (h + text)) for j in range(down) for i in range(across)
    )
    sheet = Sheet(figure, width, height, text, panels, panel_size)
    for index, line in enumerate(lines):
        size, y = (1.35, 1.3) if index == 0 else (1.0, 1.25 + 1.5 * index)
        write_text(sheet, panels[0][0], round(y * text), line, size, bold=index == 0)
    return sheet


def write_text(
    sheet: Sheet, x: int, y: int, text: str, size: float = 1.0, *, bold: bool = False
) -> None:
    """A line of text whose middle left is (x, y), made smaller until it fits."""
    points = size * sheet.text_px * 72 / DPI
    drawn = sheet.figure.text(
        x / sheet.width, 1 - y / sheet.height, printable(text), va="center", parse_math=False
    )
    drawn.set(family=FONT, fontsize=points, weight="bold" if bold else "normal", color=INK)
    room, taken = sheet.width - x - sheet.text_px, drawn.get_window_extent().width
    if taken > room:
        drawn.set_fontsize(points * room / taken)


def printable(text: str) -> str:
    """The text in the characters that the font has: any other would draw a warning."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont(FONT)).get_charmap()
    text = unicodedata.normalize("NFC", text)
    return "".join(c if c.isprintable() and ord(c) in known else "\ufffd" for c in text)


def draw_box(sheet: Sheet, x: float, y: float, w: float, h: float, **style: Any) -> None:
    """A rectangle whose top-left corner is (x, y), in pixels of the sheet."""
    from matplotlib.patches import Rectangle
    from matplotlib.transforms import IdentityTransform

    box = Rectangle((x, sheet.height - y - h), w, h, **style)
    box.set_transform(IdentityTransform())
    sheet.figure.add_artist(box)


def place_picture(sheet: Sheet, index: int, rgb: NDArray[np.uint8], *, frame: bool = True) -> None:
    """Put a picture of exactly the panels' size on a panel, pixel on pixel, in a thin frame."""
    (x, y), (w, h) = sheet.panels[index], sheet.panel_size
    sheet.pictures.append((x, y, rgb))
    if frame:
        draw_box(sheet, x - 0.5, y - 0.5, w + 1, h + 1, fill=False, ec="#bbbbbb", lw=0.72)


def draw_scale_bar(sheet: Sheet, mpp: float) -> None:
    """A bar of a round length at the lower left, for panels of `mpp` µm a pixel."""
    w, text = sheet.panel_size[0], sheet.text_px
    length_um = round_length(max(w / 4, min(w, 8 * text)) * mpp)
    x, y = sheet.panels[0][0], sheet.footer_y
    draw_box(sheet, x, y, length_um / mpp, max(2, text // 4), fc=INK, lw=0)
    label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    write_text(sheet, x, y + round(1.3 * text), label)


def round_length(limit: float) -> float:
    """The greatest 1, 2 or 5 x 10^n that is not above `limit`."""
    power = 10.0 ** math.floor(math.log10(limit))
    return float(max(f * power for f in (0.5, 1, 2, 5, 10) if f * power <= limit))


def finish_sheet(sheet: Sheet) -> Image.Image:
    """The sheet as an RGB picture."""
    canvas: Any = sheet.figure.canvas
    canvas.draw()
    whole = Image.new("RGB", (sheet.width, sheet.height), "white")
    for x, y, rgb in sheet.pictures:  # not by matplotlib: a picture of its own takes 100 bytes/px
        whole.paste(Image.fromarray(rgb), (x, y))
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    whole.paste(drawn, mask=drawn.getchannel("A"))
    return whole


def encode_png(image: Image.Image) -> bytes:
    """A PNG without any metadata."""
    file = io.BytesIO()
    image.save(file, format="png")
    return file.getvalue()


def write_png(path: Path, image: Image.Image) -> None:
    """`encode_png` into a file, whole or not at all."""
    publish_bytes(path, encode_png(image))


def enlarge(overview: Overview, max_px: int) -> Overview:
    """A small overview enlarged pixel for pixel, as far as `max_px` on its longer side allows."""
    factor = max_px // max(overview.rgb.shape[:2])
    if factor <= 1:
        return overview
    return replace(
        overview,
        rgb=overview.rgb.repeat(factor, axis=0).repeat(factor, axis=1),
        unreadable=overview.unreadable.repeat(factor, axis=0).repeat(factor, axis=1),
        cell_l0=(overview.cell_l0[0] / factor, overview.cell_l0[1] / factor),
        mpp=overview.mpp / factor,
    )
