"""Text of any length and script is drawn within the canvas."""

from __future__ import annotations

import numpy as np
import pytest

from milpath.figures.canvas import open_canvas, printable, write_text


def test_text_keeps_the_characters_of_the_font_and_replaces_others() -> None:
    assert printable("µm² · ± é ŵ \N{MINUS SIGN}") == "µm² · ± é ŵ \N{MINUS SIGN}"
    assert printable("e\N{COMBINING ACUTE ACCENT}") == "é"
    assert printable("a\tb\n切\N{MICROSCOPE}\udc80") == "a\ufffdb" + 4 * "\ufffd"
    assert printable("\N{ARABIC LETTER BEH}") == "\N{ARABIC LETTER BEH}"
    only_plain = "\N{MATHEMATICAL SANS-SERIF CAPITAL A}"
    assert printable(only_plain) == only_plain != printable(only_plain, bold=True)


@pytest.mark.parametrize(
    "title",
    ["i" * 80, "W" * 90, "\N{HEBREW LETTER ALEF}\N{ARABIC LETTER BEH}" * 50, "q\u0300" * 90],
)
def test_a_long_line_is_shrunk_until_it_fits(title: str) -> None:
    canvas = open_canvas((600, 300), 1, f"{title}\n{title}")
    drawn = (np.asarray(canvas.image) < 200).all(axis=-1).nonzero()[1]
    assert drawn.max() < canvas.image.width - canvas.text_px
    assert drawn.min() >= canvas.panels[0][0] - 1


@pytest.mark.parametrize(
    ("align", "ends"), [("left", (300, 360)), ("middle", (270, 330)), ("right", (240, 300))]
)
def test_text_is_aligned_left_middle_or_right(align: str, ends: tuple[int, int]) -> None:
    canvas = open_canvas((600, 300), 1, "")
    width = write_text(canvas, 300, 100, "H" * 6, align=align)  # type: ignore[arg-type]
    drawn = (np.asarray(canvas.image) < 200).all(axis=-1).nonzero()
    assert width == pytest.approx(60, abs=12)
    assert (drawn[1].min(), drawn[1].max()) == pytest.approx(ends, abs=8)
    assert (drawn[0].min() + drawn[0].max()) / 2 == pytest.approx(100, abs=3)
