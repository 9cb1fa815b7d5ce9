"""A slide as napari's multiscale data, read in tiles and only where it is displayed.

A level is an array (rows, cols, 3) that covers the whole slide: its pixel (r, c) lies at
(c, r) * (size of level 0 / size of the level). The file's levels are unchanged; those that show
something else than level 0 are left out, as by tiling. Coarser levels, each half the size of the
one before, are computed in their place, and until one is as small as a thumbnail; odd sizes are
resampled to the exact positions, so that nothing shifts.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from milpath.errors import SlideReadError
from milpath.slides.lattice import Lattice
from milpath.slides.levels import is_trusted
from milpath.slides.slide import Slide

Pixels = NDArray[np.uint8]
Key = tuple[int, int, int]
Size = tuple[int, int]
FileState = tuple[int, int, int] | None

TILE_PX = 768
"""Side of a tile, pixels; only whole tiles are read."""

CACHE_BYTES = 256 << 20
"""Maximum size of a slide's tiles in memory."""

_COARSEST_PX = 1024  # maximum side of the last level, which napari reads as a whole
_MIN_BLOCK_PX = 32  # a damaged tile is read in quarters down to this side
_FILTER = Image.Resampling.BICUBIC
_MARGIN = 3  # pixels around a box that the filter reads, per unit of downsample
_DAMAGED = ((255, 0, 255), (96, 0, 96))  # magenta, unlike any stain


