"""Resampling: convert a rectangle of one pyramid level to a picture of another size.

A cubic filter as wide as the coarser of the two grids is applied to a box with fractional edges.
The filter sees the pixels around the box, so that neighbouring pictures join without a seam and a
downsample of 4.0003 causes no shift. The same pixels give the same bytes on every machine: weights
are whole multiples of 2⁻¹⁵, so that every sum is exact in float32 in any order.
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

_REACH = 2  # of the cubic filter, in pixels of the coarser grid
_UNIT = 1 << 15  # Σ|w| · 2¹⁵ · 287 < 2²⁴; a cubic filter can raise 255 to 287
_ROWS = 256  # result rows computed at a time: this limits the memory
_BLOCK = 4  # rows or columns computed together; few enough that BLAS uses one thread
_MAX_APART = 8  # distance in blocks between two that share a product
_SLACK = 1  # source pixels by which their spacing may be uneven


@dataclass(frozen=True)
class Windows:
    """Rectangles of a level's pixels that contain everything the filter needs for some regions.

    Attributes
    ----------
    start_l0 : array (N, 2), level-0 (x, y) of their top-left corners
    first : int64 array (N, 2), the same in whole pixels of the level
    extent : int64 array (N, 2), their width and height, pixels of the level
    low, high : arrays (N, 2), start and end of the regions in them, fractions of a pixel
    """

    start_l0: NDArray[np.float64]
    first: NDArray[np.int64]
    extent: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def box(self, row: int) -> Box:
        """Return (left, top, right, bottom) of a region in its window."""
        (left, top), (right, bottom) = self.low[row].tolist(), self.high[row].tolist()
        return left, top, right, bottom


def frame_windows(
    locations_l0: NDArray[Any],
    size_l0: tuple[float, float],
    size_px: tuple[int, int],
    downsample: float | tuple[float, float],
    snapped: float | None = None,
) -> Windows:
    """Compute which windows to read so that regions can be resampled.

    Parameters
    ----------
    locations_l0 : (N, 2), level-0 (x, y) of the regions' top-left corners
    size_l0 : (width, height) they cover, level-0 pixels
    size_px : (width, height) of the results
    downsample : level-0 pixels per pixel of the level, for both axes or (x, y)
    snapped : start windows at whole level-0 pixels, which the reader divides by this number to get
        pixels of the level, as OpenSlide does; by default at whole pixels of the level
    """
    factors = np.asarray(downsample, np.float64)
    covered = np.asarray(size_l0) / factors
    places = locations_l0 / factors
    margin = np.ceil(_REACH * np.maximum(covered / size_px, 1.0))
    if (covered == size_px).all() and _are_exact(places, snapped):
        margin = np.zeros(2)  # whole pixels are copied: damaged neighbours do not matter
    first = np.floor(places) - margin
    if snapped is None:
        start, origin = first * factors, first
    else:
        start = np.rint(first * snapped)
        origin = start / snapped
        # OpenSlide places the area before the slide's edge at a whole number of pixels
        origin = np.where(start < 0, np.ceil(origin), origin)
    low = places - origin
    high = low + covered
    extent = (np.ceil(high) + margin).astype(np.int64)
    return Windows(start, first.astype(np.int64), extent, low, high)


def _are_exact(places: NDArray[np.float64], snapped: float | None) -> bool:
    """Return whether all places are whole pixels of the level and a reader can start at them."""
    if (places % 1).any():
        return False
    starts = places * (snapped or 1)
    return bool((np.rint(starts) / (snapped or 1) == places).all())


def resample(pixels: Pixels, box: Box, size_px: tuple[int, int]) -> Pixels:
    """Resample a box of a picture to another size.

    Parameters
    ----------
    pixels : uint8 array (rows, cols, 3)
    box : (left, top, right, bottom), fractions of its pixels
    size_px : (width, height) of the result

    Returns
    -------
    uint8 array (height, width, 3).
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
        # round between the passes: the sums of the second are exact for whole numbers only
        np.rint(squeezed, out=squeezed)
        strip = np.empty((down.count, across.count * 3), np.float32)
        _squeeze(squeezed.T, across, strip.T)
        np.rint(strip, out=strip)
        part = result[number * _ROWS :][:_ROWS]
        part[:] = np.clip(strip, 0, 255, out=strip)[: len(part), : width * 3]
    return result.reshape(height, width, 3)


def _pad(rows: Pixels, first: int, end: int) -> NDArray[np.float32]:
    """Return some rows as float32, with zeros for those outside the picture."""
    padded = np.empty((end - first, rows.shape[1]), np.float32)
    inner = slice(max(first, 0), min(end, len(rows)))
    padded[: inner.start - first] = padded[inner.stop - first :] = 0
    padded[inner.start - first : inner.stop - first] = rows[inner]
    return padded


@dataclass(frozen=True)
class _Product:
    """Blocks of results whose sources are evenly spaced, computed by one stacked product.

    With one call per block, threads would wait for Python's lock between the calls.

    Attributes
    ----------
    blocks : which blocks
    source : start of each block's source
    weights : array (blocks, results, taps), weight of each source pixel in each result
    """

    blocks: slice
    source: slice
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class _Plan:
    """How results along an axis are computed.

    Attributes
    ----------
    first, end : range of the source pixels; some may lie outside the picture
    count : number of results, including the padding of the last block
    taps : number of source values per block
    products : compute all blocks; with several channels side by side, the weights between
        different channels are zero
    """

    first: int
    end: int
    count: int
    taps: int
    products: tuple[_Product, ...]


def _squeeze(source: NDArray[np.float32], plan: _Plan, out: NDArray[np.float32]) -> None:
    """Apply a plan along the first axis."""
    (row, step), width = source.strides, source.shape[1]
    # as sliding_window_view, without its checks, which take a sixth of the time
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
    """Plan all results along an axis, at most `most` of them per plan."""
    weights = _weights(low, high, length, count)
    pace = _BLOCK * (high - low) / count
    # the number of blocks whose sources span most nearly a whole number of pixels
    every = min(range(1, _MAX_APART + 1), key=lambda n: abs(n * pace - round(n * pace)))
    step = max(1, round(every * pace))
    return tuple(
        _plan_blocks(weights[start : start + most], every, step, channels)
        for start in range(0, count, most)
    )


def _plan_blocks(weights: NDArray[np.float32], every: int, step: int, channels: int) -> _Plan:
    """Group blocks that are `every` blocks apart if their sources are `step` pixels apart."""
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
                weights=made.swapaxes(1, 2),  # transposed in memory, as BLAS needs it
            )
        )
    return _Plan(first, end, _BLOCK * len(blocks), channels * taps, tuple(products))


def _runs(begins: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[slice]:
    """Split blocks into runs whose sources, shifted onto each other, are hardly wider than one.

    `begins` and `ends` are the sources' ranges less the even spacing.
    """
    most = int((ends - begins).max()) + _SLACK
    start = 0
    for stop in range(1, len(begins) + 1):
        here = slice(start, stop + 1)
        if stop == len(begins) or ends[here].max() - begins[here].min() > most:
            yield slice(start, stop)
            start = stop


def _weights(low: float, high: float, length: int, count: int) -> NDArray[np.float32]:
    """Compute the weight of each source pixel in each result, (count, length); rows sum to 1."""
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
    """Evaluate the cubic convolution kernel with a = -1/2 (Keys 1981): exact for parabolas."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
