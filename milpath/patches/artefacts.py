"""Artefacts: how blurred, folded or marked with pen each patch is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from milpath.params import ArtefactParams

Scores = NDArray[np.float32]
Made = TypeVar("Made")

_BOX = 9  # pixels of the mean filter that a sharp picture loses its edges to


@dataclass(frozen=True, eq=False)
class Artefacts:
    """Scores of N patches, 0 (none) to 1.

    Attributes
    ----------
    blur : (N,), see `measure_blur`; None where no pixels were read
    fold, pen : (N,), fraction of a patch's area that is a fold of the tissue, or marker pen
    """

    blur: Scores | None
    fold: Scores
    pen: Scores

    def __len__(self) -> int:
        return len(self.pen)

    @property
    def known(self) -> dict[str, Scores]:
        """Those that were measured, by name."""
        return {name: scores for name, scores in vars(self).items() if scores is not None}


def measure_blur(pixels: NDArray[np.uint8]) -> float:
    """Measure how little a patch (P, P, 3) would lose if it were blurred; 0 = sharp, 1 = blurred.

    The greater of both axes' shares of the green channel's differences between neighbours that
    remain after a mean filter of 9 pixels [1]_; of every second line. A patch of one colour has 1.

    .. [1] F. Crete, T. Dolmiere, P. Ladret, M. Nicolas, "The blur effect: perception and estimation
           with a new no-reference perceptual blur metric", Proc. SPIE 6492 (2007).
    """
    green = pixels[:, :, 1].astype(np.int16)
    return max(_remaining(green[:, ::2]), _remaining(np.ascontiguousarray(green[::2].T)))


def _remaining(lines: NDArray[np.int16]) -> float:
    """Return the share of the differences along axis 0 that remains after a mean filter."""
    half = _BOX // 2
    steps = _BOX * np.abs(lines[half + 1 : -half] - lines[half : -half - 1])
    # neighbouring means over the box differ by its new and its old pixel
    smoothed = np.abs(lines[_BOX:] - lines[:-_BOX])
    total = int(steps.sum(dtype=np.int64))
    lost = int(np.maximum(steps - smoothed, 0).sum(dtype=np.int64))
    return 1 - lost / total if total else 1.0


class ArtefactFilter:
    """Leaves out patches with more blur than allowed, and collects the scores of the others.

    Parameters
    ----------
    params : the limits
    fold, pen : of the N patches of a grid, see `Artefacts`

    Attributes
    ----------
    left_out : number of patches left out because of their blur until now
    """

    def __init__(self, params: ArtefactParams, fold: Scores, pen: Scores) -> None:
        self._max_blur = 1.0 if params.max_blur is None else params.max_blur
        self._fold = fold
        self._pen = pen
        self._rows: list[int] = []
        self._blur: list[float] = []
        self.left_out = 0

    def keep(
        self, patches: Iterable[tuple[int, tuple[Made, float | None]]]
    ) -> Iterator[tuple[int, Made]]:
        """Yield (row of the grid, patch) of (row, (patch, blur)) unless it is left out.

        The blur is None where no pixels were read.
        """
        for row, (made, blur) in patches:
            if blur is not None and blur > self._max_blur:
                self.left_out += 1
                continue
            self._rows.append(row)
            if blur is not None:
                self._blur.append(blur)
            yield row, made

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the grid that were kept until now."""
        return np.asarray(self._rows, np.int64)

    @property
    def scores(self) -> Artefacts:
        """Scores of the patches that were kept until now."""
        measured = len(self._blur) == len(self._rows)
        blur = np.asarray(self._blur, np.float32) if measured else None
        return Artefacts(blur, self._fold[self.rows], self._pen[self.rows])


def find_clean(fold: Scores, pen: Scores, params: ArtefactParams) -> NDArray[np.int64]:
    """Find the patches that what the thumbnail shows does not rule out; their rows."""
    return np.flatnonzero(_within(fold, params.max_fold) & _within(pen, params.max_pen))


def _within(scores: Scores, limit: float | None) -> NDArray[np.bool_]:
    return scores <= (1.0 if limit is None else limit)
