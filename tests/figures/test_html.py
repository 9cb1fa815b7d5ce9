"""Pages are self-contained and escape their text."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
from PIL import Image

from milpath.figures.html import Section, write_page


def write_picture(path: Path, side: int) -> Path:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 255, (8, 8, 3), np.uint8)
    noise = np.asarray(Image.fromarray(smooth).resize((side, side))).astype(int)
    noisy = (noise + rng.integers(-9, 9, noise.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path)
    return path


def test_a_page_escapes_all_text_and_has_no_external_resources(tmp_path: Path) -> None:
    bad = '<script>alert("1")</script>&'
    picture = write_picture(tmp_path / "p.png", 32)
    sections = [Section(bad, [bad], [[bad, "value"], [bad, 0.5]], [(picture, bad)])]
    write_page(tmp_path / "r.html", bad, sections, bad)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script" not in text.lower()
    assert text.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;") == 9
    assert not re.search(r"https?:|url\(|<link|@import|src=\"(?!data:)", text)
    assert str(tmp_path) not in text


def test_a_small_picture_is_inlined_unchanged_and_a_large_one_as_jpeg(tmp_path: Path) -> None:
    small = write_picture(tmp_path / "small.png", 64)
    large = write_picture(tmp_path / "large.png", 900)
    section = Section("S", figures=[(small, "small"), (large, "large")])
    write_page(tmp_path / "r.html", "T", [section])
    found = re.findall(r"data:image/(\w+);base64,([^\"]+)", (tmp_path / "r.html").read_text())
    assert [kind for kind, _ in found] == ["png", "jpeg"]
    assert base64.b64decode(found[0][1]) == small.read_bytes()
    assert len(base64.b64decode(found[1][1])) < large.stat().st_size / 2


def test_a_page_keeps_dollar_signs(tmp_path: Path) -> None:
    write_page(tmp_path / "r.html", "$title $$", [Section("${x}")])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h1>$title $$</h1>" in text
    assert "<h2>${x}</h2>" in text
