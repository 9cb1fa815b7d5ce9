"""The pixels of a grid, read from the slide as a stream."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from milpath.errors import SlideReadError
from milpath.grid import PatchGrid
from milpath.params import MAX_UNREADABLE
from milpath.slide import Slide

log = logging.getLogger(__name__)

_BLOCK = 16  # patches a thread reads at a time
_BLOCKS_AHEAD = 4  # blocks a thread may be ahead: this bounds the memory

Patch = tuple[int, NDArray[np.uint8]]


def stream_patches(slide: Slide, grid: PatchGrid, threads: int = 1) -> Iterator[Patch]:
    """Read the patches of `grid` in its order, several threads reading ahead.

    Patches that the damaged file cannot give are left out, up to `MAX_UNREADABLE` of all.

    Yields
    ------
    (row of the grid, uint8 array (P, P, 3))

    Raises
    ------
    SlideReadError : more patches are unreadable than that
    """
    bad: list[SlideReadError] = []
    for row, pixels in enumerate(_read_ahead(slide, grid, threads)):
        if isinstance(pixels, np.ndarray):
            yield row, pixels
            continue
        bad.append(pixels)
        if len(bad) > MAX_UNREADABLE * len(grid):
            raise SlideReadError(
                f"{bad[0]}; {len(bad)} of its first {row + 1} patches are unreadable, "
                f"at most {MAX_UNREADABLE:.0%} of {len(grid)} may be"
            )
    if bad:
        log.warning(
            "%s: %d of %d patches unreadable, left out", slide.slide_id, len(bad), len(grid)
        )


def _read_ahead(
    slide: Slide, grid: PatchGrid, threads: int
) -> Iterator[NDArray[np.uint8] | SlideReadError]:
    own = threading.local()  # a handle a thread: OpenSlide's error state and cache are not shared
    opened: list[Slide] = []

    def read_block(start: int) -> list[NDArray[np.uint8] | SlideReadError]:
        if not hasattr(own, "slide"):
            own.slide = slide.reopen()
            opened.append(own.slide)
        rows = range(start, min(start + _BLOCK, len(grid)))
        return [read_patch(own.slide, grid, row) for row in rows]

    starts = iter(range(0, len(grid), _BLOCK))
    waiting: deque[Future[list[NDArray[np.uint8] | SlideReadError]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        try:
            for start in islice(starts, threads * _BLOCKS_AHEAD):
                waiting.append(pool.submit(read_block, start))
            while waiting:
                block = waiting.popleft().result()
                for start in islice(starts, 1):
                    waiting.append(pool.submit(read_block, start))
                yield from block
        finally:
            pool.shutdown(cancel_futures=True)
            for each in opened:
                each.close()


def read_patch(slide: Slide, grid: PatchGrid, row: int) -> NDArray[np.uint8] | SlideReadError:
    """One patch, uint8 array (P, P, 3); or, where the file is damaged, the error."""
    x, y = (int(value) for value in grid.coords[row])
    side, patch = grid.patch_size_l0, grid.patch_px
    try:
        return slide.read_region((x, y), (side, side), (patch, patch), grid.level)
    except SlideReadError as error:
        return error
