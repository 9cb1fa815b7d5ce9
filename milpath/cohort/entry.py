"""SlideEntry: a slide to process, and what its cohort says about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from milpath.cohort.workitem import WorkItem
from milpath.errors import AnnotationError, UnsupportedSlideError
from milpath.slides.facts import MppSource
from milpath.slides.frame import Box, Frame
from milpath.slides.slide import Slide

if TYPE_CHECKING:
    from milpath.slides.annotation import Annotation

ANNOTATION_SUFFIX = ".geojson"


@dataclass(frozen=True)
class SlideEntry(WorkItem):
    """A slide of a cohort, and what the cohort says about it."""

    label: str | None = None
    case: str | None = None
    mpp: float | None = None
    mpp_source: MppSource = "slide"
    split: str | None = None
    site: str | None = None
    annotation: Path | None = None
    """GeoJSON of tissue drawn by a person; without it, tissue is detected."""
    frame: Frame = Frame.qupath
    """Of the annotation's coordinates, unless its file records its own."""
    fault: str | None = None
    """Why it cannot be processed, one line; found while its folder was searched."""

    def absolute(self) -> Self:
        """Return the entry with absolute paths."""
        annotation = self.annotation and self.annotation.absolute()
        return replace(super().absolute(), annotation=annotation)

    def open(self) -> Slide:
        """Open the slide; raise as `Slide` does, and `UnsupportedSlideError` for a fault."""
        if self.fault is not None:
            raise UnsupportedSlideError(self.fault)
        return Slide(self.path, self.slide_id, self.mpp, self.mpp_source)

    def read_annotation(self, bounds: Box | None = None) -> Annotation | None:
        """Read its tissue annotation; raise `AnnotationError`, also where the file is missing.

        Parameters
        ----------
        bounds : (x, y, width, height) of the slide's scanned area; None if it is not known
        """
        if self.annotation is None:
            return None
        from milpath.slides.annotation import read_annotation  # half a second of SciPy

        if not self.annotation.exists():
            raise AnnotationError(
                f"{self.slide_id}: has no tissue annotation; expected "
                f"{annotation_path(Path(), self.slide_id)} in "
                "the folder of annotations"
            )
        name = f"{self.slide_id}: its annotation"
        return read_annotation(self.annotation, name, bounds, self.frame)


def annotation_path(folder: Path, slide_id: str) -> Path:
    """Tissue annotation of a slide in a folder of annotations."""
    return folder / f"{slide_id}{ANNOTATION_SUFFIX}"
