"""A box of a picture comes out at another size, in its place, the same bytes every time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from support.drawing import Pixels, noise

from milpath.slides.resample import Box, frame_windows, resample

SMOOTH = np.asarray(Image.fromarray(noise(150, 170)).filter(ImageFilter.GaussianBlur(1)))

boxes = st.tuples(st.floats(8, 40), st.floats(8, 40), st.floats(90, 160), st.floats(80, 140))
sizes = st.tuples(st.integers(16, 110), st.integers(16, 110))


def by_pillow(pixels: Pixels, box: Box, size: tuple[int, int]) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box=box))


# -- laws ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(box=boxes, size=sizes, noisy=st.booleans())
def test_it_is_pillows_bicubic_to_a_grey_level_or_two(
    box: Box, size: tuple[int, int], noisy: bool
) -> None:
    pixels = noise(150, 170) if noisy else SMOOTH
    found = resample(pixels, box, size).astype(int)
    expected = by_pillow(pixels, box, size)
    # between its two passes Pillow cuts off what overshoots 0..255: up to an eighth, on noise
    assert np.abs(found - expected).max() <= (40 if noisy else 2)
    assert np.abs(found - expected).mean() < 0.5


@settings(max_examples=40, deadline=None)
@given(box=boxes, size=sizes, colour=st.tuples(*[st.integers(0, 255)] * 3))
def test_one_colour_stays_that_colour(
    box: Box, size: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    flat = np.full((150, 170, 3), colour, np.uint8)
    assert (resample(flat, box, size) == colour).all()


@settings(max_examples=30, deadline=None)
@given(box=boxes, size=sizes)
def test_how_the_pixels_lie_in_memory_changes_no_byte(box: Box, size: tuple[int, int]) -> None:
    wide = np.zeros((150, 200, 3), np.uint8)
    wide[:, 10:180] = SMOOTH
    assert np.array_equal(resample(wide[:, 10:180], box, size), resample(SMOOTH, box, size))


def test_more_rows_than_are_done_at_a_time_join_without_a_seam() -> None:
    tall = noise(900, 80)
    whole = resample(tall, (20.0, 20.0, 60.0, 820.0), (20, 400))
    lower = resample(tall[400:], (20.0, 20.0, 60.0, 420.0), (20, 200))
    assert np.array_equal(whole[200:], lower)


# -- examples --------------------------------------------------------------------------------------


def test_a_box_of_whole_pixels_at_its_own_size_is_a_crop() -> None:
    found = resample(SMOOTH, (10.0, 20.0, 60.0, 50.0), (50, 30))
    assert np.array_equal(found, SMOOTH[20:50, 10:60])
    assert found.base is None or found.base is not SMOOTH


def test_a_window_holds_all_that_the_filter_sees() -> None:
    places = np.array([[0, 0], [37, 1001], [12_345, 6_789]])
    for downsample in (1.0, 4.0, 4.0003, 15.738):
        for snapped in (True, False):
            windows = frame_windows(places, (487.0, 487.0), (64, 64), downsample, snapped)
            reach = 2 * max(1.0, 487 / downsample / 64)
            assert (windows.low >= reach - 1).all()
            assert (windows.extent - windows.high >= reach - 1).all()
            start = windows.start_l0 / downsample
            if snapped:  # OpenSlide leaves whole pixels free before the slide's edge
                start = np.where(start < 0, np.trunc(start), start)
            assert np.allclose(start + windows.low, places / downsample)
