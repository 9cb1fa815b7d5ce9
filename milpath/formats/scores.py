"""BagScores: an ensemble's output for one bag, before it is a class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def softmax(logits: Floats) -> Floats:
    """Compute the softmax over the last axis (SciPy's is the same, but takes long to import)."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probs: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return probs


@dataclass(frozen=True, kw_only=True)
class BagScores:
    """Output of an ensemble for one bag (M members, N instances, C classes).

    Attributes
    ----------
    member_attention : float64 (M, N); each row sums to 1
    member_contributions : float64 (M, N, C); what each instance adds to the logit of each class
    member_bias : float64 (M, C); the logit of a class is its bias plus the sum of contributions
    """

    member_attention: Floats
    member_contributions: Floats
    member_bias: Floats

    @cached_property
    def member_logits(self) -> Floats:
        """Logits of the members, (M, C); NaN for a bag without instances."""
        if self.member_attention.shape[1] == 0:
            return np.full_like(self.member_bias, np.nan)
        logits: Floats = self.member_bias + self.member_contributions.sum(axis=1)
        return logits

    @property
    def member_probs(self) -> Floats:
        """Class probabilities of the members, (M, C)."""
        probs: Floats = softmax(self.member_logits)
        return probs

    @property
    def logits(self) -> Floats:
        """Mean logits of the members, (C,): mean bias plus the sum of mean contributions."""
        mean: Floats = self.member_logits.mean(axis=0)
        return mean

    @property
    def probs(self) -> Floats:
        """Softmax of `logits`, (C,): the renormalised geometric mean of the members' `probs`."""
        probs: Floats = softmax(self.logits)
        return probs

    @property
    def spread(self) -> Floats:
        """Standard deviation of the members' class probabilities, (C,)."""
        spread: Floats = self.member_probs.std(axis=0)
        return spread

    @property
    def attention(self) -> Floats:
        """Mean attention of the members, (N,); sums to 1."""
        mean: Floats = self.member_attention.mean(axis=0)
        return mean

    @property
    def contributions(self) -> Floats:
        """Mean contributions of the members, (N, C); columns sum to `logits` minus `bias`."""
        mean: Floats = self.member_contributions.mean(axis=0)
        return mean

    @property
    def bias(self) -> Floats:
        """Mean bias of the members, (C,)."""
        mean: Floats = self.member_bias.mean(axis=0)
        return mean

    def evidence(self, index: int) -> Floats:
        """Compute what each instance adds to a class's logit beyond the mean logit, (N,).

        The bias is shared out by attention, so that all instances together give the logits; the
        mean logit is subtracted because the softmax does not depend on it.

        Parameters
        ----------
        index : of the class
        """
        shared = self.member_contributions + (
            self.member_attention[..., None] * self.member_bias[:, None]
        )
        mean = shared.mean(axis=0)
        evidence: Floats = mean[:, index] - mean.mean(axis=1)
        return evidence


def format_probability(value: float, digits: int = 2) -> str:
    """Format a probability so that only a certain one reads as 0 or 1.

    Parameters
    ----------
    value : 0 to 1
    digits : after the point; 0.9998 with two of them is ">0.99"
    """
    text = f"{value:.{digits}f}"
    smallest = f"{10**-digits:.{digits}f}"
    if float(text) == 1 and value < 1:
        return f">{1 - 10**-digits:.{digits}f}"
    return f"<{smallest}" if float(text) == 0 and value > 0 else text
