"""Gallery: bags as rows of their instances, the attention each gets under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.figures.canvas import draw_box, open_canvas, place_picture, write_png, write_text

_MARK, _BAR = "#d1495b", "#31688e"
_MAX = 14  # instances shown of a bag: those of most attention
_SIDE_PX = 64
_ROW_PX = _SIDE_PX + 62  # a picture, its bar and number, the bag's caption


@dataclass(frozen=True, eq=False)
class MontageBag:
    """A bag to be shown.

    Attributes
    ----------
    pictures : (N, P, P, 1 or 3) of 0..255
    attention : (N,), summing to 1
    marked : (N,) True where a picture is framed
    caption : a line over it
    """

    pictures: NDArray[np.uint8]
    attention: NDArray[np.float64]
    marked: NDArray[np.bool_]
    caption: str


def write_montage(path: Path, bags: Sequence[MontageBag], title: str) -> None:
    """Draw bags, a row each: every picture with its attention as a bar and a number.

    Of a large bag the pictures of most attention are shown, in the bag's order.

    Parameters
    ----------
    path : the PNG
    bags : at least one
    title : the first line; a second explains
    """
    shown = [_choose(bag) for bag in bags]
    across = max(len(rows) for rows in shown)
    gap = 8
    width, height = across * (_SIDE_PX + gap) - gap, len(bags) * _ROW_PX
    canvas = open_canvas((width, height), 1, title, 0.5)
    left, top = canvas.panels[0]
    pixels = np.full((height, width, 3), 255, np.uint8)
    for number, (bag, rows) in enumerate(zip(bags, shown, strict=True)):
        y = number * _ROW_PX + 24
        for place, row in enumerate(rows):
            x = place * (_SIDE_PX + gap)
            pixels[y : y + _SIDE_PX, x : x + _SIDE_PX] = _enlarge(bag.pictures[row])
    place_picture(canvas, 0, pixels, frame=False)
    for number, (bag, rows) in enumerate(zip(bags, shown, strict=True)):
        y = top + number * _ROW_PX
        hidden = len(bag.pictures) - len(rows)
        caption = bag.caption + (f", {hidden} more of less attention" if hidden else "")
        write_text(canvas, left, y + 10, caption, 0.85)
        for place, row in enumerate(rows):
            x, under = left + place * (_SIDE_PX + gap), y + 24 + _SIDE_PX
            if bag.marked[row]:
                draw_box(
                    canvas, x - 3, y + 21, _SIDE_PX + 6, _SIDE_PX + 6, outline=_MARK, line_px=3
                )
            share = float(bag.attention[row])
            draw_box(canvas, x, under + 4, _SIDE_PX, 6, fill="#e8e8e8")
            draw_box(canvas, x, under + 4, _SIDE_PX * share, 6, fill=_BAR)
            write_text(canvas, x, under + 19, f"{share:.2f}", 0.75)
    write_png(path, canvas.image)


def _choose(bag: MontageBag) -> NDArray[np.int64]:
    best = np.argsort(-bag.attention, kind="stable")[:_MAX]
    return np.sort(best)


def _enlarge(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture as RGB of the gallery's size, pixels kept square."""
    rows = np.arange(_SIDE_PX) * picture.shape[0] // _SIDE_PX
    cols = np.arange(_SIDE_PX) * picture.shape[1] // _SIDE_PX
    return np.broadcast_to(picture[rows][:, cols], (_SIDE_PX, _SIDE_PX, 3))
