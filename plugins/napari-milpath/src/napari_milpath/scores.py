"""Scores to display, of one prediction or of the difference between two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from milpath.export import measure_patches
from milpath.figures.heatmap import PatchScores, score_patches
from milpath.figures.score import Scale, Score
from milpath.formats.prediction import Prediction
from milpath.formats.scores import format_probability
from napari_milpath.heatmap_image import Palette
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
    threshold : see `napari_milpath.heatmap_image.HeatmapImage`
    """

    score: Score = Score.attention
    scale: Scale = Scale.relative
    class_name: str | None = None
    palette: Palette = None
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

    def is_of(self, other: ScoreSource) -> bool:
        """Return whether two sources are the same, whatever their names."""
        return self.prediction is other.prediction and self.member == other.member

    @cached_property
    def output(self) -> Prediction:
        """What the source predicts: the prediction, or that of the member alone."""
        if self.member is None:
            return self.prediction
        return self.prediction.select_member(self.member)

    @property
    def title(self) -> str:
        """The slide's id, and the member."""
        member = "" if self.member is None else f", member {self.member}"
        return f"{self.prediction.slide.slide_id}{member}"

    @cached_property
    def attention(self) -> Floats:
        """Attention of each patch, (N,), with the sum 1."""
        return self.output.attention

    @cached_property
    def ranks(self) -> Floats:
        """Percentile of each patch's attention within the slide, (N,)."""
        return score_patches(self.output, Score.attention, Scale.percentile).values

    @cached_property
    def contributions(self) -> Floats:
        """Contribution of each patch to the logit of each class, (N, C)."""
        return self.output.contributions

    @property
    def probs(self) -> Floats:
        """Probability of each class, (C,)."""
        return self.output.probs


def score_sources(name: str, prediction: Prediction) -> list[ScoreSource]:
    """List the ensemble and, if it has several members, each of them."""
    count = len(prediction.member_bias)
    members = [ScoreSource(f"{name}, member {m}", prediction, m) for m in range(count)]
    return [ScoreSource(name, prediction), *(members if count > 1 else [])]


def compute_scores(source: ScoreSource, settings: DisplaySettings) -> PatchScores:
    """Score a source's patches by the settings; raises as `score_patches` does."""
    scores = _score(source, settings, settings.class_name)
    member = "" if source.member is None else f", member {source.member}"
    return replace(scores, label=scores.label + member)


def subtract_scores(
    source: ScoreSource, other: ScoreSource, settings: DisplaySettings
) -> PatchScores:
    """Subtract from a source's scores those of another at each patch's centre; NaN without one.

    Raises
    ------
    UsageError : the other has no such class
    """
    name = settings.class_name or source.output.predicted  # the same class of both
    own, theirs = _score(source, settings, name), _score(other, settings, name)
    difference = own.values - _look_up(theirs.values, _pair(source, other))
    label = f"{own.label}: {source.name} minus {other.name}"
    return replace(own, values=difference, label=label, signed=True)


def measure_source(source: ScoreSource, other: ScoreSource | None = None) -> dict[str, Floats]:
    """Collect all scores of a source, or their differences to another's: name to values (N,).

    A difference is NaN where the other has no patch, and is of the classes that both have.
    """
    own = measure_patches(source.output)
    if other is None:
        return own
    theirs = measure_patches(other.output)
    rows = _pair(source, other)
    return {
        f"difference_of_{name}": own[name] - _look_up(theirs[name], rows)
        for name in own
        if name in theirs
    }


def describe_choice(source: ScoreSource, other: ScoreSource | None = None) -> list[str]:
    """Say in a line what a source predicts; of a difference, in three lines, what both do.

    Lines with the warnings of the predictions follow.
    """
    if other is None:
        return [describe_prediction(source), *source.prediction.warnings]
    return [
        f"difference: {source.name} minus {other.name}",
        *(f"{each.name}: {_describe_classes(each)}" for each in (source, other)),
        *dict.fromkeys((*source.prediction.warnings, *other.prediction.warnings)),
    ]


def describe_prediction(source: ScoreSource) -> str:
    """Say in a line the slide and the probability of each class, the highest first."""
    return f"{source.title}: {_describe_classes(source)}"


def _score(source: ScoreSource, settings: DisplaySettings, class_name: str | None) -> PatchScores:
    name = class_name if settings.score == Score.contribution else None
    return score_patches(source.output, settings.score, settings.scale, name)


def _pair(source: ScoreSource, other: ScoreSource) -> NDArray[np.int64]:
    """Return the other's row at the centre of each patch of a source, (N,), -1 for none."""
    grid = source.prediction.grid
    if grid.places == "unknown":
        return np.full(len(grid), -1, np.int64)
    centres = grid.coords + np.float64(grid.patch_size_l0 / 2)
    return PatchLookup(other.prediction.grid).find(centres)


def _look_up(values: Floats, rows: NDArray[np.int64]) -> Floats:
    """Return the values at rows, NaN for -1."""
    found: Floats = np.where(rows >= 0, values[rows], np.nan)
    return found


def _describe_classes(source: ScoreSource) -> str:
    output = source.output
    classes = ", ".join(
        f"{output.class_names[index]} {format_probability(float(output.probs[index]), 3)}"
        for index in np.argsort(-output.probs).tolist()
    )
    if len(output.member_bias) > 1:
        classes += f" (±\N{NO-BREAK SPACE}{output.spread.max():.3f} over the ensemble)"
    return classes


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
