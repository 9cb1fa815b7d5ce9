"""Selection of the patches with the highest or lowest scores, and their marks."""

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
from napari_milpath.pyramid import Pyramid

Mark = Literal["relevant", "not", "unsure"]

THUMB_PX = 128
"""Side of a patch's thumbnail, pixels."""


class PatchSelection:
    """The patches with the highest or lowest displayed scores.

    Parameters
    ----------
    inspection : its scores are sorted; its view moves to the patches

    Attributes
    ----------
    rows : (n,) selected rows of the prediction's grid, in order of their scores; none if their
        places are not known, so that they cannot be shown
    marks : mark of each marked row of the current prediction
    """

    changed = Signal()
    """The patches, the prediction or the slide changed."""

    rescored = Signal()
    """The scores changed, the patches did not."""

    marked = Signal(int)
    """A patch was marked: its row."""

    def __init__(self, inspection: Inspection) -> None:
        self.inspection = inspection
        self.count = 20
        self.weakest = False
        self.rows: NDArray[np.int64] = np.zeros(0, np.int64)
        self.marks: dict[int, Mark] = {}
        self._marks: list[tuple[Prediction, dict[int, Mark]]] = []
        self._current: tuple[Prediction | None, Pyramid | None] = (None, None)
        inspection.changed.connect(self.refresh)
        inspection.recovered.connect(self.changed.emit)
        self.refresh()

    def select(self, count: int, *, weakest: bool) -> None:
        """Select at most `count` patches, the weakest or the strongest."""
        self.count, self.weakest = count, weakest
        self.refresh()

    def refresh(self) -> None:
        """Select by the scores displayed now; each prediction keeps its marks."""
        inspection = self.inspection
        prediction = inspection.source.prediction if inspection.source else None
        changed = prediction is not self._current[0] or inspection.pyramid is not self._current[1]
        if prediction is not self._current[0]:
            self.marks = self._marks_of(prediction)
        self._current = (prediction, inspection.pyramid)
        rows = np.zeros(0, np.int64)
        if prediction is not None and inspection.scores is not None and inspection.is_placed:
            scores = inspection.scores.values
            rows = select_patches(prediction.grid, scores, self.count, weakest=self.weakest)
        changed = changed or not np.array_equal(rows, self.rows)
        self.rows = rows
        (self.changed if changed else self.rescored).emit()

    def _marks_of(self, prediction: Prediction | None) -> dict[int, Mark]:
        """Return the prediction's earlier marks, or an empty record for new ones."""
        if prediction is None:
            return {}
        self._marks = [(known, marks) for known, marks in self._marks if marks]
        for known, marks in self._marks:
            if known is prediction:
                return marks
        self._marks.append((prediction, {}))
        return self._marks[-1][1]

    def step(self, by: int) -> None:
        """Move to the next (1) or the previous (-1) patch; after the last comes the first."""
        if len(self.rows):
            found = np.flatnonzero(self.rows == self.inspection.patch)
            index = int(found[0]) + by if len(found) else min(by - 1, 0) if by > 0 else by
            self.inspection.go_to(int(self.rows[index % len(self.rows)]))

    def mark(self, mark: Mark) -> None:
        """Mark the current patch."""
        row = self.inspection.patch
        if row >= 0:
            self.marks[row] = mark
            self.marked.emit(row)

    def save_marks(self, path: Path) -> int:
        """Write the marked patches with all their scores as a CSV; return their number.

        Raises
        ------
        UsageError : no patch is marked
        OutputError : the file cannot be written
        """
        source = self.inspection.source
        if source is None or not self.marks:
            raise UsageError("no patch is marked; go to a patch and press r, x or u")
        rows = np.array(sorted(self.marks), np.int64)
        marks = [self.marks[row] for row in rows.tolist()]
        measures, remarks = self.inspection.measure()
        chosen = {name: [text] * len(rows) for name, text in remarks.items()}
        write_patches(path, source.prediction, rows, measures, {**chosen, "mark": marks})
        return len(rows)


def select_patches(
    grid: PatchGrid,
    scores: NDArray[np.float64],
    count: int,
    *,
    weakest: bool = False,
    min_distance_l0: float | None = None,
) -> NDArray[np.int64]:
    """Select the patches with the highest (or lowest) scores that keep a minimum distance.

    Parameters
    ----------
    grid, scores : N patches and their (N,) scores; NaN is ignored
    count : maximum number of patches
    weakest : select the lowest scores
    min_distance_l0 : minimum distance of two centres along x or y, level-0 pixels; by default the
        side of a patch, so that no two overlap

    Returns
    -------
    (n,) rows of the grid, the first selected first.
    """
    apart = grid.patch_size_l0 if min_distance_l0 is None else min_distance_l0
    order = np.argsort(scores if weakest else -scores, kind="stable")
    selected: list[int] = []
    corners = np.empty((count, 2), np.int64)
    for row in order.tolist():
        if len(selected) == count or np.isnan(scores[row]):  # NaN sorts last
            break
        distance = np.abs(corners[: len(selected)] - grid.coords[row]).max(axis=1)
        if (distance >= apart).all():
            corners[len(selected)] = grid.coords[row]
            selected.append(row)
    return np.asarray(selected, np.int64)


def read_thumbnails(
    slide: Slide, grid: PatchGrid, rows: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.uint8] | None]]:
    """Read patches as thumbnails, one at a time, by a file handle of their own.

    Yields
    ------
    (row of the grid, uint8 array (`THUMB_PX`, `THUMB_PX`, 3)), None where the file is damaged or
    gone.
    """
    side = grid.patch_size_l0
    scale = max(1, side / THUMB_PX)
    level = max(k for k, each in enumerate(slide.level_factors) if max(each) <= scale)
    try:
        own = slide.reopen()
    except SlideReadError:
        yield from ((row, None) for row in rows.tolist())
        return
    with own:
        for row in rows.tolist():
            x, y = grid.coords[row].tolist()
            try:
                yield row, own.read_region((x, y), (side, side), (THUMB_PX, THUMB_PX), level)
            except SlideReadError:
                yield row, None
