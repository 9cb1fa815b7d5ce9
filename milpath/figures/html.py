"""HTML: a summary page in one self-contained file, pictures included."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from PIL import Image

from milpath.store import publish_text

_MAX_PNG_BYTES = 300_000  # larger pictures are inlined as JPEG
_MAX_INLINE_PX = 1800


@dataclass(frozen=True)
class Section:
    """A section of a page. All text is plain text and is escaped.

    Attributes
    ----------
    title : heading
    paragraphs : one string per paragraph
    table : rows of cells, the first row is the header; None for no table
    figures : (picture file, caption) of each figure
    """

    title: str
    paragraphs: Sequence[str] = ()
    table: Sequence[Sequence[object]] | None = None
    figures: Sequence[tuple[Path, str]] = field(default=())


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6675; --line: #dde2e8;
  --paper: #ffffff; --ground: #f4f6f8; --accent: #31688e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #9aa6b4; --line: #333c47;
  --paper: #1b2027; --ground: #12161b; --accent: #6ec5b8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
.lead { color: var(--soft); margin: 0 0 2rem; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.25rem 1.5rem 1.5rem; margin: 0 0 1.25rem; }
h2 { font-size: 1.2rem; margin: 0 0 .6rem; color: var(--accent); }
p { margin: 0 0 .8rem; max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .4rem 0 .8rem; }
th, td { text-align: left; padding: .4rem 1.4rem .4rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; font-size: .88rem; }
figure { margin: 1rem 0 0; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 8px; background: #fff; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p class="lead">$lead</p>
$body
</main>
</body>
</html>
""")


def write_page(path: Path, title: str, sections: Iterable[Section], lead: str = "") -> None:
    """Write a self-contained HTML page: inlined pictures, no scripts, no external resources.

    Parameters
    ----------
    path : HTML file to write
    title : heading
    sections : in order
    lead : a sentence below the heading
    """
    body = "\n".join(_section_html(section) for section in sections)
    page = _PAGE.substitute(title=html.escape(title), lead=html.escape(lead), body=body)
    publish_text(path, page)


def _section_html(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
    if section.table:
        parts.append(_table_html(section.table))
    for picture, caption in section.figures:
        text = html.escape(caption)
        parts.append(
            f'<figure><img src="{_inline(picture)}" alt="{text}">'
            f"<figcaption>{text}</figcaption></figure>"
        )
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _table_html(rows: Sequence[Sequence[object]]) -> str:
    def cells(row: Sequence[object], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row)

    head, *rest = rows
    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rest)
    return (
        f'<div class="scroll"><table><thead><tr>{cells(head, "th")}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _inline(picture: Path) -> str:
    """Encode a picture as a data URL: unchanged when small, else as JPEG."""
    data = picture.read_bytes()
    kind = "jpeg" if data.startswith(b"\xff\xd8") else "png"
    if len(data) > _MAX_PNG_BYTES:
        with Image.open(io.BytesIO(data)) as image:
            image.thumbnail((_MAX_INLINE_PX, _MAX_INLINE_PX))
            small = io.BytesIO()
            image.convert("RGB").save(small, "jpeg", quality=88, subsampling=0)
        if len(small.getvalue()) < len(data):
            data, kind = small.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
