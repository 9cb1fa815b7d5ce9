"""Texts that users and developers read are in plain present-day English.

Checked are the docstrings, comments and messages of milpath and its plugin, and the documentation.
Each word below has the reason or the word to use instead.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

WORDS = {
    # archaic or hard to parse for non-native readers
    r"anew": "again; re-tiled, re-embedded, re-classified",
    r"heed\w*": "use, follow",
    r"thereby|whereof|thence|hitherto|lest|whoever|whosoever": "archaic; use two short sentences",
    r"nobody": "no one; better: say what is not done",
    r"of (its|their) own accord": "automatically",
    r"at hand": "available",
    r"in hand": "current",
    r"mend(s|ed|ing)?": "correct, fix",
    r"to be had": "available",
    r"told": "stopped, given, reported (no personification)",
    r"foresee\w*": "preview",
    r"is another one|are others": "is different; differ",
    r"stands? twice": "is duplicated",
    r"what became of": "outcome of",
    r"the whole way": "end to end",
    r"just the same": "also",
    r"hurried": "fast (preset)",
    r"readily": "sensitivity",
    # riddles and figures of speech
    r"strangers?('s?)?": "untrusted",
    r"seals?|sealed|sealing|unsealed": "integrity footer, checksums",
    r"judge[ds]?|judging|verdicts?": "evaluate, score, classify",
    r"culprits?|suspects?|crowds?|witness(es)?": "failed, retry, sample files",
    r"lamps?": "illumination",
    r"glass": "background",
    r"carry out|carries out": "run",
    r"swept|sweep(s|ing)?": "remove",
    # one word for one thing
    r"outlines?|outlined": "tissue annotation (drawn by a person); contour (of a mask)",
    r"journals?": "run log",
    r"mosaics?": "tile cache",
    r"overviews?": "thumbnail",
    r"drawn slides?": "synthetic slide",
    r"bags of digits|digit bags?": "MNIST bags",
    r"presence": "negative class, instance loss",
    # "per", and whole sentences instead of fragments
    r"(one|a) (label|bag|line|file|row|picture|table|patch|class|bit) an? "
    r"(slide|bag|line|file|row|patch|class|case|process|fold|epoch|step|level)": "one X per Y",
    r"(one|0) (a|for one a) processor": "one per CPU",
    r"bag a slide|object a line|line a slide|patches an? (bag|slide|second|epoch)": "X per Y",
    r"least (share|fraction)|most epochs": "minimum fraction, maximum number of epochs",
    # pydantic's own words
    r"input should be": "see milpath.params.describe_violation",
}
_PATTERN = re.compile(r"(?<![\w-])(" + "|".join(WORDS) + r")(?![\w-])", re.IGNORECASE)
_TEXTS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}

FILES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "milpath").rglob("*.py"),
        *(ROOT / "plugins").glob("*/*.md"),
        *(ROOT / "plugins").glob("*/src/**/*.py"),
    ]
)


def read_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts in a file with their line numbers: of code, its comments and strings."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in _TEXTS:
            yield from enumerate(token.string.splitlines(), token.start[0])


def find_words(path: Path) -> list[str]:
    """Return each listed word in a file, with the line and what to write instead."""
    found = []
    for number, line in read_texts(path):
        for match in _PATTERN.finditer(line):
            word = match.group()
            advice = next(why for rule, why in WORDS.items() if re.fullmatch(rule, word, re.I))
            found.append(f"{path.relative_to(ROOT)}:{number}: {word!r}: {advice}")
    return found


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_a_file_contains_only_plain_words(path: Path) -> None:
    assert not find_words(path), "\n".join(find_words(path))


def test_words_are_found_in_messages_comments_and_documents_but_not_in_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    code = tmp_path / "a.py"
    code.write_text('"""Made anew."""\nx = f"is not at hand {1}"  # told\noutline = journal = 1\n')
    assert [line.split(": ")[1] for line in find_words(code)] == ["'anew'", "'at hand'", "'told'"]
    page = tmp_path / "a.md"
    page.write_text("It learns from one label a slide.\nHeading glasses, resealable.\n")
    (line,) = find_words(page)
    assert line.startswith("a.md:1: 'one label a slide'")
