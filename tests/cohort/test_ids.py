"""Ids made from paths are safe, stable, and differ where the paths do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpath.cohort.ids import id_from_path, safe_id
from milpath.slides.names import is_file_name

ROOT = Path("/data")
names = st.text(
    st.sampled_from("aB_.-% :\\*\x07\u202eü\udcff"), min_size=1, max_size=6
).filter(lambda name: name not in (".", ".."))  # fmt: skip
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: Path(*parts))


@pytest.mark.parametrize(
    ("path", "slide_id"),
    [
        ("x.tif", "x"),
        ("sub/x.tif", "sub__x"),
        ("a/b c/x.ome.tif", "a__b c__x.ome"),
        ("a_b/x_1.svs", "a_b__x_1"),
        ("a__b/x.svs", "a%5F%5Fb__x"),
        ("a_/x.svs", "a%5F__x"),
        ("case 1: left.tif", "case 1%3A left"),
        (".hidden/-x.svs", "%2Ehidden__%2Dx"),
    ],
)
def test_an_id_shows_the_path(path: str, slide_id: str) -> None:
    assert id_from_path(ROOT / path, ROOT) == slide_id


def test_long_and_reserved_names_get_a_digest() -> None:
    long, other = (id_from_path(ROOT / f"{letter * 250}/x.svs", ROOT) for letter in "ab")
    assert is_file_name(long)
    assert long != other
    assert id_from_path(ROOT / "con.svs", ROOT).endswith("__con")


@given(one=paths, two=paths)
def test_ids_are_safe_and_differ_where_the_paths_do(one: Path, two: Path) -> None:
    found = [id_from_path(ROOT / path, ROOT, suffix=False) for path in (one, two)]
    assert all(map(is_file_name, found))
    assert (found[0] == found[1]) == (one == two)


@given(name=names)
def test_a_name_that_is_no_id_gets_one(name: str) -> None:
    assert is_file_name(safe_id(name, "a"))
    assert safe_id(name, "a") == safe_id(name, "a") != safe_id(name, "b")
