"""Handle of a slide's file: opened once, and again where the file was gone for a moment."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from milpath.errors import SlideReadError, UnsupportedSlideError
from milpath.slides.reader import ReaderError, SlideReader, UnknownFormatError, open_reader
from milpath.slides.redaction import name_slide, redact_path
from milpath.slides.validation import check_tile_size, guess_content

_REOPEN_WAITS = (0.5, 1.0, 2.0)  # seconds between tries to open a file that is gone
_MAX_FUTILE = 16  # then the file is damaged, and a second read of each place only costs time


class SlideHandle:
    """An open slide file.

    Parameters
    ----------
    path : the slide's file (for DICOM, any one of its files)
    slide_id : its name in every result
    sleep : waits some seconds for a file that is gone for a moment

    Attributes
    ----------
    reader : what is open now; another after a failed read, and none of its facts differ
    is_lost : whether the last try to open the file again failed

    Raises
    ------
    UnsupportedSlideError : missing, empty, or not a slide that OpenSlide can read
    """

    def __init__(self, path: Path, slide_id: str, sleep: Callable[[float], None]) -> None:
        self._path = path
        self._slide_id = slide_id
        self._name = name_slide(path, slide_id)
        self._sleep = sleep
        self.is_lost = False
        self._futile = 0  # reads in a row that a new reader did not help
        self.reader = self._open()

    def reopen(self) -> SlideHandle:
        """Open the same file again, for another thread.

        Raises
        ------
        SlideReadError : the file is gone, or was replaced
        """
        other = copy.copy(self)
        other.reader = other._open_again()
        return other

    def close(self) -> None:
        """Close the file."""
        self.reader.close()

    def read_rgba(
        self, location_l0: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Image.Image:
        """Read pixels of a level, RGBA; alpha is 0 where nothing was scanned.

        Where that fails it reads once more: the file may have been gone for a moment.

        Raises
        ------
        SlideReadError : the file is damaged there, or gone
        """
        if self.is_lost:
            self._renew()
        try:
            return self.reader.read_rgba(location_l0, level, size)
        except ReaderError as error:
            failure = error
        self._renew()
        if self._futile < _MAX_FUTILE:
            try:
                rgba = self.reader.read_rgba(location_l0, level, size)
                self._futile = 0
                return rgba
            except ReaderError as error:
                failure = error
            self._futile += 1
            self._renew()
        x, y = location_l0
        raise SlideReadError(
            f"{self._name}: cannot be read at level {level}, x {x}, y {y} "
            f"({self._redact(failure)}); copy the slide again"
        )

    def _open(self) -> SlideReader:
        name = self._name
        try:
            if not self._path.exists():
                raise UnsupportedSlideError(f"{name}: no such file; check the path")
            if self._path.is_dir():
                raise UnsupportedSlideError(f"{name}: a folder, not a slide; give a file in it")
            with self._path.open("rb") as file:
                if not file.read(1):
                    raise UnsupportedSlideError(f"{name}: the file is empty; copy it again")
        except OSError as error:
            raise UnsupportedSlideError(
                f"{name}: cannot be read ({error.strerror}); check the path and its permissions"
            ) from None
        try:
            reader = open_reader(self._path)
        except UnknownFormatError:
            raise UnsupportedSlideError(
                f"{name}: not a slide that OpenSlide can read ({guess_content(self._path)}); "
                "expected SVS, NDPI, MIRAX, DICOM, tiled pyramidal TIFF or similar; "
                "copy it again or convert it"
            ) from None
        except ReaderError as error:
            raise UnsupportedSlideError(
                f"{name}: cannot be opened as a slide ({self._redact(error)}); expected a complete "
                "file of a format that OpenSlide can read; copy it again or convert it"
            ) from None
        try:
            check_tile_size(reader.tile_sizes, name)
        except UnsupportedSlideError:
            reader.close()
            raise
        return reader

    def _open_again(self) -> SlideReader:
        """Open the file again, and wait a little if it is gone; only once until it is back."""
        waits = () if self.is_lost else _REOPEN_WAITS
        for wait in (*waits, None):
            try:
                reader = self._open()
                break
            except UnsupportedSlideError as error:
                if wait is None:
                    self.is_lost = True
                    raise SlideReadError(
                        f"{error} (it was there when it was opened; tried {len(waits) + 1} times)"
                    ) from None
                self._sleep(wait)
        self.is_lost = False
        old, new = self.reader, reader
        if (old.level_dimensions, old.properties) != (new.level_dimensions, new.properties):
            reader.close()
            raise SlideReadError(
                f"{self._name}: is a different file than when it was opened; run it again"
            )
        return reader

    def _renew(self) -> None:
        """Replace the handle: OpenSlide fails every later call on one after its first error."""
        reader = self._open_again()
        self.reader.close()
        self.reader = reader

    def _redact(self, error: ReaderError) -> str:
        return " ".join(redact_path(str(error), self._path, self._slide_id).split())
