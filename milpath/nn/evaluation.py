"""Evaluation: the metrics of a model on slides held out of its training, and their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.formats.layout import held_out_path
from milpath.metrics import INTERVALS, Figure, FoldFigure, evaluate, evaluate_folds
from milpath.nn.bags import LabelledBag
from milpath.store import publish_csv

_SAME = 1e-3  # probabilities of different slides that differ less than this are the same


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A slide that was held out, and what the models that did not see it predict.

    Attributes
    ----------
    bag : of the slide
    fold : in which it was held out, from 0
    probs : (C,) class probabilities
    """

    bag: LabelledBag
    fold: int
    probs: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics on held-out slides.

    Attributes
    ----------
    slides : all that were held out
    pooled : metrics over all of them; with several folds their probabilities come from models
        that are calibrated apart, so read `folds` first
    folds : metrics fold by fold; None with one split
    """

    slides: tuple[HeldOut, ...]
    pooled: dict[str, Figure]
    folds: dict[str, FoldFigure] | None

    def warnings(self) -> Iterator[str]:
        """List reasons not to trust the metrics."""
        if all(_is_constant(rows) for rows in self._probs_by_fold()):
            yield (
                "the model gives the same probabilities for every held-out slide (to "
                f"{_SAME:g}): it has learned nothing that tells them apart"
            )

    def _probs_by_fold(self) -> Iterator[NDArray[np.float64]]:
        for fold in sorted({slide.fold for slide in self.slides}):
            yield np.stack([slide.probs for slide in self.slides if slide.fold == fold])

    def as_json(self) -> dict[str, Any]:
        """Give the part of `metrics.json` that holds metrics."""
        found: dict[str, Any] = {
            "held_out_slides": len(self.slides),
            "held_out_cases": len({slide.bag.case for slide in self.slides}),
            "metrics_are": "of one split" if self.folds is None else "pooled over folds",
            "metrics": {name: asdict(figure) for name, figure in self.pooled.items()},
            "intervals": INTERVALS,
        }
        if self.folds is not None:
            found["over_folds"] = {name: asdict(figure) for name, figure in self.folds.items()}
        return found


def evaluate_held_out(slides: Sequence[HeldOut], folds: int) -> Evaluation:
    """Compute the metrics of held-out slides.

    Parameters
    ----------
    slides : at least one
    folds : number of folds; 1 for one split
    """
    labels = np.array([slide.bag.label for slide in slides])
    probs = np.stack([slide.probs for slide in slides])
    pooled = evaluate(labels, probs, [slide.bag.case for slide in slides])
    numbers = np.array([slide.fold for slide in slides])
    each = evaluate_folds(labels, probs, numbers) if folds > 1 else None
    return Evaluation(tuple(slides), pooled, each)


def write_held_out(out: Path, slides: Sequence[HeldOut], class_names: Sequence[str]) -> None:
    """Write `held_out.csv`: one row per slide, folds counted from 1."""
    publish_csv(
        held_out_path(out),
        ["slide", "case", "fold", "label", "predicted", *(f"prob_{name}" for name in class_names)],
        [
            [
                slide.bag.slide_id,
                slide.bag.case,
                slide.fold + 1,
                class_names[slide.bag.label],
                class_names[int(slide.probs.argmax())],
                *(f"{value:.6f}" for value in slide.probs),
            ]
            for slide in slides
        ],
    )


def _is_constant(probs: NDArray[np.float64]) -> bool:
    """Whether the slides of a fold, (n, C), all have the same probabilities."""
    return bool(np.ptp(probs, axis=0).max() < _SAME)
