"""Album: the patches most worth looking at, one after the other, and what was said of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from milpath.errors import SlideReadError, UsageError
from milpath.export import write_patches
from milpath.formats.prediction import Prediction
from milpath.patches.grid import PatchGrid
from milpath.slides.slide import Slide
from napari_milpath.inspection import Inspection
from napari_milpath.picks import pick_patches
from napari_milpath.pyramid import Pyramid

Mark = Literal["relevant", "not", "unsure"]

THUMB_PX = 128
"""Side of a thumbnail."""


class Album:
    """The strongest or weakest patches of what is inspected.

    Parameters
    ----------
    inspection : whose scores decide, and which flies there
    """

    changed = Signal()
    """Other patches were picked, or the same ones of another prediction or slide."""

    rescored = Signal()
    """The same patches have other scores."""

    marked = Signal(int)
    """A patch was marked: its row."""

    def __init__(self, inspection: Inspection) -> None:
        self.inspection = inspection
        self.count = 20
        self.weakest = False
        self.rows: NDArray[np.int64] = np.zeros(0, np.int64)
        self.marks: dict[int, Mark] = {}
        self._kept: list[tuple[Prediction, dict[int, Mark]]] = []
        self._of: tuple[Prediction | None, Pyramid | None] = (None, None)
        inspection.changed.connect(self.refresh)
        self.refresh()

    def pick(self, count: int, *, weakest: bool) -> None:
        """How many patches, and from which end."""
        self.count, self.weakest = count, weakest
        self.refresh()

    def refresh(self) -> None:
        """Pick again by the scores shown now; each prediction keeps its marks."""
        now = self.inspection
        prediction = now.voice.prediction if now.voice else None
        other = prediction is not self._of[0] or now.pyramid is not self._of[1]
        if prediction is not self._of[0]:
            self.marks = self._marks_of(prediction)
        self._of = (prediction, now.pyramid)
        rows = np.zeros(0, np.int64)
        if prediction is not None and now.scores is not None:
            values = now.scores.values
            rows = pick_patches(prediction.grid, values, self.count, weakest=self.weakest)
        other = other or not np.array_equal(rows, self.rows)
        self.rows = rows
        (self.changed if other else self.rescored).emit()

    def _marks_of(self, prediction: Prediction | None) -> dict[int, Mark]:
        """Those made of it before: who compares two models comes back to the first."""
        if prediction is None:
            return {}
        self._kept = [(known, marks) for known, marks in self._kept if marks]
        for known, marks in self._kept:
            if known is prediction:
                return marks
        self._kept.append((prediction, {}))
        return self._kept[-1][1]

    def step(self, by: int) -> None:
        """Fly to the next (1) or the previous (-1) patch, around the ends."""
        if len(self.rows):
            here = np.flatnonzero(self.rows == self.inspection.patch)
            place = int(here[0]) + by if len(here) else min(by - 1, 0) if by > 0 else by
            self.inspection.go_to(int(self.rows[place % len(self.rows)]))

    def mark(self, mark: Mark) -> None:
        """Say something of the patch that is looked at."""
        row = self.inspection.patch
        if row >= 0:
            self.marks[row] = mark
            self.marked.emit(row)

    def save_marks(self, path: Path) -> int:
        """Write the marked patches with all their scores as a CSV; how many they are.

        Raises
        ------
        UsageError : nothing is marked
        OutputError : the file cannot be written
        """
        voice = self.inspection.voice
        if voice is None or not self.marks:
            raise UsageError("no patch is marked yet; fly to one and press r, x or u")
        rows = np.array(sorted(self.marks), np.int64)
        words = [self.marks[row] for row in rows.tolist()]
        write_patches(path, voice.prediction, rows, {"mark": words})
        return len(rows)


def read_thumbnails(
    slide: Slide, grid: PatchGrid, rows: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.uint8] | None]]:
    """Patches as small pictures, one at a time, by a handle of their own.

    Yields
    ------
    (row of the grid, uint8 array (`THUMB_PX`, `THUMB_PX`, 3)), None where the file is damaged.
    """
    side = grid.patch_size_l0
    scale = max(1, side / THUMB_PX)
    level = max(k for k, each in enumerate(slide.level_factors) if max(each) <= scale)
    with slide.reopen() as own:
        for row in rows.tolist():
            x, y = grid.coords[row].tolist()
            try:
                yield row, own.read_region((x, y), (side, side), (THUMB_PX, THUMB_PX), level)
            except SlideReadError:
                yield row, None
