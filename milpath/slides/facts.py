"""Facts of a slide: the allow-list of what may be written into results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MppSource = Literal["slide", "ome-xml", "tiff-tag", "cohort", "option", "features"]
"""Where µm per pixel come from: the file (where it contradicts itself, which part of it), the user,
or the file of the slide's features."""

_UNKNOWN_PX = 1  # width and height of a slide of unknown size


@dataclass(frozen=True)
class SlideFacts:
    """The allow-list of a slide's properties that may be written into results.

    Attributes
    ----------
    slide_id : the slide's name in every result
    vendor : manufacturer of the scanner
    width_l0, height_l0 : size of level 0, pixels; 1 x 1 if it is not known
    mpp_x, mpp_y : µm per pixel at level 0
    mpp_source : where `mpp` comes from
    objective : magnification; None if the file does not say
    quickhash : OpenSlide's hash of the slide's metadata and its smallest level; empty if the
        slide was not opened
    content_hash : hash of its size in bytes and of a sample of level 0; None in files of earlier
        versions
    bounds_x_l0, bounds_y_l0 : corner of the scanned area, where QuPath begins to count; None in
        files of earlier versions
    """

    slide_id: str
    vendor: str
    width_l0: int
    height_l0: int
    mpp_x: float
    mpp_y: float
    mpp_source: MppSource
    objective: float | None
    quickhash: str
    content_hash: str | None = None
    bounds_x_l0: int | None = None
    bounds_y_l0: int | None = None

    @property
    def corner(self) -> tuple[int, int] | None:
        """(x, y) of the scanned area, level-0 pixels of the canvas; None if it is not known."""
        if self.bounds_x_l0 is None or self.bounds_y_l0 is None:
            return None
        return self.bounds_x_l0, self.bounds_y_l0

    @property
    def identified(self) -> bool:
        """Whether the slide was opened, so that its contents are known to be those of a file."""
        return bool(self.quickhash)

    @property
    def known_size(self) -> tuple[int, int] | None:
        """(width, height) of level 0, pixels; None if it is not known."""
        if max(self.width_l0, self.height_l0) <= _UNKNOWN_PX:
            return None
        return self.width_l0, self.height_l0


def unknown_slide(slide_id: str, size_l0: tuple[int, int] | None, mpp: float) -> SlideFacts:
    """Return the record of a slide that was not opened, from what the file of its features says.

    Parameters
    ----------
    slide_id : its name
    size_l0 : (width, height) of level 0, pixels; None if the file does not say
    mpp : µm per pixel at level 0
    """
    width, height = size_l0 or (_UNKNOWN_PX, _UNKNOWN_PX)
    return SlideFacts(
        slide_id=slide_id,
        vendor="unknown",
        width_l0=width,
        height_l0=height,
        mpp_x=mpp,
        mpp_y=mpp,
        mpp_source="features",
        objective=None,
        quickhash="",
    )
