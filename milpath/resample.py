"""Resampling: a rectangle of one pyramid level becomes a picture of another size.

A cubic filter as wide as the coarser of the two grids, from a box of fractions of a pixel: the
filter sees the pixels around the box, so that neighbouring pictures join without a seam and a
downsample of 4.0003 shifts nothing. The same pixels give the same bytes on every machine: weights
are whole multiples of 2⁻¹⁵, so that every sum is exact in float32, in whatever order it is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]
_Block = tuple[slice, slice, NDArray[np.float32]]

_REACH = 2  # of the cubic, in pixels of the coarser grid
_UNIT = 1 << 15  # Σ|w| · 2¹⁵ · 287 < 2²⁴, 287 being what a cubic can make of 255
_ROWS = 256  # result rows at a time: this bounds the memory
_BLOCK = 4  # rows or columns of one product; few enough that BLAS stays in its thread


@dataclass(frozen=True)
class Windows:
    """Rectangles of a level's pixels that hold all a filter sees of some regions.

    Attributes
    ----------
    start_l0 : array (N, 2), level-0 (x, y) of their top-left corners
    first : int64 array (N, 2), the same in whole pixels of the level
    extent : int64 array (N, 2), their width and height, pixels of the level
    low, high : arrays (N, 2), where the regions begin and end in them, fractions of a pixel
    """

    start_l0: NDArray[np.float64]
    first: NDArray[np.int64]
    extent: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def box(self, row: int) -> Box:
        """(left, top, right, bottom) of a region in its window."""
        (left, top), (right, bottom) = self.low[row].tolist(), self.high[row].tolist()
        return left, top, right, bottom


def frame_windows(
    locations_l0: NDArray[Any],
    size_l0: tuple[float, float],
    size_px: tuple[int, int],
    downsample: float,
    snapped: bool,
) -> Windows:
    """Where to read so that regions can be resampled.

    Parameters
    ----------
    locations_l0 : (N, 2), level-0 (x, y) of the regions' top-left corners
    size_l0 : (width, height) they cover, level-0 pixels
    size_px : (width, height) they will have
    downsample : of the level that is read
    snapped : windows begin at whole level-0 pixels, as OpenSlide counts; else at whole pixels of
        the level
    """
    covered = np.asarray(size_l0) / downsample
    margin = np.ceil(_REACH * np.maximum(covered / size_px, 1.0))
    if (covered == size_px).all() and not (locations_l0 % downsample).any():
        margin = np.zeros(2)  # whole pixels are copied: a damaged neighbour is none of their matter
    first = np.floor(locations_l0 / downsample) - margin
    start = np.rint(first * downsample) if snapped else first * downsample
    origin = start / downsample
    if snapped:  # OpenSlide puts what lies before the slide's edge at a whole number of pixels
        origin = np.where(start < 0, np.ceil(origin), origin)
    low = locations_l0 / downsample - origin
    high = low + covered
    extent = (np.ceil(high) + margin).astype(np.int64)
    return Windows(start, first.astype(np.int64), extent, low, high)


def resample(pixels: Pixels, box: Box, size_px: tuple[int, int]) -> Pixels:
    """A box of a picture at another size.

    Parameters
    ----------
    pixels : uint8 array (rows, cols, 3)
    box : (left, top, right, bottom), fractions of its pixels
    size_px : (width, height) of the result
    """
    left, top, right, bottom = box
    width, height = size_px
    if (right - left, bottom - top) == size_px and left.is_integer() and top.is_integer():
        return np.array(pixels[int(top) :, int(left) :][:height, :width])
    rows, cols = pixels.shape[:2]
    flat = pixels.reshape(rows, cols * 3)
    result = np.empty((height, width * 3), np.uint8)
    down, across = _blocks(top, bottom, rows, height, 1), _blocks(left, right, cols, width, 3)
    for start in range(0, height, _ROWS):
        some = down[start // _BLOCK : (start + _ROWS) // _BLOCK]
        first = some[0][1].start
        source = flat[first : some[-1][1].stop].astype(np.float32)
        squeezed = np.empty((min(_ROWS, height - start), cols * 3), np.float32)
        for out, used, weights in some:
            part = source[used.start - first : used.stop - first]
            np.matmul(weights.T, part, out=squeezed[out.start - start : out.stop - start])
        # rounded between the passes, as the second one's sums are exact for whole numbers only
        np.rint(squeezed, out=squeezed)
        strip = np.empty((len(squeezed), width * 3), np.float32)
        for out, used, weights in across:
            np.matmul(squeezed[:, used], weights, out=strip[:, out])
        np.rint(strip, out=strip)
        result[start : start + len(strip)] = np.clip(strip, 0, 255, out=strip)
    return result.reshape(height, width, 3)


@lru_cache(maxsize=512)
def _blocks(low: float, high: float, length: int, count: int, channels: int) -> tuple[_Block, ...]:
    """Along one axis: (where a few results go, what they are made of, weights (used, made)).

    With several channels side by side, the weights between different ones are zero.
    """
    weights = _weights(low, high, length, count)
    blocks = []
    for start in range(0, count, _BLOCK):
        some = weights[start : start + _BLOCK]
        first, last = _support(some)
        matrix = np.kron(some[:, first:last].T, np.eye(channels, dtype=np.float32))
        out = slice(channels * start, channels * (start + len(some)))
        used = slice(channels * first, channels * last)
        blocks.append((out, used, np.ascontiguousarray(matrix)))
    return tuple(blocks)


def _support(weights: NDArray[np.float32]) -> tuple[int, int]:
    """First and last + 1 of the columns that are not zero."""
    used = np.flatnonzero(weights.any(axis=0))
    return int(used[0]), int(used[-1]) + 1


def _weights(low: float, high: float, length: int, count: int) -> NDArray[np.float32]:
    """(count, length), each row's sum exactly 1: what each source pixel adds to each result one."""
    scale = (high - low) / count
    width = max(scale, 1.0)
    centres = low + (np.arange(count) + 0.5) * scale
    taps = 2 * math.ceil(_REACH * width) + 1
    places = np.rint(centres).astype(np.intp)[:, None] + np.arange(-(taps // 2) - 1, taps // 2 + 1)
    raw = _cubic((places + 0.5 - centres[:, None]) / width)
    raw[(places < 0) | (places >= length)] = 0
    whole = np.rint(raw * (_UNIT / raw.sum(axis=1, keepdims=True)))
    rows = np.arange(count)
    whole[rows, whole.argmax(axis=1)] += _UNIT - whole.sum(axis=1)
    weights = np.zeros((count, length), np.float32)
    row, tap = np.nonzero(whole)
    weights[row, places[row, tap]] = whole[row, tap] / _UNIT
    return weights


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic convolution kernel with a = -1/2 (Keys 1981): exact for parabolas."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
