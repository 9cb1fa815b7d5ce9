"""Resampling: a rectangle of one pyramid level becomes a picture of another size.

A cubic filter as wide as the coarser of the two grids, from a box of fractions of a pixel: the
filter sees the pixels around the box, so that neighbouring pictures join without a seam and a
downsample of 4.0003 shifts nothing. The same pixels give the same bytes on every machine: weights
are whole multiples of 2⁻¹⁵, so that every sum is exact in float32, in whatever order it is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]

_REACH = 2  # of the cubic, in pixels of the coarser grid
_UNIT = 1 << 15  # Σ|w| · 2¹⁵ · 287 < 2²⁴, 287 being what a cubic can make of 255
_ROWS = 256  # result rows at a time: this bounds the memory
_BLOCK = 4  # rows or columns made together; few enough that BLAS stays in its thread
_MAX_APART = 8  # blocks between two that share a product
_SLACK = 1  # source pixels that they may be off an even spacing


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
    (across,) = _plan(left, right, cols, width, 3, width)
    used = slice(max(across.first, 0), min(across.end, cols))
    flat = pixels[:, used].reshape(rows, -1)
    result = np.empty((height, width * 3), np.uint8)
    for number, down in enumerate(_plan(top, bottom, rows, height, 1, _ROWS)):
        squeezed = np.empty((down.count, (across.end - across.first) * 3), np.float32)
        inner = slice((used.start - across.first) * 3, (used.stop - across.first) * 3)
        squeezed[:, : inner.start] = squeezed[:, inner.stop :] = 0
        _squeeze(_pad(flat, down.first, down.end), down, squeezed[:, inner])
        # rounded between the passes, as the second one's sums are exact for whole numbers only
        np.rint(squeezed, out=squeezed)
        strip = np.empty((down.count, across.count * 3), np.float32)
        _squeeze(squeezed.T, across, strip.T)
        np.rint(strip, out=strip)
        part = result[number * _ROWS :][:_ROWS]
        part[:] = np.clip(strip, 0, 255, out=strip)[: len(part), : width * 3]
    return result.reshape(height, width, 3)


def _pad(rows: Pixels, first: int, end: int) -> NDArray[np.float32]:
    """Some rows; zeros for those that lie beyond the picture."""
    padded = np.empty((end - first, rows.shape[1]), np.float32)
    inner = slice(max(first, 0), min(end, len(rows)))
    padded[: inner.start - first] = padded[inner.stop - first :] = 0
    padded[inner.start - first : inner.stop - first] = rows[inner]
    return padded


@dataclass(frozen=True)
class _Product:
    """Blocks of results whose sources are evenly spaced: one stacked product makes them all.

    With a call for each block, threads would wait for each other in Python between them.

    Attributes
    ----------
    blocks : which
    source : where the source of each of them begins
    weights : array (blocks, made, taps), what each source pixel adds to each result
    """

    blocks: slice
    source: slice
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class _Plan:
    """How results along an axis are made.

    Attributes
    ----------
    first, end : the source pixels, of which some may lie beyond the picture
    count : of results, the surplus of the last block included
    taps : source values that each block is made of
    products : that make all blocks; with several channels side by side, the weights between
        different ones are zero
    """

    first: int
    end: int
    count: int
    taps: int
    products: tuple[_Product, ...]


def _squeeze(source: NDArray[np.float32], plan: _Plan, out: NDArray[np.float32]) -> None:
    """Carry out a plan along the first axis."""
    (row, step), width = source.strides, source.shape[1]
    # a sliding_window_view without its checks, which take a sixth of the time
    shape = len(source) - plan.taps + 1, plan.taps, width
    windows = as_strided(source, shape, (row, row, step), writeable=False)
    made = plan.products[0].weights.shape[1]
    blocks = out.reshape(-1, made, out.shape[1])
    for each in plan.products:
        np.matmul(each.weights, windows[each.source], out=blocks[each.blocks])


@lru_cache(maxsize=512)
def _plan(
    low: float, high: float, length: int, count: int, channels: int, most: int
) -> tuple[_Plan, ...]:
    """Plans for all results along an axis, for `most` of them each."""
    weights = _weights(low, high, length, count)
    pace = _BLOCK * (high - low) / count
    # the number of blocks that comes nearest to whole pixels
    every = min(range(1, _MAX_APART + 1), key=lambda n: abs(n * pace - round(n * pace)))
    step = max(1, round(every * pace))
    return tuple(
        _plan_blocks(weights[start : start + most], every, step, channels)
        for start in range(0, count, most)
    )


def _plan_blocks(weights: NDArray[np.float32], every: int, step: int, channels: int) -> _Plan:
    """Join blocks that are `every` blocks apart, where their sources are `step` pixels apart."""
    length = weights.shape[1]
    blocks = np.pad(weights, ((0, -len(weights) % _BLOCK), (0, 0))).reshape(-1, _BLOCK, length)
    used = np.asarray(blocks.any(axis=1))
    begins, ends = used.argmax(axis=1), length - used[:, ::-1].argmax(axis=1)
    runs = []
    for offset in range(min(every, len(blocks))):
        numbers = np.arange(offset, len(blocks), every)
        shifts = step * np.arange(len(numbers))
        shifted = begins[numbers] - shifts, ends[numbers] - shifts
        for run in _runs(*shifted):
            runs.append((numbers[run], shifted[0][run].min() + shifts[run]))
    taps = max(int((ends[numbers] - starts).max()) for numbers, starts in runs)
    first = min(int(starts[0]) for _, starts in runs)
    end = max(int(starts[-1]) for _, starts in runs) + taps
    beyond = max(0, -first), max(0, end - length)
    padded = np.pad(blocks, ((0, 0), (0, 0), beyond))[:, :, first + beyond[0] :]
    products = []
    for numbers, starts in runs:
        at = starts - first
        some = np.stack([padded[k, :, x : x + taps].T for k, x in zip(numbers, at, strict=True)])
        made = np.kron(some, np.eye(channels, dtype=np.float32))
        products.append(
            _Product(
                blocks=slice(int(numbers[0]), int(numbers[-1]) + 1, every),
                source=slice(channels * int(at[0]), channels * int(at[-1]) + 1, channels * step),
                weights=made.swapaxes(1, 2),  # in memory the other way about: BLAS wants it so
            )
        )
    return _Plan(first, end, _BLOCK * len(blocks), channels * taps, tuple(products))


def _runs(begins: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[slice]:
    """Neighbours among some blocks, by where their sources begin and end but for an even spacing.

    Put over each other, these are hardly wider than each alone.
    """
    most = int((ends - begins).max()) + _SLACK
    start = 0
    for stop in range(1, len(begins) + 1):
        here = slice(start, stop + 1)
        if stop == len(begins) or ends[here].max() - begins[here].min() > most:
            yield slice(start, stop)
            start = stop


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
