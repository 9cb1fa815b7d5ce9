"""Bag: the patches of a slide, opened for reading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.formats.bag.header import read_header
from milpath.formats.geometry import read_geometry
from milpath.patches.artefacts import Artefacts
from milpath.slides.closing import Closing
from milpath.store import open_h5


class Bag(Closing):
    """A bag of N patches, opened for reading; a context manager.

    Parameters
    ----------
    path : the bag's file

    Attributes
    ----------
    slide : record of the slide
    grid : the N patches
    header : the other attributes

    Raises
    ------
    StoredFileError : missing, damaged, modified outside milpath, or not a bag
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as stack:
            self._h5 = stack.enter_context(open_h5(path, "bag"))
            self.slide, self.grid = read_geometry(self._h5)
            self.header = read_header(self._h5, len(self.grid))
            self._offsets = self._read_offsets()
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def __len__(self) -> int:
        return len(self.grid)

    @property
    def has_pixels(self) -> bool:
        """Whether it holds the pixels of its patches, not only where they lie."""
        return self.header.params.pixels.codec != "none"

    def require_pixels(self) -> None:
        """Raise `StoredFileError` unless it holds the pixels of its patches."""
        if not self.has_pixels:
            raise StoredFileError(
                f"{self.path.name}: holds no pixels (it was made by tile --coords-only); tile the "
                "slide again without this option"
            )

    def _read_offsets(self) -> NDArray[np.int64] | None:
        if not self.has_pixels:
            return None
        if self._h5.dataset_attr("patches", "codec") != "jpeg":
            self._read_raw(slice(0, 0))
            return None
        offsets = self._h5.read("patch_offsets", "int64", (len(self) + 1,))
        fits = self._h5.shape("patches") == (offsets[-1],)
        if offsets[0] != 0 or not fits or (np.diff(offsets) <= 0).any():
            raise StoredFileError(
                f"{self.path.name}: 'patch_offsets' do not match 'patches'; tile it again"
            )
        return offsets

    def _read_raw(self, rows: Any) -> NDArray[np.uint8]:
        side = self.grid.patch_px
        return self._h5.read("patches", "uint8", (len(self), side, side, 3), rows)

    def read_patches(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read the pixels of some patches.

        Parameters
        ----------
        rows : int64 array (n,) of indices in any order

        Returns
        -------
        uint8 array (n, P, P, 3) in the order of `rows`.

        Raises
        ------
        StoredFileError : damaged there
        """
        self.require_pixels()
        side = self.grid.patch_px
        if self._offsets is None:
            order = np.argsort(rows)
            data = np.empty((len(rows), side, side, 3), np.uint8)
            if len(rows):
                unique, inverse = np.unique(rows[order], return_inverse=True)
                data[order] = self._read_raw(unique)[inverse]
            return data
        patches = np.empty((len(rows), side, side, 3), np.uint8)
        for place, row in enumerate(rows):
            span = slice(int(self._offsets[row]), int(self._offsets[row + 1]))
            jpeg = self._h5.read("patches", "uint8", (None,), span)
            try:  # with `out`, a JPEG of another size or colour space is an error
                imagecodecs.jpeg8_decode(jpeg.tobytes(), out=patches[place])
            except Exception as error:  # the codec's exception class is not public
                raise StoredFileError(
                    f"{self.path.name}: patch {row} is damaged ({error}); tile it again"
                ) from None
        return patches

    def read_artefacts(self) -> Artefacts | None:
        """Read the artefacts of all patches; None in files of earlier versions.

        Raises
        ------
        StoredFileError : damaged, or not 0 to 1
        """
        if "pen" not in self._h5:
            return None
        blur = self._read_scores("blur") if "blur" in self._h5 else None
        return Artefacts(blur, self._read_scores("fold"), self._read_scores("pen"))

    def _read_scores(self, name: str) -> NDArray[np.float32]:
        scores = self._h5.read(name, "float32", (len(self),))
        if not ((scores >= 0) & (scores <= 1)).all():
            raise self._h5.refuse(f"{name!r} is not 0 to 1 everywhere")
        return scores

    def iter_patches(self, batch: int) -> Iterator[NDArray[np.uint8]]:
        """Read all patches in order, up to `batch` at a time; arrays as in `read_patches`."""
        for start in range(0, len(self), batch):
            yield self.read_patches(np.arange(start, min(start + batch, len(self))))
