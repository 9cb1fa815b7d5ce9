"""Frame: from which corner of a slide the coordinates of a file count."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Point = tuple[float, float]
Box = tuple[int, int, int, int]
"""(x, y, width, height), level-0 pixels of the canvas."""


class Frame(StrEnum):
    """A frame of level-0 pixels: QuPath's, or that of the whole canvas.

    QuPath shows a slide cropped to its scanned bounds and counts from their corner, OpenSlide and
    milpath from the corner of the canvas. Where a slide has no bounds, both are the same.
    """

    qupath = "qupath"
    canvas = "canvas"

    def origin(self, corner: Point) -> Point:
        """Return where on the canvas this frame begins.

        Parameters
        ----------
        corner : (x, y) of the slide's bounds, level-0 pixels of the canvas
        """
        return corner if self is Frame.qupath else (0, 0)

    @property
    def other(self) -> Frame:
        """The other one of the two."""
        return Frame.canvas if self is Frame.qupath else Frame.qupath


@dataclass(frozen=True)
class Placement:
    """Where the coordinates of a file lie on a slide.

    Attributes
    ----------
    frame : of the coordinates
    origin : canvas position of their zero, level-0 pixels (x, y)
    recorded : whether the file says so, as those of milpath do
    """

    frame: Frame = Frame.qupath
    origin: Point = (0, 0)
    recorded: bool = False

    def describe(self) -> str:
        """Name the frame and where it begins, for a message."""
        x, y = self.origin
        source = ", which the file records" if self.recorded else ""
        if self.frame is Frame.canvas:
            return f"the frame of the whole canvas{source}"
        return f"QuPath's frame (from x {x:.10g}, y {y:.10g} of the canvas){source}"


AS_ON_CANVAS = Placement()
"""Of a slide without bounds, where both frames are the same."""


def frame_record(frame: Frame, origin: Point) -> dict[str, object]:
    """Build the member `milpath` of a GeoJSON file, from which its placement is read again.

    Parameters
    ----------
    frame : of the file's coordinates
    origin : canvas position of their zero, level-0 pixels (x, y)
    """
    return {"frame": str(frame), "origin": list(origin)}
