"""Prediction: what trained members say of bags, every instance seen once, pooled as a stream."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from milpath.nn.mil import Member, build_evidence

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

BATCH = 64
"""Patches that the network takes at a time."""

SCORE_BATCH = 512
"""Instances in memory that it takes at a time."""

EMBEDDINGS_BATCH = 2048
"""Embeddings that it takes at a time: they are a thousand times smaller."""


def collect_evidence(
    model: keras.Model, batches: Iterable[NDArray[Any]], batch: int | None = None
) -> tuple[Floats, Floats]:
    """Run an evidence model over a stream of instances.

    Only 1 + C numbers a patch and member are kept: since the head is linear, they are all that
    pooling needs, and the memory hardly grows with the slide.

    Parameters
    ----------
    model : of `build_evidence`
    batches : arrays (n, ...) of any n
    batch : instances that the network is given at a time; by default `BATCH` of patches,
        `EMBEDDINGS_BATCH` of embeddings

    Returns
    -------
    attention scores (M, N) and class evidence (M, N, C)
    """
    members, classes = model.output_shape[1][1:]
    size = batch or (BATCH if len(model.input_shape) > 2 else EMBEDDINGS_BATCH)
    scores, evidence = [np.zeros((0, members))], [np.zeros((0, members, classes))]
    for instances, count in _fill(batches, size):
        some = model.predict_on_batch(instances)
        scores.append(np.asarray(some[0][:count], np.float64))
        evidence.append(np.asarray(some[1][:count], np.float64))
    return np.concatenate(scores).T, np.concatenate(evidence).swapaxes(0, 1)


def _fill(batches: Iterable[NDArray[Any]], size: int) -> Iterator[tuple[NDArray[Any], int]]:
    """The same instances, always `size` at a time, so that the graph is traced once.

    Yields
    ------
    array (size, ...), the same one every time, and how many of its first rows are instances; the
    rest of the last one is zero or left over
    """
    full: NDArray[Any] | None = None
    count = 0
    for batch in batches:
        if full is None:
            full = np.zeros((size, *batch.shape[1:]), batch.dtype)
        taken = 0
        while taken < len(batch):
            some = batch[taken : taken + size - count]
            full[count : count + len(some)] = some
            count += len(some)
            taken += len(some)
            if count == size:
                yield full, count
                count = 0
    if full is not None and count:
        yield full, count


def pool_evidence(scores: Floats, evidence: Floats) -> tuple[Floats, Floats]:
    """Attention (M, N), the scores' softmax, and contributions (M, N, C), attention x evidence."""
    if scores.shape[1] == 0:
        return scores, evidence
    attention: Floats = softmax(scores, axis=1)
    return attention, attention[..., None] * evidence


def stack_bias(members: Sequence[Member]) -> Floats:
    """(M, C), the biases of the members' linear heads."""
    return np.stack([member.head.classifier.bias.numpy() for member in members]).astype(np.float64)


@dataclass(frozen=True, eq=False)
class BagScores:
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


def score_bags(members: Sequence[Member], bags: Sequence[NDArray[Any]]) -> list[BagScores]:
    """Every instance of some bags is seen once by an ensemble, then each bag is pooled.

    Parameters
    ----------
    members : alike, each with its own encoder or all for embeddings
    bags : arrays (N, ...), none empty
    """
    instances = np.concatenate(bags)
    model = build_evidence(instances.shape[1:], members)
    batches = (instances[at : at + SCORE_BATCH] for at in range(0, len(instances), SCORE_BATCH))
    scores, evidence = collect_evidence(model, batches, min(SCORE_BATCH, len(instances)))
    cuts = np.cumsum([len(bag) for bag in bags])[:-1]
    bias = stack_bias(members)
    bag_scores = []
    for some, its in zip(
        np.split(scores, cuts, axis=1), np.split(evidence, cuts, axis=1), strict=True
    ):
        attention, contributions = pool_evidence(some, its + bias[:, None])
        logits = contributions.sum(axis=1).mean(axis=0)
        bag_scores.append(
            BagScores(softmax(logits), attention.mean(axis=0), contributions.mean(axis=0))
        )
    return bag_scores
