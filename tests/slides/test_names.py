"""What may be printed, and what may become a file's name anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpath.slides.names import folded, is_file_name, is_printable


@pytest.mark.parametrize("name", ["a", "süd-7", "S12.3 b", "日本", "a=b", "console", "x" * 200])
def test_plain_names_are_names_of_files(name: str) -> None:
    assert is_file_name(name)
    assert is_printable(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "-a", "a/b", "a\\b", "a:b", "a*", "CON", "nul.txt", "Com1", "a.", "a ",
     "a\0", "a\nb", "a\x1b[2J", "a\u202eb", "a\u2028b", "x" * 201, "ü" * 101],
)  # fmt: skip
def test_others_are_not(name: str) -> None:
    assert not is_file_name(name)


@given(name=st.text(max_size=30))
def test_a_name_of_a_file_stays_in_its_folder_and_in_its_line(name: str) -> None:
    if is_file_name(name):
        path = Path("folder") / f"{name}.h5"
        assert path.parent == Path("folder")
        assert len(repr(name).splitlines()) == 1
        assert is_printable(name)


def test_names_that_some_file_system_takes_for_one_are_folded_alike() -> None:
    assert folded("Straße") == folded("STRASSE")
    assert folded("é") == folded("e\u0301")
    assert folded("a") != folded("b")
