"""Confidence intervals that hold for few cases, and for none or all correct.

Slides of one case are not independent: each interval counts cases, not slides, which is exact for
one slide per case and conservative for more. Below a minimum number of cases there is no interval.
`scripts/bench_intervals.py` measures how often they hold the true value.

References
----------
.. [1] E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
       J. Am. Stat. Assoc. 22 (1927).
.. [2] R. G. Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney
       statistic. Part 2", Statistics in Medicine 25 (2006), method 5.
.. [3] J. A. Hanley, B. J. McNeil, "The meaning and use of the area under a ROC curve",
       Radiology 143 (1982).
.. [4] G. Y. Zou, A. Donner, "Construction of confidence limits about effect measures", Statistics
       in Medicine 27 (2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

MIN_CASES = 10
"""Cases below which a share has no interval."""

MIN_CASES_PER_CLASS = 5
"""Cases of either class below which an AUC, or a class's share, has no interval."""

LEVEL = 0.95

Interval = tuple[float, float]

_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
_HALVINGS = 60


def wilson_interval(share: float, cases: int) -> Interval:
    """95 % score interval of a share of `cases` independent cases (Wilson 1927 [1]_).

    Parameters
    ----------
    share : observed, 0 to 1
    cases : number of independent cases, at least 1

    Returns
    -------
    (low, high), within 0 to 1; never empty, also for a share of 0 or 1.
    """
    centre = share + _Z**2 / (2 * cases)
    half = _Z * math.sqrt(share * (1 - share) / cases + (_Z / (2 * cases)) ** 2)
    scale = 1 + _Z**2 / cases
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def auc_interval(auc: float, positive: int, negative: int) -> Interval:
    """95 % score interval of an area under the ROC curve (Newcombe 2006 [2]_, method 5).

    The bounds are the areas from which the observed one is 1.96 standard errors away, each with
    the variance of Hanley and McNeil [3]_ at that area. So an observed 1 has a lower bound below 1.

    Parameters
    ----------
    auc : observed, 0 to 1
    positive, negative : numbers of independent cases of each class, at least 1
    """

    def distance(area: float) -> float:
        return abs(auc - area) - _Z * math.sqrt(_auc_variance(area, positive, negative))

    return _root(distance, 0.0, auc), _root(distance, 1.0, auc)


def mean_interval(
    values: Sequence[float], intervals: Sequence[Interval], *, independent: bool
) -> Interval:
    """95 % interval of the mean of several figures from their own (Zou & Donner 2008 [4]_).

    Parameters
    ----------
    values, intervals : of each figure
    independent : whether the figures are estimated on different cases; else the bounds' means,
        which are conservative, are taken
    """
    count = len(values)
    mean = sum(values) / count
    below = [value - low for value, (low, _) in zip(values, intervals, strict=True)]
    above = [high - value for value, (_, high) in zip(values, intervals, strict=True)]
    if independent:
        return mean - math.hypot(*below) / count, mean + math.hypot(*above) / count
    return mean - sum(below) / count, mean + sum(above) / count


def _auc_variance(area: float, positive: int, negative: int) -> float:
    """Newcombe's form of Hanley and McNeil's variance: both class sizes by their mean."""
    others = (positive + negative) / 2 - 1
    spread = 1 + others * ((1 - area) / (2 - area) + area / (1 + area))
    return area * (1 - area) * spread / (positive * negative)


def _root(distance: Callable[[float], float], outside: float, inside: float) -> float:
    """Where `distance` falls to 0 between a bound of the range and the observed value."""
    if distance(outside) <= 0:
        return outside
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if distance(middle) > 0 else (outside, middle)
    return inside
