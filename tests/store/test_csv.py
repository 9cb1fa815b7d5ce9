"""A CSV table opens in a spreadsheet unchanged, and no cell is evaluated."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from milpath.errors import OutputError
from milpath.store import publish_csv


def read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_a_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [["ä, b", 0.1, 3, None, 'say "x"'], ["two\nlines", -0.5, float("nan"), True, ""]]
    publish_csv(tmp_path / "t.csv", ["a", "b", "c", "d", "e"], rows)
    assert read(tmp_path / "t.csv") == [
        ["a", "b", "c", "d", "e"],
        ["ä, b", "0.1", "3", "", 'say "x"'],
        ["two\nlines", "-0.5", "nan", "True", ""],
    ]
    assert b"\r" not in (tmp_path / "t.csv").read_bytes()


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\t=1", "\r=1"])
def test_a_formula_gets_a_leading_apostrophe(tmp_path: Path, text: str) -> None:
    publish_csv(tmp_path / "t.csv", [text], [[text]])
    assert read(tmp_path / "t.csv") == [["'" + text.replace("\r", "\n")]] * 2


@pytest.mark.parametrize("text", ["-1", "+2.5", "-1e-3", "-inf", "a=1", "", "x-y"])
def test_numbers_and_plain_words_are_kept(tmp_path: Path, text: str) -> None:
    publish_csv(tmp_path / "t.csv", ["h"], [[text]])
    assert read(tmp_path / "t.csv")[1] == [text]


def test_a_table_whose_rows_raise_leaves_no_file(tmp_path: Path) -> None:
    def rows() -> object:
        yield ["x"]
        raise KeyError("y")

    with pytest.raises(KeyError, match="y"):
        publish_csv(tmp_path / "t.csv", ["h"], rows())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "f").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        publish_csv(tmp_path / "f" / "t.csv", ["h"], [])
