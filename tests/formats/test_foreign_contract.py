"""What holds for every layout of feature files, whichever tool writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milpath.errors import StoredFileError, UsageError
from milpath.formats.foreign import LAYOUTS, detect_features
from milpath.formats.foreign.values import FeatureHints, SlideFeatures
from tests.support.foreign_layouts import DRAWINGS
from tests.support.foreign_tensors import Drawn, draw_features

HINTS = FeatureHints(encoder="net", mpp=0.5, patch_px=256, slide_mpp=0.25)
ID = "S-1.a"


def draw(name: str, folder: Path, drawn: Drawn, slide_id: str = ID) -> Path:
    folder.mkdir(exist_ok=True)
    return DRAWINGS[name].write(folder, slide_id, drawn)


def read(name: str, folder: Path, hints: FeatureHints = HINTS) -> SlideFeatures:
    """Open the slide of a folder, by the layout that is found."""
    for package in DRAWINGS[name].needs:
        pytest.importorskip(package)
    return detect_features(folder).open(ID, hints)


# -- every layout is found -------------------------------------------------------------------------


def test_every_layout_has_a_drawing_and_a_name_of_its_own() -> None:
    names = [each.name for each in LAYOUTS]
    assert {each.layout for each in DRAWINGS.values()} == set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_folder_is_of_the_layout_that_it_was_drawn_in_and_of_no_other(
    tmp_path: Path, name: str
) -> None:
    for at, slide_id in enumerate(["b", "a", "a.b_1"]):
        draw(name, tmp_path, draw_features(seed=at), slide_id)
    found = detect_features(tmp_path)
    assert found.layout.name == DRAWINGS[name].layout
    assert list(found.files) == ["a", "a.b_1", "b"]
    before = LAYOUTS[: [each.name for each in LAYOUTS].index(found.layout.name)]
    assert [each.name for each in before if each.find(tmp_path)] == []


@pytest.mark.parametrize("name", DRAWINGS)
def test_hidden_files_and_files_of_other_kinds_are_no_slides(tmp_path: Path, name: str) -> None:
    path = draw(name, tmp_path, draw_features())
    for beside in (path.with_name(f"._{path.name}"), path.with_name(f".{path.name}.tmp")):
        beside.write_bytes(b"no features")
    (path.parent / "process_list.csv").write_text("slide\n")
    assert list(detect_features(tmp_path).files) == [ID]


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_folder_above_is_enough_unless_it_holds_two(tmp_path: Path, name: str) -> None:
    draw(name, tmp_path / "inside", draw_features())
    found = detect_features(tmp_path)
    assert list(found.files) == [ID]
    assert found.files == detect_features(tmp_path / "inside").files
    draw(name, tmp_path / "other", draw_features())
    with pytest.raises(UsageError, match=r"holds .* inside\S* (or|and|and in) other"):
        detect_features(tmp_path)


# -- what is written is read -----------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWINGS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_what_is_written_is_read_in_its_order(
    tmp_path: Path, name: str, dtype: str, count: int
) -> None:
    drawn = draw_features(count, dtype=dtype)
    draw(name, tmp_path, drawn)
    with read(name, tmp_path) as made:
        assert (made.slide_id, len(made), made.features.shape) == (ID, count, (count, 4))
        assert made.features.dtype == dtype
        np.testing.assert_array_equal(made.features[:], drawn.features)
        np.testing.assert_array_equal(made.features[1:3], drawn.features[1:3])
        rows = np.array([4, 1, 4], np.int64) % max(1, count)
        rows = rows[:count]
        np.testing.assert_array_equal(made.features[rows], drawn.features[rows])
        assert made.coords_l0 is not None
        assert made.coords_l0.dtype == np.int64
        np.testing.assert_array_equal(made.coords_l0, drawn.coords)
        assert made.patch_size_l0 == 512 or not count
        facts = made.facts
        assert (facts.dim, facts.encoder, facts.patch_px, facts.mpp) == (4, "net", 256, 0.5)
        assert facts.layout == DRAWINGS[name].layout
        assert made.size_l0 in (None, (60_000, 60_000))


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_fact_that_the_files_do_not_state_is_none_without_the_user(
    tmp_path: Path, name: str
) -> None:
    draw(name, tmp_path, draw_features())
    with read(name, tmp_path, FeatureHints()) as made:
        found = {
            "encoder": made.facts.encoder,
            "patch_px": made.facts.patch_px,
            "mpp": made.facts.mpp,
            "patch_size_l0": made.patch_size_l0,
        }
    assert {fact for fact, value in found.items() if value is not None} == DRAWINGS[name].stated


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_user_who_contradicts_the_files_is_refused(tmp_path: Path, name: str) -> None:
    draw(name, tmp_path, draw_features())
    wrong: dict[str, Any] = {"encoder": "other", "patch_px": 224, "mpp": 1.0}
    for fact in DRAWINGS[name].stated - DRAWINGS[name].replaced - {"patch_size_l0"}:
        with pytest.raises(StoredFileError) as refused:
            read(name, tmp_path, replace(HINTS, **{fact: wrong[fact]}))
        assert str(wrong[fact]) in str(refused.value)


# -- what cannot be right is refused ---------------------------------------------------------------


def _break_nan(drawn: Drawn) -> None:
    drawn.features[3, 1] = np.nan


def _break_infinity(drawn: Drawn) -> None:
    drawn.features[6, 0] = -np.inf


def _break_size(drawn: Drawn) -> None:
    drawn.features = drawn.features.astype(np.float64) * 1e300


def _break_type(drawn: Drawn) -> None:
    """Bits of bfloat16 as integers."""
    drawn.features = (drawn.features.view(np.uint32) >> 16).astype(np.int16)


def _break_axes(drawn: Drawn) -> None:
    drawn.features = drawn.features.reshape(-1)


def _break_slide(drawn: Drawn) -> None:
    """One vector for the slide instead of one for each patch."""
    drawn.features = drawn.features[0]


def _break_length(drawn: Drawn) -> None:
    drawn.coords = drawn.coords[1:]


def _break_range(drawn: Drawn) -> None:
    drawn.coords[0, 0] = 1 << 40


FAULTS: dict[str, Callable[[Drawn], None]] = {
    "not a number": _break_nan,
    "infinity": _break_infinity,
    "too large": _break_size,
    "whole numbers": _break_type,
    "one axis": _break_axes,
    "a vector per slide": _break_slide,
    "lengths that differ": _break_length,
    "too far": _break_range,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", DRAWINGS)
def test_what_cannot_be_right_is_refused_in_one_line(tmp_path: Path, name: str, fault: str) -> None:
    drawn = draw_features()
    FAULTS[fault](drawn)
    draw(name, tmp_path, drawn)
    with (
        pytest.raises(StoredFileError, match=ID) as refused,
        read(name, tmp_path) as made,
    ):
        made.features[:]
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [name for name in DRAWINGS if name != "zarr"])
@pytest.mark.parametrize("kept", [0, 10, 200])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, name: str, kept: int) -> None:
    whole = draw(name, tmp_path, draw_features(), "z")
    path = draw(name, tmp_path, draw_features())
    path.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(StoredFileError, match=path.name), read(name, tmp_path) as made:
        made.features[:]