class TileCache:
    """Cache of the most recently used tiles, up to a number of bytes; thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._tiles: OrderedDict[Key, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, read: Callable[[], Pixels]) -> Pixels:
        """Return a tile, read if it is not cached; drop the least recently used tiles."""
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        tile = read()
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = tile
                self.held_bytes += tile.nbytes
            while self.held_bytes > self.max_bytes and len(self._tiles) > 1:
                self.held_bytes -= self._tiles.popitem(last=False)[1].nbytes
        return tile

    def clear(self) -> None:
        """Drop all tiles."""
        with self._lock:
            self._tiles.clear()
            self.held_bytes = 0


class Level:
    """One level as a lazy array for napari; pixels are read when they are indexed.

    Parameters
    ----------
    size : (width, height)
    tile : reads the tile (row, column), of `TILE_PX`
    """

    dtype = np.dtype(np.uint8)
    ndim = 3
    chunks = (TILE_PX, TILE_PX, 3)

    def __init__(self, size: Size, tile: Callable[[int, int], Pixels]) -> None:
        self.shape = (size[1], size[0], 3)
        self._tile = tile

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return self.size

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:, :], dtype)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Index as NumPy does; read only the tiles under the indexed rows and columns."""
        keys = key if isinstance(key, tuple) else (key,)
        if Ellipsis in keys:
            at, lacking = keys.index(Ellipsis), self.ndim + 1 - len(keys)
            keys = (*keys[:at], *[slice(None)] * lacking, *keys[at + 1 :])
        keys = (*keys, *[slice(None)] * (2 - len(keys)))
        rows, down = _span(keys[0], self.shape[0])
        cols, right = _span(keys[1], self.shape[1])
        return self._read(rows, cols)[(down, right, *keys[2:])]

    def _read(self, rows: range, cols: range) -> Pixels:
        block = np.empty((len(rows), len(cols), 3), np.uint8)
        if not block.size:
            return block
        for row in range(rows.start // TILE_PX, (rows.stop - 1) // TILE_PX + 1):
            for col in range(cols.start // TILE_PX, (cols.stop - 1) // TILE_PX + 1):
                tile = self._tile(row, col)
                down, right = _meet(rows, row, tile.shape[0]), _meet(cols, col, tile.shape[1])
                block[down[0], right[0]] = tile[down[1], right[1]]
        return block


def _span(key: Any, length: int) -> tuple[range, Any]:
    """Return the range of pixels to read for an index, and the index into that range."""
    if isinstance(key, slice):
        touched = range(*key.indices(length))
        if not touched:
            return range(0), slice(None)
        low, high = min(touched[0], touched[-1]), max(touched[0], touched[-1])
        return range(low, high + 1), slice(None, None, touched.step)
    place = int(key) + (length if key < 0 else 0)
    if not 0 <= place < length:
        raise IndexError(f"index {key} is out of bounds for an axis of size {length}")
    return range(place, place + 1), 0


def _meet(wanted: range, tile: int, length: int) -> tuple[slice, slice]:
    """Return the slices of a tile's part of `wanted`: in the block, and in the tile."""
    start = tile * TILE_PX
    low, high = max(wanted.start, start), min(wanted.stop, start + length)
    return slice(low - wanted.start, high - wanted.start), slice(low - start, high - start)


class Pyramid:
    """A slide's levels, from level 0 to one of at most `_COARSEST_PX`.

    Parameters
    ----------
    slide : owned by the pyramid, and closed with it
    cache_bytes : maximum size of the tiles in memory

    Attributes
    ----------
    levels : napari's multiscale data
    quickhash, content_hash, slide_id, known_size : tell the slide from others
    reads : number of tiles read or computed so far, per level
    damaged : number of tiles that are hatched, because they are unreadable in part or as a whole
    """

    def __init__(self, slide: Slide, cache_bytes: int = CACHE_BYTES) -> None:
        self.slide = slide
        self.quickhash, self.content_hash = slide.quickhash, slide.content_hash
        self.slide_id, self.known_size = slide.slide_id, slide.known_size
        self.cache = TileCache(cache_bytes)
        self.damaged = 0
        self._file_when_hatched: FileState = None
        self._lock = threading.RLock()  # one thread at a time: a slide reopens after an error
        planned = _plan_levels(slide)
        sizes = [size for size, _ in planned]
        self._level_of_file = [level for _, level in planned]
        self.sizes: tuple[Size, ...] = tuple(sizes)
        self.reads = [0] * len(sizes)
        self.levels = [Level(size, self._tiles_of(k)) for k, size in enumerate(sizes)]

    @property
    def path(self) -> Path:
        """The slide's file."""
        return self.slide.path

    def describe_damage(self) -> str:
        """Say in a line why tiles are hatched; nothing if none is."""
        if not self.damaged:
            return ""
        name = self.slide.name
        if self.slide.is_lost:
            return f"{name}: the file is gone; the missing parts are hatched until it is back"
        return f"{name}: the file is damaged; the unreadable parts are hatched"

    def retry(self) -> bool:
        """Drop all tiles if some are hatched and the file is back, or another than then.

        Returns whether they were dropped, so that the slide is to be drawn again.
        """
        with self._lock:
            if not self.damaged or not self._is_back():
                return False
            self.damaged = 0
            self.cache.clear()
            return True

    def _is_back(self) -> bool:
        if not self.slide.is_lost:
            return _file_state(self.path) != self._file_when_hatched
        try:
            self.slide.reopen().close()
        except SlideReadError:
            return False
        return True

    def close(self) -> None:
        """Close the file and drop all tiles."""
        with self._lock:
            self.slide.close()
            self.cache.clear()

    def _tiles_of(self, level: int) -> Callable[[int, int], Pixels]:
        read = self._halve if self._level_of_file[level] is None else self._read

        def tile(row: int, col: int) -> Pixels:
            return self.cache.get((level, row, col), lambda: count(row, col))

        def count(row: int, col: int) -> Pixels:
            self.reads[level] += 1
            return read(level, row, col)

        return tile

    def _box(self, level: int, row: int, col: int) -> tuple[int, int, int, int]:
        """(x, y, width, height) of a tile, in pixels of its level."""
        width, height = self.sizes[level]
        x, y = col * TILE_PX, row * TILE_PX
        return x, y, min(TILE_PX, width - x), min(TILE_PX, height - y)

    def _read(self, level: int, row: int, col: int) -> Pixels:
        """Read a tile from the file; hatch unreadable parts."""
        x, y, width, height = self._box(level, row, col)
        rgb = np.empty((height, width, 3), np.uint8)
        of_file = self._level_of_file[level]
        assert of_file is not None
        factors = self.slide.level_factors[of_file]
        with self._lock:
            whole = True
            for top, left, h, w in _blocks(
                height, width, self._reader(of_file, (x, y), factors, rgb), self._is_readable
            ):
                whole = False
                rgb[top : top + h, left : left + w] = _hatching(y + top, x + left, h, w)
            if not whole:
                self.damaged += 1
                self._file_when_hatched = _file_state(self.path)
        return rgb

    def _is_readable(self) -> bool:
        return not self.slide.is_lost

    def _reader(
        self, level: int, corner: tuple[int, int], factors: tuple[float, float], into: Pixels
    ) -> Callable[[int, int, int, int], bool]:
        """Build a function that reads a block of a tile: (top, left, height, width) -> success."""
        lattice = Lattice((0, 0), factors)

        def read(top: int, left: int, h: int, w: int) -> bool:
            x, y = lattice.to_l0((corner[1] + top, corner[0] + left)).tolist()
            width, height = lattice.size_to_l0((h, w)).tolist()
            try:
                into[top : top + h, left : left + w] = self.slide.read_region(
                    (x, y), (width, height), (w, h), level
                )
            except SlideReadError:
                return False
            return True

        return read

    def _halve(self, level: int, row: int, col: int) -> Pixels:
        """Compute a tile of a level that the file lacks from the next finer level."""
        x, y, width, height = self._box(level, row, col)
        finer = self.levels[level - 1]
        spans, box = [], []
        for start, length, axis in ((x, width, 0), (y, height, 1)):
            scale = self.sizes[level - 1][axis] / self.sizes[level][axis]
            low = max(0, math.floor(start * scale) - 2 * _MARGIN)
            high = min(
                self.sizes[level - 1][axis], math.ceil((start + length) * scale) + 2 * _MARGIN
            )
            spans.append(slice(low, high))
            box.append((start * scale - low, (start + length) * scale - low))
        picture = Image.fromarray(np.ascontiguousarray(finer[spans[1], spans[0]]))
        (left, right), (top, bottom) = box
        return np.asarray(picture.resize((width, height), _FILTER, box=(left, top, right, bottom)))


def _plan_levels(slide: Slide) -> list[tuple[Size, int | None]]:
    """Plan the levels to display: their sizes, and their numbers in the file, None if computed."""
    planned: list[tuple[Size, int | None]] = []
    for level, size in enumerate(slide.level_dimensions):
        if is_trusted(slide, level):
            planned.append((size, level))
        else:
            while max(half := _halve_size(planned[-1][0])) >= max(size):  # not below the next level
                planned.append((half, None))
    while max(planned[-1][0]) > _COARSEST_PX:
        planned.append((_halve_size(planned[-1][0]), None))
    return planned


def _halve_size(size: Size) -> Size:
    return -(-size[0] // 2), -(-size[1] // 2)


def _file_state(path: Path) -> FileState:
    """Return what tells a file from another at the same path; None if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _blocks(
    height: int,
    width: int,
    read: Callable[[int, int, int, int], bool],
    worthwhile: Callable[[], bool],
) -> Iterator[tuple[int, int, int, int]]:
    """Read a tile, or recursively its quarters where that fails; yield the failed blocks.

    Parameters
    ----------
    height, width : of the tile, pixels
    read : reads a block (top, left, height, width) and returns whether it could
    worthwhile : whether smaller blocks are worth a try
    """
    waiting = [(0, 0, height, width)]
    while waiting:
        top, left, h, w = waiting.pop()
        if read(top, left, h, w):
            continue
        if max(h, w) <= _MIN_BLOCK_PX or not worthwhile():
            yield top, left, h, w
            continue
        halves = [(top, -(-h // 2)), (top + -(-h // 2), h // 2)]
        for down, high in halves:
            for right, wide in ((left, -(-w // 2)), (left + -(-w // 2), w // 2)):
                if high and wide:
                    waiting.append((down, right, high, wide))


def _hatching(top: int, left: int, height: int, width: int) -> Pixels:
    """Draw diagonal stripes, continuous across blocks, (height, width, 3)."""
    place = np.add.outer(np.arange(top, top + height), np.arange(left, left + width))
    bright, dark = np.array(_DAMAGED, np.uint8)
    striped: Pixels = np.where((place // 8 % 2)[..., None], bright, dark)
    return striped
