"""Slide: a whole-slide image, read at an exact resolution.

Every public position is (x, y) in level-0 pixels of the whole canvas, as OpenSlide counts them.
Only an allow-list of properties leaves this module; label and macro images are never opened.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from milpath.errors import ResolutionError, SlideReadError, UnsupportedSlideError
from milpath.params import LEVEL_TOLERANCE, MAX_UPSAMPLING, MPP_ANISOTROPY, MPP_RANGE
from milpath.slides.closing import Closing
from milpath.slides.facts import MppSource, SlideFacts
from milpath.slides.handle import SlideHandle
from milpath.slides.identity import hash_contents
from milpath.slides.pyramid import find_factors
from milpath.slides.reader import FileProperties
from milpath.slides.redaction import name_slide
from milpath.slides.resample import frame_windows, resample
from milpath.slides.resolution import PLAIN_TIFF, find_mpp
from milpath.slides.tiffpages import read_tiff_pages
from milpath.slides.validation import (
    check_columns,
    check_orientation,
    check_pixel_count,
    check_samples,
)

_MIN_OPAQUE = 250  # alpha that some pixel of a slide has


class Slide(Closing):
    """A whole-slide image.

    Parameters
    ----------
    path : the slide's file (for DICOM, any one of its files)
    slide_id : its name in every result; the file's stem by default
    mpp : µm per pixel at level 0 that overrides the file's own
    mpp_source : where `mpp` comes from
    sleep : waits some seconds for a file that is gone for a moment

    Attributes
    ----------
    trusted_levels : which levels were compared with level 0, see `milpath.slides.levels`, and
        whether they show the same

    Raises
    ------
    UnsupportedSlideError : missing, empty, or not a slide that OpenSlide can read
    """

    def __init__(
        self,
        path: str | Path,
        slide_id: str | None = None,
        mpp: float | None = None,
        mpp_source: MppSource = "option",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = Path(path)
        self.slide_id = slide_id or self.path.stem
        self._content_hash: str | None = None
        self.trusted_levels = {0: True}
        self._handle = SlideHandle(self.path, self.slide_id, sleep)
        self._pages = read_tiff_pages(self.path)
        sizes = self.level_dimensions
        try:
            check_pixel_count(self._pages, self.name)
            check_orientation(self._pages, sizes, self.name)
            check_samples(self.path, self.name)
            check_columns(self._pages, self.dimensions, self.name)
        except UnsupportedSlideError:
            self.close()
            raise
        self._file_mpp = find_mpp(self._properties.mpp, self.vendor, self._pages, sizes)
        self._max_alpha = 0
        self._pixels_read = self._clear_read = 0
        self._mpp = mpp
        self._mpp_source: MppSource = self._file_mpp.source if mpp is None else mpp_source

    @property
    def name(self) -> str:
        """Its name in messages: the file's, or only the id if the user gave a different one."""
        return name_slide(self.path, self.slide_id)

    @property
    def is_lost(self) -> bool:
        """Whether the file could not be opened again the last time that was tried."""
        return self._handle.is_lost

    def reopen(self) -> Slide:
        """Open the same slide again, for another thread.

        Raises
        ------
        SlideReadError : the file is gone, or was replaced
        """
        other = copy.copy(self)
        other._handle = self._handle.reopen()
        return other

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    # -- what the file says about itself ---------------------------------------------------------

    @property
    def _properties(self) -> FileProperties:
        return self._handle.reader.properties

    @property
    def vendor(self) -> str:
        """Manufacturer of the scanner as OpenSlide names it, such as "aperio"."""
        return self._properties.vendor

    @property
    def dimensions(self) -> tuple[int, int]:
        """(width, height) of level 0."""
        return self._handle.reader.level_dimensions[0]

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of every level, the largest first."""
        return self._handle.reader.level_dimensions

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Size of level 0 divided by that of each level, averaged over both axes as by OpenSlide.

        They are only nearly right: a position on a level is converted with `level_factors`.
        """
        return self._handle.reader.level_downsamples

    @property
    def level_factors(self) -> tuple[tuple[float, float], ...]:
        """How many pixels of level 0 one pixel of each level covers, (x, y)."""
        return find_factors(self.level_dimensions)

    @property
    def tile_bytes(self) -> NDArray[np.int64] | None:
        """Bytes of each tile of level 0, (rows, cols); None if the file does not say.

        Tiles with more detail have more.
        """
        page = self._pages.find(self.dimensions)
        return None if page is None or page.tile == (0, 0) else page.lengths

    @property
    def objective(self) -> float | None:
        """Magnification of the objective; None if the file does not say."""
        return self._properties.objective

    @property
    def bounds_l0(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the scanned area; the whole canvas if the file does not say."""
        width, height = self.dimensions
        bounds = self._properties.bounds_l0
        if bounds is None:
            return 0, 0, width, height
        x, y, w, h = (round(value) for value in bounds)
        x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
        return x, y, min(max(w, 1), width - x), min(max(h, 1), height - y)

    @property
    def background(self) -> tuple[int, int, int]:
        """RGB of what was not scanned."""
        return self._properties.background_rgb

    @property
    def quickhash(self) -> str:
        """OpenSlide's hash of the slide's contents, or a hash of our own where it has none."""
        given = self._properties.quickhash
        if given:
            return given
        with self.path.open("rb") as file:
            head = file.read(1 << 20)
        facts = f"{self.path.stat().st_size} {self.level_dimensions}".encode()
        return hashlib.sha256(facts + head).hexdigest()

    @property
    def known_size(self) -> tuple[int, int]:
        """(width, height) of level 0, pixels; a record's may be unknown, see `SlideFacts`."""
        return self.dimensions

    @property
    def content_hash(self) -> str:
        """Hash of the slide's size in bytes and of a sample of its level 0.

        Raises
        ------
        SlideReadError : the file is gone
        """
        if self._content_hash is None:
            page = self._pages.find(self.dimensions)
            try:
                self._content_hash = hash_contents(self.path, self._properties, page)
            except OSError as error:
                raise SlideReadError(
                    f"{self.name}: cannot be read ({error.strerror}); copy the slide again"
                ) from None
        return self._content_hash

    @property
    def mpp(self) -> tuple[float, float]:
        """(x, y) µm per pixel at level 0.

        Raises
        ------
        ResolutionError : missing, outside `MPP_RANGE`, or not square within `MPP_ANISOTROPY`
        """
        x, y = (self._mpp, self._mpp) if self._mpp is not None else self.mpp_of_file
        remedy = "give the value with --slide-mpp, or in an mpp column of the cohort CSV"
        if x is None or y is None:
            hint = f" (its objective is {self.objective:g}x)" if self.objective else ""
            raise ResolutionError(
                f"{self.name}: the file does not contain its µm per pixel{hint}; {remedy}"
            )
        low, high = MPP_RANGE
        if not (low <= x <= high and low <= y <= high):
            raise ResolutionError(
                f"{self.name}: {x:g} x {y:g} µm per pixel is not plausible; "
                f"expected {low:g} to {high:g}; {remedy}"
            )
        if abs(x - y) > MPP_ANISOTROPY * min(x, y):
            raise ResolutionError(
                f"{self.name}: pixels are not square ({x:g} x {y:g} µm); expected a difference of "
                f"at most {MPP_ANISOTROPY:.0%}; {remedy}"
            )
        return x, y

    @property
    def mpp_of_file(self) -> tuple[float | None, float | None]:
        """(x, y) µm per pixel in the file, unchecked; None where missing."""
        return self._file_mpp.mpp

    @property
    def mpp_notes(self) -> tuple[str, ...]:
        """What is suspicious about `mpp_of_file`, one phrase each; nothing if `mpp` was given."""
        return self._file_mpp.notes if self._mpp is None else ()

    @property
    def facts(self) -> SlideFacts:
        """The allow-listed properties; raises `ResolutionError` as `mpp` does."""
        width, height = self.dimensions
        mpp_x, mpp_y = self.mpp
        bounds_x, bounds_y = self.bounds_l0[:2]
        return SlideFacts(
            slide_id=self.slide_id,
            vendor=self.vendor,
            width_l0=width,
            height_l0=height,
            mpp_x=mpp_x,
            mpp_y=mpp_y,
            mpp_source=self.mpp_source,
            objective=self.objective,
            quickhash=self.quickhash,
            content_hash=self.content_hash,
            bounds_x_l0=bounds_x,
            bounds_y_l0=bounds_y,
        )

    @property
    def mpp_mean(self) -> float:
        """Geometric mean of `mpp`."""
        x, y = self.mpp
        return math.sqrt(x * y)

    @property
    def mpp_source(self) -> MppSource:
        """Where `mpp` comes from: the slide itself, the cohort CSV, or an option."""
        return self._mpp_source

    # -- pixels ----------------------------------------------------------------------------------

    def check_opaque(self) -> None:
        """Raise `UnsupportedSlideError` if nothing that was read until now is opaque."""
        if self._max_alpha < _MIN_OPAQUE:
            raise UnsupportedSlideError(
                f"{self.name}: all of it is transparent (alpha at most {self._max_alpha} of 255), "
                "as where a fourth sample is no alpha channel; expected opaque pixels; "
                "save it again without the fourth sample"
            )

    @property
    def clear_share(self) -> float:
        """Share of what was read until now of a plain TIFF that is not opaque, 0 to 1.

        0 for scanners' own formats, where what was not scanned is transparent.
        """
        if self.vendor != PLAIN_TIFF or not self._pixels_read:
            return 0.0
        return self._clear_read / self._pixels_read

    def has_cut_columns(self, level: int) -> bool:
        """Return whether the last tiles of a level are shown wrongly: cut tiles of 16-bit grey."""
        page = self._pages.find(self.level_dimensions[level])
        return page is not None and page.cut_grey16

    def _count_inside(self, location_l0: tuple[int, int], level: int, size: tuple[int, int]) -> int:
        """Count the pixels of a rectangle, given as to `read_level`, that lie on the level."""
        first = [round(each / self.level_downsamples[level]) for each in location_l0]
        spans = zip(first, size, self.level_dimensions[level], strict=True)
        return math.prod(max(0, min(at + part, whole) - max(at, 0)) for at, part, whole in spans)

    def level_for(self, mpp: float, remedy: str | None = None) -> int:
        """Return the coarsest level at least as fine as `mpp` (1 % tolerance for rounded tags).

        Parameters
        ----------
        mpp : µm per pixel
        remedy : what the user can do if the slide is too coarse; by default, to give `--mpp`

        Raises
        ------
        ResolutionError : the slide is coarser than `mpp` by more than `MAX_UPSAMPLING`
        """
        finest = self.mpp_mean
        if finest > mpp * MAX_UPSAMPLING:
            raise ResolutionError(
                f"{self.name}: scanned at {finest:.4g} µm per pixel, coarser than the requested "
                f"{mpp:g}; expected at most {MAX_UPSAMPLING:g} times that; "
                f"{remedy or f'give --mpp {finest:.4g} or more'}"
            )
        fine_enough = [
            level
            for level, factors in enumerate(self.level_factors)
            if finest * max(factors) <= mpp * LEVEL_TOLERANCE
        ]
        return fine_enough[-1] if fine_enough else 0

    def read_region(
        self,
        location_l0: tuple[float, float],
        size_l0: tuple[float, float],
        size_px: tuple[int, int],
        level: int,
    ) -> NDArray[np.uint8]:
        """Read a rectangle of the slide, resampled from one level with an antialiasing filter.

        The source box is fractional and the filter sees the pixels around it, so that neighbouring
        rectangles join without a seam and a downsample of 4.0003 causes no shift. Positions on the
        level follow from `level_factors`, whatever OpenSlide makes of its size.

        Parameters
        ----------
        location_l0 : (x, y) of the top-left corner, level-0 pixels
        size_l0 : (width, height) covered, level-0 pixels
        size_px : (width, height) of the result
        level : the pyramid level to read

        Returns
        -------
        uint8 array (height, width, 3); what was not scanned has the colour `background`.

        Raises
        ------
        SlideReadError : the file is damaged there
        """
        window = frame_windows(
            np.array([location_l0]),
            size_l0,
            size_px,
            self.level_factors[level],
            snapped=self.level_downsamples[level],
        )
        x, y = window.start_l0[0].astype(int).tolist()
        width, height = window.extent[0].tolist()
        pixels = self.read_level((x, y), level, (width, height))
        return resample(pixels, window.box(0), size_px)

    def read_level(
        self, location_l0: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Read pixels of a level without resampling, over `background`.

        Parameters
        ----------
        location_l0 : (x, y) of the top-left corner, which is divided by that of
            `level_downsamples` to get pixels of the level
        level : the pyramid level
        size : (width, height), pixels of the level

        Returns
        -------
        uint8 array (height, width, 3).

        Raises
        ------
        SlideReadError : the file is damaged there
        """
        rgba = self.read_rgba(location_l0, level, size)
        alpha = rgba.getchannel("A")
        self._max_alpha = max(self._max_alpha, int(np.asarray(alpha).max()))
        inside = self._count_inside(location_l0, level, size)
        self._pixels_read += inside
        if alpha.getextrema() == (255, 255):
            return np.asarray(rgba.convert("RGB"))
        self._clear_read += max(0, inside - int((np.asarray(alpha) >= _MIN_OPAQUE).sum()))
        canvas = Image.new("RGB", rgba.size, self.background)
        canvas.paste(rgba, mask=alpha)
        return np.asarray(canvas)

    def read_rgba(
        self, location_l0: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Image.Image:
        """Read pixels of a level as `read_level`, RGBA; alpha is 0 where nothing was scanned.

        Where that fails it reads once more: the file may have been gone for a moment.

        Raises
        ------
        SlideReadError : the file is damaged there, or gone
        """
        return self._handle.read_rgba(location_l0, level, size)
