"""Scores to display, of one prediction or of the difference between two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from milpath.figures.heatmap import PatchScores, score_patches
from milpath.figures.score import Scale, Score
from milpath.formats.prediction import Prediction
from milpath.formats.scores import format_probability
from napari_milpath.lookup import PatchLookup

Floats = NDArray[np.float64]

_TOP = 20  # patches whose agreement is reported


@dataclass(frozen=True)
class DisplaySettings:
    """Which scores are displayed, and in which colours.

    Attributes
    ----------
    score, scale, class_name : see `milpath.figures.heatmap.score_patches`
    palette : see `napari_milpath.heatmap_image.build_heatmap_image`
    threshold : see `napari_milpath.heatmap_image.set_threshold`
    """

    score: Score = Score.attention
    scale: Scale = Scale.relative
    class_name: str | None = None
    palette: str | None = None
    threshold: float = 0.0


@dataclass(frozen=True)
class ScoreSource:
    """A prediction of an ensemble, or of one of its members.

    Attributes
    ----------
    name : as listed in the panel
    prediction : N patches, C classes
    member : index of the member; None for the ensemble
    """

    name: str
    prediction: Prediction
    member: int | None = None

    @cached_property
    def attention(self) -> Floats:
        """Attention of each patch, (N,), with the sum 1."""
        if self.member is None:
            return self.prediction.attention
        return self.prediction.member_attention[self.member]

    @cached_property
    def ranks(self) -> Floats:
        """Percentile of each patch's attention within the slide, (N,)."""
        return score_patches(
            self.prediction, Score.attention, Scale.percentile, None, self.member
        ).values

    @cached_property
    def contributions(self) -> Floats:
        """Contribution of each patch to the logit of each class, (N, C)."""
        if self.member is None:
            return self.prediction.contributions
        return self.prediction.member_contributions[self.member]

    @property
    def probs(self) -> Floats:
        """Probability of each class, (C,)."""
        if self.member is None:
            return self.prediction.probs
        return self.prediction.member_probs[self.member]


def score_sources(name: str, prediction: Prediction) -> list[ScoreSource]:
    """List the ensemble and, if it has several members, each of them."""
    count = len(prediction.member_bias)
    members = [ScoreSource(f"{name}, member {m}", prediction, m) for m in range(count)]
    return [ScoreSource(name, prediction), *(members if count > 1 else [])]


def compute_scores(source: ScoreSource, settings: DisplaySettings) -> PatchScores:
    """Score a source's patches by the settings; raises as `score_patches` does."""
    name = settings.class_name if settings.score == Score.contribution else None
    return score_patches(source.prediction, settings.score, settings.scale, name, source.member)


def subtract_scores(
    source: ScoreSource, other: ScoreSource, settings: DisplaySettings
) -> PatchScores:
    """Subtract the other source's scores at the centres of the source's patches.

    NaN where the other has no patch. Raises as `score_patches` does.
    """
    own, theirs = compute_scores(source, settings), compute_scores(other, settings)
    grid = source.prediction.grid
    rows = PatchLookup(other.prediction.grid).find(grid.coords + np.float64(grid.patch_size_l0 / 2))
    difference = own.values - np.where(rows >= 0, theirs.values[rows], np.nan)
    label = f"{own.label}: {source.name} minus {other.name}"
    return replace(own, values=difference, label=label, signed=True)


def describe_prediction(source: ScoreSource) -> str:
    """Say in a line the slide and the probability of each class, the highest first."""
    prediction, probs = source.prediction, source.probs
    title = prediction.slide.slide_id
    if source.member is not None:
        title += f", member {source.member}"
    order = np.argsort(-probs).tolist()
    classes = ", ".join(
        f"{prediction.class_names[index]} {format_probability(float(probs[index]), 3)}"
        for index in order
    )
    several = len(prediction.member_bias) > 1 and source.member is None
    spread = (
        f" (±\N{NO-BREAK SPACE}{prediction.spread.max():.3f} over the ensemble)" if several else ""
    )
    return f"{title}: {classes}{spread}"


def describe_concentration(source: ScoreSource) -> str:
    """Say in a line how concentrated the attention is."""
    weights = source.attention
    effective = max(1, round(1 / float(np.square(weights).sum())))
    top = max(1, len(weights) // 100)
    mass = float(np.sort(weights)[-top:].sum())
    return (
        f"effective number of patches: {effective:,} of {len(weights):,}; "
        f"the top {top:,} hold {mass:.0%} of the attention"
    )


def describe_agreement(source: ScoreSource, other: ScoreSource, settings: DisplaySettings) -> str:
    """Say in a line how similarly two sources rank the patches that both have."""
    own = compute_scores(source, settings).values
    difference = subtract_scores(source, other, settings).values
    shared = np.isfinite(difference)
    if shared.sum() < 3:
        return "no patches in common"
    one, two = own[shared], (own - difference)[shared]
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return f"{shared.sum():,} patches in common; no rank correlation: one has equal scores"
    top = min(_TOP, len(one))
    both = np.intersect1d(np.argsort(-one)[:top], np.argsort(-two)[:top])
    rho = float(spearmanr(one, two).statistic)
    return f"rank correlation {rho:.2f}; {len(both)} of the top {top} in common"
