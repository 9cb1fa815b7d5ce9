"""Judging: what trained members say of bags that are in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from milpath.nn.mil import Member, build_evidence
from milpath.nn.predict import collect_evidence, pool_evidence, stack_bias

Floats = NDArray[np.float64]

BATCH = 512


@dataclass(frozen=True, eq=False)
class Verdict:
    """What an ensemble says of one bag.

    Attributes
    ----------
    probs : (C,) of its classes, from the members' mean logits
    attention : (N,) mean over the members
    contributions : (N, C) mean over the members, the bias shared out by attention: an instance
        adds ``a_k (w_c · h_k + b_c)``, and all of them together make the logits exactly
    """

    probs: Floats
    attention: Floats
    contributions: Floats

    def evidence(self, index: int) -> Floats:
        """(N,) what each instance adds to a class's logit beyond what it adds to the mean logit.

        The softmax does not see what all logits share, so this is what decides.
        """
        centred: Floats = self.contributions[:, index] - self.contributions.mean(axis=1)
        return centred


def judge_bags(members: Sequence[Member], bags: Sequence[NDArray[Any]]) -> list[Verdict]:
    """Every instance of some bags is seen once by an ensemble, then each bag is pooled.

    Parameters
    ----------
    members : alike, each with its own encoder or all for embeddings
    bags : arrays (N, ...), none empty
    """
    instances = np.concatenate(bags)
    model = build_evidence(instances.shape[1:], members)
    batches = (instances[at : at + BATCH] for at in range(0, len(instances), BATCH))
    scores, evidence = collect_evidence(model, batches, min(BATCH, len(instances)))
    cuts = np.cumsum([len(bag) for bag in bags])[:-1]
    bias = stack_bias(members)
    verdicts = []
    for some, its in zip(
        np.split(scores, cuts, axis=1), np.split(evidence, cuts, axis=1), strict=True
    ):
        attention, contributions = pool_evidence(some, its + bias[:, None])
        logits = contributions.sum(axis=1).mean(axis=0)
        verdicts.append(
            Verdict(softmax(logits), attention.mean(axis=0), contributions.mean(axis=0))
        )
    return verdicts
