"""A box of a picture is resampled in place, without seams, to the same bytes every time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from support.drawing import Pixels, noise

from milpath.slides.resample import Box, frame_windows, resample

SMOOTH = np.asarray(Image.fromarray(noise(150, 170)).filter(ImageFilter.GaussianBlur(1)))

boxes = st.tuples(st.floats(8, 40), st.floats(8, 40), st.floats(90, 160), st.floats(80, 140))
Pair = tuple[float, float]

sizes = st.tuples(st.integers(16, 110), st.integers(16, 110))


def by_pillow(pixels: Pixels, box: Box, size: tuple[int, int]) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box=box))


# -- laws ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(box=boxes, size=sizes, noisy=st.booleans())
def test_the_result_equals_pillows_bicubic_within_two_grey_levels(
    box: Box, size: tuple[int, int], noisy: bool
) -> None:
    pixels = noise(150, 170) if noisy else SMOOTH
    found = resample(pixels, box, size).astype(int)
    expected = by_pillow(pixels, box, size)
    # between its two passes Pillow clips values outside 0..255: up to an eighth, on noise
    assert np.abs(found - expected).max() <= (40 if noisy else 2)
    assert np.abs(found - expected).mean() < 0.5


@settings(max_examples=40, deadline=None)
@given(box=boxes, size=sizes, colour=st.tuples(*[st.integers(0, 255)] * 3))
def test_a_flat_picture_keeps_its_colour(
    box: Box, size: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    flat = np.full((150, 170, 3), colour, np.uint8)
    assert (resample(flat, box, size) == colour).all()


@settings(max_examples=30, deadline=None)
@given(box=boxes, size=sizes)
def test_the_memory_layout_changes_no_byte(box: Box, size: tuple[int, int]) -> None:
    wide = np.zeros((150, 200, 3), np.uint8)
    wide[:, 10:180] = SMOOTH
    assert np.array_equal(resample(wide[:, 10:180], box, size), resample(SMOOTH, box, size))


def test_strips_of_rows_join_without_a_seam() -> None:
    tall = noise(900, 80)
    whole = resample(tall, (20.0, 20.0, 60.0, 820.0), (20, 400))
    lower = resample(tall[400:], (20.0, 20.0, 60.0, 420.0), (20, 200))
    assert np.array_equal(whole[200:], lower)


CANVAS_PAD = 300
CANVAS = np.pad(noise(200, 230), ((CANVAS_PAD, CANVAS_PAD),) * 2 + ((0, 0),), constant_values=255)


def read(location_l0: Pair, size_px: tuple[int, int], scale_l0: Pair, downsample: float) -> Pixels:
    """A region of `CANVAS`, a level with a downsample, read as `milpath.patches` does."""
    size_l0 = size_px[0] * scale_l0[0], size_px[1] * scale_l0[1]
    windows = frame_windows(np.array([location_l0]), size_l0, size_px, downsample)
    x, y = (windows.first[0] + CANVAS_PAD).tolist()
    width, height = windows.extent[0].tolist()
    window = CANVAS[y : y + height, x : x + width]
    assert window.shape == (height, width, 3)
    return resample(window, windows.box(0), size_px)


@st.composite
def cuts(draw: st.DrawFn) -> list[int]:
    """Positions, from 0 to a size, where a side is cut into up to four pieces."""
    size = draw(st.integers(4, 60))
    return sorted({0, size, *draw(st.lists(st.integers(1, size - 1), max_size=3))})


numbers = st.sampled_from([1.0, 2.0, 0.5]) | st.floats(0.3, 4)
starts = st.integers(-30, 150).map(float) | st.floats(-30, 150)


@settings(max_examples=200, deadline=None)
@given(
    corner=st.tuples(starts, starts),
    scale=st.tuples(numbers, numbers),
    downsample=st.sampled_from([1.0, 2.0, 4.0003]) | st.floats(1, 16),
    cols=cuts(),
    rows=cuts(),
)
def test_a_region_equals_the_same_region_assembled_from_pieces(
    corner: Pair, scale: Pair, downsample: float, cols: list[int], rows: list[int]
) -> None:
    x, y = corner[0] * downsample, corner[1] * downsample
    scale_l0 = scale[0] * downsample, scale[1] * downsample
    whole = read((x, y), (cols[-1], rows[-1]), scale_l0, downsample)
    pieces = np.zeros_like(whole)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(cols):
            start = x + left * scale_l0[0], y + top * scale_l0[1]
            size = right - left, bottom - top
            pieces[top:bottom, left:right] = read(start, size, scale_l0, downsample)
    # positions differ by float64 rounding, which may round a weight to its other neighbour
    difference = np.abs(whole.astype(int) - pieces)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


# -- examples --------------------------------------------------------------------------------------


def test_a_box_of_whole_pixels_at_its_own_size_is_a_crop() -> None:
    found = resample(SMOOTH, (10.0, 20.0, 60.0, 50.0), (50, 30))
    assert np.array_equal(found, SMOOTH[20:50, 10:60])
    assert found.base is None or found.base is not SMOOTH


def test_a_window_contains_everything_the_filter_needs() -> None:
    places = np.array([[0, 0], [37, 1001], [12_345, 6_789]])
    for downsample in (1.0, 4.0, 4.0003, 15.738):
        for snapped in (downsample, 1.003 * downsample, None):
            windows = frame_windows(places, (487.0, 487.0), (64, 64), downsample, snapped)
            reach = 2 * max(1.0, 487 / downsample / 64)
            assert (windows.low >= reach - 1).all()
            assert (windows.extent - windows.high >= reach - 1).all()
            start = windows.start_l0 / (snapped or downsample)
            if snapped:  # before the slide's edge OpenSlide counts in whole pixels
                start = np.where(start < 0, np.trunc(start), start)
            assert np.allclose(start + windows.low, places / downsample)
