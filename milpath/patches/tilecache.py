"""TileCache: windows of a level assembled from its tiles, each of them decoded about once.

A tile is kept from the first window that needs it until the last one has been read, however the
windows lie on the tiles. Between two rows of windows about one row of tiles is kept, and never more
than `MAX_KEPT_BYTES`: beyond that, tiles are decoded again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import product

import numpy as np
from numpy.typing import NDArray

from milpath.patches.tiff import TiffLevel
from milpath.slides.resample import Windows

MAX_KEPT_BYTES = 96 << 20
"""Size of the decoded tiles kept for later windows: a row of tiles across 130,000 px of tissue."""

Pixels = NDArray[np.uint8]
_Cell = tuple[int, int]


class TileCache:
    """The windows of a grid on one level; several threads may read them at the same time.

    Parameters
    ----------
    level : where the tiles come from
    windows : all windows that will be read, roughly in this order
    background : RGB of the area outside the level
    """

    def __init__(
        self, level: TiffLevel, windows: Windows, background: tuple[int, int, int]
    ) -> None:
        self._level = level
        self._background = background
        self._tiles: dict[_Cell, Future[Pixels | None]] = {}
        self._lock = threading.Lock()
        self._first = windows.first
        self._extent = windows.extent
        tile, size = np.asarray(level.tile), np.asarray(level.size)
        begin, end = windows.first.clip(0, size), (windows.first + windows.extent).clip(0, size)
        self._from = begin // tile
        self._to = np.where(end > begin, -(-end // tile), self._from)
        self._pending = self._count_windows(level.counts.shape)

    def _count_windows(self, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """Count the windows that need each tile, by a step up and a step down for each window."""
        steps = np.zeros((shape[0] + 1, shape[1] + 1), np.int32)
        for cols, rows, step in (
            (self._from[:, 0], self._from[:, 1], 1),
            (self._to[:, 0], self._from[:, 1], -1),
            (self._from[:, 0], self._to[:, 1], -1),
            (self._to[:, 0], self._to[:, 1], 1),
        ):
            np.add.at(steps, (rows, cols), step)
        return steps.cumsum(axis=0).cumsum(axis=1).astype(np.int32)

    def read(self, window: int) -> Pixels | None:
        """Read a window (height, width, 3); None if one of its tiles is not available.

        Parameters
        ----------
        window : its row in `windows`
        """
        left, top = self._first[window].tolist()
        width, height = self._extent[window].tolist()
        pixels = np.empty((height, width, 3), np.uint8)
        across, down = self._level.size
        if left < 0 or top < 0 or left + width > across or top + height > down:
            pixels[:] = self._background
        tile_width, tile_height = self._level.tile
        for row, col in self._cells(window):
            tile = self._tile(row, col)
            if tile is None:
                return None
            x, y = col * tile_width - left, row * tile_height - top
            right = min(x + tile_width, width, across - left)
            bottom = min(y + tile_height, height, down - top)
            pixels[max(y, 0) : bottom, max(x, 0) : right] = tile[
                max(-y, 0) : bottom - y, max(-x, 0) : right - x
            ]
        return pixels

    def release(self, windows: Sequence[int]) -> None:
        """Mark windows as read; tiles that no other window needs are dropped."""
        with self._lock:
            for window in windows:
                (left, top), (right, bottom) = self._from[window], self._to[window]
                self._pending[top:bottom, left:right] -= 1
            for cell in {cell for window in windows for cell in self._cells(window)}:
                if self._pending[cell] <= 0 or self._kept_bytes() > MAX_KEPT_BYTES:
                    self._tiles.pop(cell, None)

    def _kept_bytes(self) -> int:
        return len(self._tiles) * self._level.tile[0] * self._level.tile[1] * 3

    def _cells(self, window: int) -> Iterator[_Cell]:
        """Return (row, col) of the tiles that a window touches."""
        (left, top), (right, bottom) = self._from[window].tolist(), self._to[window].tolist()
        return product(range(top, bottom), range(left, right))

    def _tile(self, row: int, col: int) -> Pixels | None:
        """Return a tile, decoded by the first thread that needs it; the others wait."""
        with self._lock:
            cell = self._tiles.get((row, col))
            requested = cell is not None
            if cell is None:
                cell = self._tiles[row, col] = Future()
        if not requested:
            try:
                cell.set_result(self._level.read_tile(row, col))
            except BaseException as error:
                cell.set_exception(error)
        return cell.result()
