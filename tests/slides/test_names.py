"""Only safe text is printed, and only names valid on every system become file names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpath.slides.names import folded, is_file_name, is_printable


@pytest.mark.parametrize("name", ["a", "süd-7", "S12.3 b", "日本", "a=b", "console", "x" * 200])
def test_plain_names_are_file_names(name: str) -> None:
    assert is_file_name(name)
    assert is_printable(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "-a", "a/b", "a\\b", "a:b", "a*", "CON", "nul.txt", "Com1", "a.", "a ",
     "a\0", "a\nb", "a\x1b[2J", "a\u202eb", "a\u2028b", "x" * 201, "ü" * 101],
)  # fmt: skip
def test_unsafe_names_are_not_file_names(name: str) -> None:
    assert not is_file_name(name)


@given(name=st.text(max_size=30))
def test_a_file_name_stays_in_its_folder_and_on_one_line(name: str) -> None:
    if is_file_name(name):
        path = Path("folder") / f"{name}.h5"
        assert path.parent == Path("folder")
        assert len(repr(name).splitlines()) == 1
        assert is_printable(name)


def test_names_that_a_file_system_treats_as_the_same_fold_to_one() -> None:
    assert folded("Straße") == folded("STRASSE")
    assert folded("é") == folded("e\u0301")
    assert folded("a") != folded("b")
