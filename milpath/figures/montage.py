"""Montage: bags as rows of pictures, each with its attention below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.figures.canvas import (
    Canvas,
    draw_box,
    open_canvas,
    place_picture,
    write_png,
    write_text,
)

_MARK, _BAR = "#d1495b", "#31688e"
_MAX_SHOWN = 14  # instances per bag, those with the highest attention
_SIDE_PX = 64
_GAP_PX = 8
_CAPTION_PX = 24
_ROW_PX = _SIDE_PX + 62  # the bag's caption, a picture, its bar and number


@dataclass(frozen=True, eq=False)
class MontageBag:
    """A bag and its attention.

    Attributes
    ----------
    pictures : uint8 array (N, P, P, 1 or 3), one picture per instance
    attention : (N,), sums to 1
    marked : (N,), True where a picture is framed
    caption : one line above the pictures
    """

    pictures: NDArray[np.uint8]
    attention: NDArray[np.float64]
    marked: NDArray[np.bool_]
    caption: str


def write_montage(path: Path, bags: Sequence[MontageBag], title: str) -> None:
    """Draw one bag per row: each picture with its attention as a bar and a number.

    Of a large bag only the pictures with the highest attention are shown, in the bag's order.

    Parameters
    ----------
    path : PNG file to write
    bags : at least one
    title : the first line is large, further lines small
    """
    shown = [_select_shown(bag) for bag in bags]
    across = max(len(rows) for rows in shown)
    width, height = across * (_SIDE_PX + _GAP_PX) - _GAP_PX, len(bags) * _ROW_PX
    canvas = open_canvas((width, height), 1, title, 0.5)
    left, top = canvas.panels[0]
    pixels = np.full((height, width, 3), 255, np.uint8)
    for number, (bag, rows) in enumerate(zip(bags, shown, strict=True)):
        y = number * _ROW_PX + _CAPTION_PX
        for place, row in enumerate(rows):
            x = place * (_SIDE_PX + _GAP_PX)
            pixels[y : y + _SIDE_PX, x : x + _SIDE_PX] = _enlarge(bag.pictures[row])
    place_picture(canvas, 0, pixels, frame=False)
    for number, (bag, rows) in enumerate(zip(bags, shown, strict=True)):
        y = top + number * _ROW_PX
        hidden = len(bag.pictures) - len(rows)
        caption = bag.caption + (f", {hidden} more with lower attention" if hidden else "")
        write_text(canvas, left, y + 10, caption, 0.85)
        for place, row in enumerate(rows):
            x = left + place * (_SIDE_PX + _GAP_PX)
            marked, attention = bool(bag.marked[row]), float(bag.attention[row])
            _annotate_picture(canvas, x, y + _CAPTION_PX, attention, marked=marked)
    write_png(path, canvas.image)


def _annotate_picture(canvas: Canvas, x: int, y: int, attention: float, *, marked: bool) -> None:
    """Draw the frame, the attention bar and the number of the picture whose corner is (x, y)."""
    if marked:
        draw_box(canvas, x - 3, y - 3, _SIDE_PX + 6, _SIDE_PX + 6, outline=_MARK, line_px=3)
    below = y + _SIDE_PX
    draw_box(canvas, x, below + 4, _SIDE_PX, 6, fill="#e8e8e8")
    draw_box(canvas, x, below + 4, _SIDE_PX * attention, 6, fill=_BAR)
    write_text(canvas, x, below + 19, f"{attention:.2f}", 0.75)


def _select_shown(bag: MontageBag) -> NDArray[np.int64]:
    """Row numbers of the pictures to show, in the bag's order."""
    best = np.argsort(-bag.attention, kind="stable")[:_MAX_SHOWN]
    return np.sort(best)


def _enlarge(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize a picture to the montage's size by nearest neighbour, as RGB."""
    rows = np.arange(_SIDE_PX) * picture.shape[0] // _SIDE_PX
    cols = np.arange(_SIDE_PX) * picture.shape[1] // _SIDE_PX
    return np.broadcast_to(picture[rows][:, cols], (_SIDE_PX, _SIDE_PX, 3))
