"""Slides of many vendors open as layers, intact or damaged; needs MILPATH_TEST_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Layer

from milpath.slides.slide import Slide
from napari_milpath.layers import mpp_of, slide_layer
from napari_milpath.pyramid import Pyramid

SLIDES = (
    "slides/lscc_HE3.svs",
    "slides/CMU-1-Small-Region.svs",
    "slides/TCGA-CR-7395-01A-01-TS1.svs",
    "slides/hamamatsu_DAPI.ndpi",
    "slides/mirax_partial/Mirax2-Fluorescence-2.mrxs",
    "slides/dicom_cmu_multilevel/level-0-frames-0-30.dcm",
    "slides/boxes.tiff",
    "slides/small_😐.svs",
    "slides/tiny_2x1.tiff",
)


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("MILPATH_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real slides; set MILPATH_TEST_DATA to their folder")
    return Path(folder)


@pytest.mark.parametrize("name", SLIDES)
def test_opens_by_reading_only_the_coarsest_level(data: Path, name: str) -> None:
    with Slide(data / name) as slide:
        pyramid = Pyramid(slide)
        made = Layer.create(*slide_layer(pyramid))
        assert made.multiscale or len(pyramid.levels) == 1
        assert max(pyramid.sizes[-1]) <= 1024
        assert sum(pyramid.reads[: len(slide.level_dimensions) - 1]) == 0
        units = {str(unit) for unit in made.units}
        assert units == ({"pixel"} if mpp_of(pyramid) is None else {"micrometer"})
        assert np.asarray(pyramid.levels[-1][:8, :8]).shape[2] == 3


@pytest.mark.slow
def test_shows_all_intact_parts_of_a_damaged_slide(data: Path) -> None:
    with (
        Slide(data / "broken/bitrot_TCGA.svs") as damaged,
        Slide(data / "slides/TCGA-CR-7395-01A-01-TS1.svs") as intact,
    ):
        shown, expected = Pyramid(damaged).levels[0][:, :], Pyramid(intact).levels[0][:, :]
    hatched = (shown == (255, 0, 255)).all(axis=-1) | (shown == (96, 0, 96)).all(axis=-1)
    assert 0.01 < hatched.mean() < 0.04  # 4 of 252 tiles and their edges
    # some damaged bytes still decode, to wrong pixels that no reader can detect
    assert (shown != expected)[~hatched].mean() < 0.005
