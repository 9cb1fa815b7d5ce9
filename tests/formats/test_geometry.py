"""A file says whether patches lie on a lattice, anywhere or unknown, and on which slide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.predicting import FACTS, make_prediction
from support.untrusted.tamper import edited

from milpath.errors import StoredFileError
from milpath.formats.geometry import compare_slides, find_difference, is_same_slide
from milpath.formats.prediction import (
    Prediction,
    SlideMismatchError,
    check_same_slide,
    read_prediction,
    write_prediction,
)
from milpath.patches.grid import PatchGrid, free_grid, unplaced_grid
from milpath.slides.facts import SlideFacts, unknown_slide

FREE = free_grid(np.array([[3, 5], [10, 5], [700, 1001], [3, 5]]), 64, 64, 0.5)


def written(folder: Path, grid: PatchGrid, slide: SlideFacts = FACTS) -> Path:
    path = folder / "s.prediction.h5"
    write_prediction(path, replace(make_prediction(grid), slide=slide))
    return path


def of(slide: SlideFacts, grid: PatchGrid = FREE) -> Prediction:
    return replace(make_prediction(grid), slide=slide)


# -- places ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1500, 1100), None])
@pytest.mark.parametrize("grid", [FREE, unplaced_grid(4, 224, 0.5)], ids=["free", "unknown"])
def test_places_and_an_unidentified_slide_are_read_back_unchanged(
    tmp_path: Path, grid: PatchGrid, size: tuple[int, int] | None
) -> None:
    slide = unknown_slide("S1", size, 0.25)
    found = read_prediction(written(tmp_path, grid, slide))
    assert found.slide == slide
    assert not found.slide.identified
    assert found.slide.known_size == size
    for name, value in vars(grid).items():
        assert np.array_equal(value, getattr(found.grid, name)), name


def test_a_file_that_does_not_say_how_its_patches_lie_has_a_grid(tmp_path: Path) -> None:
    grid = free_grid(np.array([[3, 5], [67, 69]]), 64, 64, 0.5)
    path = written(tmp_path, grid)
    with edited(path) as h5:
        assert "places" not in h5.attrs
    assert read_prediction(path).grid.places == grid.places == "grid"


@pytest.mark.parametrize(
    ("attrs", "coords", "text"),
    [
        ({"places": "grid"}, FREE.coords, "lie off the grid"),
        ({"places": "elsewhere"}, FREE.coords, "attribute 'places'"),
        ({"places": "unknown"}, FREE.coords, "not zeros"),
        ({}, FREE.coords + np.array([800, 0]), "lie outside the slide"),
        ({}, FREE.coords - np.array([4, 0]), "lie outside the slide"),
        ({"width_l0": 2**30, "height_l0": 2**30}, FREE.coords * 10**6, "strides apart"),
    ],
)
def test_places_that_cannot_be_raise(
    tmp_path: Path, attrs: dict[str, object], coords: np.ndarray, text: str
) -> None:
    path = written(tmp_path, FREE)
    with edited(path) as h5:
        h5.attrs.update(attrs)
        h5["coords"][:] = coords
    with pytest.raises(StoredFileError, match=text):
        read_prediction(path)


def test_patches_far_apart_on_a_huge_slide_are_written_so_that_they_are_read(
    tmp_path: Path,
) -> None:
    grid = free_grid(np.array([[1, 2], [199_990, 2], [8, 149_999]]), 256, 256, 0.25)
    found = read_prediction(written(tmp_path, grid, unknown_slide("S1", (200_000, 150_000), 0.25)))
    assert found.grid.places == "free"


def test_patches_of_other_tools_may_reach_over_the_edge_of_a_slide_that_was_opened(
    tmp_path: Path,
) -> None:
    grid = free_grid(np.array([[0, 0], [1472, 1088]]), 64, 64, 0.5)
    assert grid.places == "grid"
    assert np.array_equal(read_prediction(written(tmp_path, grid)).grid.coords, grid.coords)


# -- which slide -----------------------------------------------------------------------------------

LOOSE = unknown_slide("S1", (1500, 1100), 0.5)


def test_an_unidentified_slide_is_known_by_its_name_and_its_size_where_that_is_known() -> None:
    assert is_same_slide(LOOSE, FACTS)
    assert is_same_slide(FACTS, LOOSE)
    assert is_same_slide(unknown_slide("S1", None, 0.5), FACTS)
    decomposed = unknown_slide("su\N{COMBINING DIAERESIS}d", None, 0.5)  # as macOS writes it
    assert is_same_slide(decomposed, replace(FACTS, slide_id="süd"))
    other = find_difference(replace(LOOSE, slide_id="S2"), FACTS)
    assert "names differ" in (other or "")
    larger = find_difference(replace(LOOSE, width_l0=1501), FACTS)
    assert larger == "their sizes differ: 1501 x 1100 px and 1500 x 1100 px"


def test_two_unidentified_slides_of_different_names_are_different_slides() -> None:
    assert not is_same_slide(LOOSE, unknown_slide("S2", (1500, 1100), 0.5))


def test_hashes_decide_where_both_slides_were_opened_whatever_their_names() -> None:
    assert is_same_slide(FACTS, replace(FACTS, slide_id="another"))
    assert not is_same_slide(FACTS, replace(FACTS, quickhash="1"))


def test_a_prediction_of_an_unidentified_slide_fits_only_where_all_its_patches_lie() -> None:
    loose = of(unknown_slide("S1", None, 0.5))
    check_same_slide(loose, FACTS, "S1.tif", "go")
    small = replace(FACTS, width_l0=700)
    with pytest.raises(
        SlideMismatchError, match=r"patch 2 at \(700, 1001\) lies outside its 700 x"
    ):
        check_same_slide(loose, small, "S1.tif", "go")
    check_same_slide(of(loose.slide, unplaced_grid(4, 64, 0.5)), small, "S1.tif", "go")


def test_a_result_is_made_again_once_its_slide_can_be_opened_or_no_longer() -> None:
    assert compare_slides(LOOSE, LOOSE) == []
    assert compare_slides(LOOSE, FACTS) == ["the slide was not opened then"]
    assert compare_slides(FACTS, LOOSE) == ["the slide was opened then"]
    assert compare_slides(LOOSE, replace(LOOSE, mpp_x=0.4)) == ["its mpp_x changed from 0.5 to 0.4"]
