"""Reading: the pixels of a grid as a stream of patches."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from milpath.errors import SlideReadError
from milpath.params import MAX_UNREADABLE
from milpath.patches.grid import PatchGrid
from milpath.patches.tiff import open_tiff_level
from milpath.patches.tilecache import TileCache
from milpath.slides.closing import Closing
from milpath.slides.resample import frame_windows, resample
from milpath.slides.slide import Slide

log = logging.getLogger(__name__)

_BLOCK = 8  # patches that a thread reads at a time
_BLOCKS_AHEAD = 4  # blocks per thread that are read ahead: this limits the memory

Pixels = NDArray[np.uint8]
Patch = tuple[int, Pixels]
Made = TypeVar("Made")


def stream_patches(
    slide: Slide, grid: PatchGrid, process: Callable[[Pixels], Made], threads: int = 1
) -> Iterator[tuple[int, Made]]:
    """Read the patches of `grid` in its order, with several threads reading ahead.

    Unreadable patches of a damaged file are left out, up to a fraction of `MAX_UNREADABLE`. Memory
    does not grow with the grid: about 32 patches per thread, and the tiles of a `TileCache`.

    Parameters
    ----------
    slide, grid : what to read
    process : called by the threads on each patch, uint8 array (P, P, 3)
    threads : number of threads that read, resample and process

    Yields
    ------
    (row of the grid, result of `process`)

    Raises
    ------
    SlideReadError : more patches are unreadable
    """
    bad: list[SlideReadError] = []
    for row, made in enumerate(_read_ahead(slide, grid, process, threads)):
        if not isinstance(made, SlideReadError):
            yield row, made
            continue
        bad.append(made)
        if len(bad) > MAX_UNREADABLE * len(grid):
            raise SlideReadError(
                f"{bad[0]}; {len(bad)} of the first {row + 1} patches are unreadable; "
                f"expected at most {MAX_UNREADABLE:.0%} of {len(grid)}"
            )
    if bad:
        log.warning(
            "%s: %d of %d patches unreadable, left out", slide.slide_id, len(bad), len(grid)
        )


def _read_ahead(
    slide: Slide, grid: PatchGrid, process: Callable[[Pixels], Made], threads: int
) -> Iterator[Made | SlideReadError]:
    def make_block(start: int) -> list[Made | SlideReadError]:
        rows = range(start, min(start + _BLOCK, len(grid)))
        found = reader.read(rows)
        return [each if isinstance(each, SlideReadError) else process(each) for each in found]

    starts = iter(range(0, len(grid), _BLOCK))
    waiting: deque[Future[list[Made | SlideReadError]]] = deque()
    with (
        _Reader(slide, grid) as reader,
        ThreadPoolExecutor(threads, thread_name_prefix="read") as pool,
    ):
        try:
            for start in islice(starts, threads * _BLOCKS_AHEAD):
                waiting.append(pool.submit(make_block, start))
            while waiting:
                block = waiting.popleft().result()
                for start in islice(starts, 1):
                    waiting.append(pool.submit(make_block, start))
                yield from block
        finally:
            pool.shutdown(cancel_futures=True)


class _Reader(Closing):
    """Reads the patches of a grid in several threads, from the file's tiles where possible."""

    def __init__(self, slide: Slide, grid: PatchGrid) -> None:
        self._slide = slide
        self._grid = grid
        self._local = threading.local()  # one slide per thread: OpenSlide's errors are not shared
        self._stack = ExitStack()
        self._size = grid.patch_px, grid.patch_px
        side = float(grid.patch_size_l0)
        factors = slide.level_factors[grid.level]
        self._windows = frame_windows(grid.coords, (side, side), self._size, factors)
        level = open_tiff_level(slide, grid.level) if len(grid) else None
        self._cache: TileCache | None = None
        if level is not None:
            self._stack.enter_context(level)
            self._cache = TileCache(level, self._windows, slide.background)

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def read(self, rows: Sequence[int]) -> Iterator[Pixels | SlideReadError]:
        """Read the patches of some rows, each only once; yield the error where one is damaged."""
        for row in rows:
            window = None if self._cache is None else self._cache.read(row)
            if window is None:
                yield read_patch(self._thread_slide(), self._grid, row)
            else:
                yield resample(window, self._windows.box(row), self._size)
        if self._cache is not None:
            self._cache.release(rows)

    def _thread_slide(self) -> Slide:
        if not hasattr(self._local, "slide"):
            self._local.slide = self._stack.enter_context(self._slide.reopen())
        slide: Slide = self._local.slide
        return slide


def read_patch(slide: Slide, grid: PatchGrid, row: int) -> Pixels | SlideReadError:
    """Read one patch through OpenSlide, uint8 array (P, P, 3); return the error if it is damaged.

    A `TileCache` gives the same pixels, except at a fractional downsample: there OpenSlide
    interpolates between the level's pixels before milpath does, and the cache does not.
    """
    x, y = (int(value) for value in grid.coords[row])
    side, patch = grid.patch_size_l0, grid.patch_px
    try:
        return slide.read_region((x, y), (side, side), (patch, patch), grid.level)
    except SlideReadError as error:
        return error
