"""Look: which of a prediction's numbers are shown, and how two predictions are set side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from milpath.figures.heatmap import PatchScores, Scale, Score, score_patches
from milpath.formats.prediction import Prediction
from napari_milpath.lookup import PatchLookup

Floats = NDArray[np.float64]

_TOP = 20


@dataclass(frozen=True)
class Look:
    """What is shown, and in which colours.

    Attributes
    ----------
    score, scale, class_name : see `milpath.figures.heatmap.score_patches`
    palette, threshold : see `napari_milpath.colours.show_heatmap`
    """

    score: Score = "attention"
    scale: Scale = "relative"
    class_name: str | None = None
    palette: str | None = None
    threshold: float = 0.0


@dataclass(frozen=True)
class Voice:
    """Whose numbers: a model's prediction, or that of one member of its ensemble."""

    name: str
    prediction: Prediction
    member: int | None = None

    @cached_property
    def attention(self) -> Floats:
        """(N,), sums to 1."""
        if self.member is None:
            return self.prediction.attention
        return self.prediction.member_attention[self.member]

    @cached_property
    def ranks(self) -> Floats:
        """(N,), the attention's percentiles within the slide."""
        return score_patches(self.prediction, "attention", "percentile", None, self.member).values

    @cached_property
    def contributions(self) -> Floats:
        """(N, C), what each patch adds to the logit of each class."""
        if self.member is None:
            return self.prediction.contributions
        return self.prediction.member_contributions[self.member]

    @property
    def probs(self) -> Floats:
        """(C,)."""
        if self.member is None:
            return self.prediction.probs
        return self.prediction.member_probs[self.member]


def voices_of(name: str, prediction: Prediction) -> list[Voice]:
    """The ensemble, and each of its members where there are several."""
    members = len(prediction.member_bias)
    alone = [Voice(f"{name}, member {m}", prediction, m) for m in range(members)]
    return [Voice(name, prediction), *(alone if members > 1 else [])]


def score_voice(voice: Voice, look: Look) -> PatchScores:
    """The scores that a look shows of a voice; raises as `score_patches` does."""
    name = look.class_name if look.score == "contribution" else None
    return score_patches(voice.prediction, look.score, look.scale, name, voice.member)


def subtract_voice(voice: Voice, other: Voice, look: Look) -> PatchScores:
    """What a voice says less what another says at the centres of the same patches.

    NaN where the other has no patch. Raises as `score_patches` does.
    """
    own, theirs = score_voice(voice, look), score_voice(other, look)
    grid = voice.prediction.grid
    rows = PatchLookup(other.prediction.grid).find(grid.coords + np.float64(grid.patch_size_l0 / 2))
    difference = own.values - np.where(rows >= 0, theirs.values[rows], np.nan)
    label = f"{own.label}: {voice.name} less {other.name}"
    return replace(own, values=difference, label=label, signed=True)


def say_agreement(voice: Voice, other: Voice, look: Look) -> str:
    """In a line, how alike two voices rank the patches they share."""
    own, less = score_voice(voice, look).values, subtract_voice(voice, other, look).values
    shared = np.isfinite(less)
    if shared.sum() < 3:
        return "no patches in common"
    one, two = own[shared], (own - less)[shared]
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return f"{shared.sum():,} patches in common, one of the two is even"
    top = min(_TOP, len(one))
    both = np.intersect1d(np.argsort(-one)[:top], np.argsort(-two)[:top])
    rho = float(spearmanr(one, two).statistic)
    return f"rank correlation {rho:.2f}; {len(both)} of the top {top} in common"
