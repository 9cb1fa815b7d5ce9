"""Score and scale: what a heatmap shows. Imports no NumPy, so the command line can offer them."""

from __future__ import annotations

from enum import StrEnum


class Score(StrEnum):
    """A patch's number: its attention, or its contribution to the logit of a class."""

    attention = "attention"
    contribution = "contribution"


class Scale(StrEnum):
    """How scores are scaled; see `milpath.figures.heatmap.score_patches`."""

    raw = "raw"
    relative = "relative"
    percentile = "percentile"
