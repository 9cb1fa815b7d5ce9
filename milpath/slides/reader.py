"""SlideReader: what `Slide` needs of a file, and the reader that uses OpenSlide.

OpenSlide is imported here only. Another reader is a class with the members of `SlideReader` and a
line in `open_reader`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from ctypes import ArgumentError
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import openslide
from PIL import Image, ImageColor

Size = tuple[int, int]


class ReaderError(Exception):
    """A file cannot be opened or read. The text is the library's own and may contain paths."""


class UnknownFormatError(ReaderError):
    """A file is in no format that the reader knows."""


@dataclass(frozen=True)
class FileProperties:
    """The properties of a slide's file that milpath uses, unchecked; None where it has none.

    Attributes
    ----------
    vendor : manufacturer of the scanner, such as "aperio"
    mpp : (x, y) µm per pixel at level 0
    objective : magnification of the objective
    bounds_l0 : (x, y, width, height) of the scanned area, level-0 pixels
    background_rgb : colour of what was not scanned
    quickhash : hash of the slide's contents
    series : number of the DICOM series that all files of the slide belong to
    """

    vendor: str
    mpp: tuple[float | None, float | None]
    objective: float | None
    bounds_l0: tuple[float, float, float, float] | None
    background_rgb: tuple[int, int, int]
    quickhash: str | None
    series: str | None = None


class SlideReader(Protocol):
    """An open slide file. After a `ReaderError` reading may fail for ever: open a new one.

    The properties hold nevertheless, also when it is closed.
    """

    @property
    def properties(self) -> FileProperties:
        """What the file says about itself."""

    @property
    def level_dimensions(self) -> tuple[Size, ...]:
        """(width, height) of every level, the largest first."""

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """What `read_rgba` divides a location by to get pixels of each level; never rounded.

        OpenSlide averages both axes. Where the level really lies is `pyramid.find_factors`.
        """

    @property
    def tile_sizes(self) -> tuple[Size, ...]:
        """(width, height) of the tiles of every level, pixels; (0, 0) where unknown."""

    def read_rgba(self, location_l0: tuple[int, int], level: int, size: Size) -> Image.Image:
        """Read pixels of a level, RGBA; alpha is 0 where nothing was scanned.

        Parameters
        ----------
        location_l0 : (x, y) of the top-left corner, level-0 pixels
        level : the pyramid level
        size : (width, height), pixels of the level

        Raises
        ------
        ReaderError : the file is damaged there
        """

    def close(self) -> None:
        """Close the file."""


def open_reader(path: Path) -> SlideReader:
    """Open a slide's file.

    Raises
    ------
    UnknownFormatError : not a slide
    ReaderError : a slide that cannot be opened
    """
    return OpenSlideReader(path)


class OpenSlideReader:
    """A slide file opened with OpenSlide. Its label and macro images are never opened."""

    def __init__(self, path: Path) -> None:
        try:
            self._handle = openslide.OpenSlide(path)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise UnknownFormatError(str(error)) from None
        except openslide.OpenSlideError as error:
            raise ReaderError(str(error)) from None
        try:  # OpenSlide refuses even these after its first error, or when closed
            self._properties = self._read_properties()
            self._dimensions = tuple((int(w), int(h)) for w, h in self._handle.level_dimensions)
            self._downsamples = tuple(float(d) for d in self._handle.level_downsamples)
            self._tile_sizes = self._read_tile_sizes()
        except openslide.OpenSlideError as error:
            self._handle.close()
            raise ReaderError(str(error)) from None

    @property
    def properties(self) -> FileProperties:
        """What the file says about itself."""
        return self._properties

    def _read_properties(self) -> FileProperties:
        given = self._handle.properties
        colour = given.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
        red, green, blue = ImageColor.getrgb(f"#{colour}")[:3]
        mpp_x, mpp_y = (_number(given, f"openslide.mpp-{axis}") for axis in "xy")
        return FileProperties(
            vendor=str(given.get(openslide.PROPERTY_NAME_VENDOR, "unknown")),
            mpp=(mpp_x, mpp_y),
            objective=_number(given, openslide.PROPERTY_NAME_OBJECTIVE_POWER),
            bounds_l0=_bounds(given),
            background_rgb=(red, green, blue),
            quickhash=given.get(openslide.PROPERTY_NAME_QUICKHASH1) or None,
            series=given.get("dicom.SeriesInstanceUID") or None,
        )

    @property
    def level_dimensions(self) -> tuple[Size, ...]:
        """(width, height) of every level, the largest first."""
        return self._dimensions

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """What `read_rgba` divides a location by, see `SlideReader.level_downsamples`."""
        return self._downsamples

    @property
    def tile_sizes(self) -> tuple[Size, ...]:
        """(width, height) of the tiles of every level, pixels; (0, 0) where unknown."""
        return self._tile_sizes

    def _read_tile_sizes(self) -> tuple[Size, ...]:
        given = self._handle.properties
        names = [f"openslide.level[{level}].tile" for level in range(self._handle.level_count)]
        return tuple(
            (int(given.get(f"{name}-width", 0)), int(given.get(f"{name}-height", 0)))
            for name in names
        )

    def read_rgba(self, location_l0: tuple[int, int], level: int, size: Size) -> Image.Image:
        """Read pixels of a level, see `SlideReader.read_rgba`."""
        try:
            rgba: Image.Image = self._handle.read_region(location_l0, level, size)
        except (openslide.OpenSlideError, ArgumentError) as error:  # the latter: it was closed
            raise ReaderError(str(error)) from None
        return rgba

    def close(self) -> None:
        """Close the file, if it is not closed already."""
        with suppress(ArgumentError):
            self._handle.close()


def _bounds(given: Mapping[str, str]) -> tuple[float, float, float, float] | None:
    x, y, width, height = (
        _number(given, name)
        for name in (
            openslide.PROPERTY_NAME_BOUNDS_X,
            openslide.PROPERTY_NAME_BOUNDS_Y,
            openslide.PROPERTY_NAME_BOUNDS_WIDTH,
            openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
        )
    )
    if x is None or y is None or width is None or height is None:
        return None
    return x, y, width, height


def _number(given: Mapping[str, str], name: str) -> float | None:
    """Return a property as a number; None if it is missing, or not a finite number."""
    try:
        value = float(given[name])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) else None
