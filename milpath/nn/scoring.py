"""Scoring: apply an ensemble to bags, each instance once, pooled as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from milpath.formats.scores import BagScores
from milpath.nn.encoders.encoder import BATCH
from milpath.nn.engine import keras
from milpath.nn.mil import Member, build_evidence

Floats = NDArray[np.float64]

SCORE_BATCH = 512
"""Instances per batch, for bags in memory."""

FEATURES_BATCH = 2048
"""Features per batch: they are a thousand times smaller than patches."""

Observe = Callable[[NDArray[Any]], None]
"""Receives the features (n, D) of a batch."""


def collect_evidence(
    model: keras.Model,
    batches: Iterable[NDArray[Any]],
    batch: int | None = None,
    observe: Observe | None = None,
) -> tuple[Floats, Floats]:
    """Run an evidence model over a stream of instances.

    Because the head is linear, 1 + C numbers per instance and member are enough to pool a bag, so
    memory hardly grows with the slide.

    Parameters
    ----------
    model : of `build_evidence`
    batches : arrays (n, ...) of any n
    batch : instances per batch; by default `BATCH` for patches, `FEATURES_BATCH` for features
    observe : called with the features (n, D) of each batch; for a model that gives them

    Returns
    -------
    attention scores (M, N) and class evidence (M, N, C)
    """
    members, classes = model.output_shape[1][1:]
    size = batch or (BATCH if len(model.input_shape) > 2 else FEATURES_BATCH)
    scores, evidence = [np.zeros((0, members))], [np.zeros((0, members, classes))]
    for instances, count in regroup(batches, size):
        some = model.predict_on_batch(instances)
        scores.append(np.asarray(some[0][:count], np.float64))
        evidence.append(np.asarray(some[1][:count], np.float64))
        if observe is not None:
            observe(np.asarray(some[2][:count]))
    return np.concatenate(scores).T, np.concatenate(evidence).swapaxes(0, 1)


def regroup(batches: Iterable[NDArray[Any]], size: int) -> Iterator[tuple[NDArray[Any], int]]:
    """Regroup instances into batches of exactly `size`, so that the graph is traced once.

    Yields
    ------
    array (size, ...), the same one every time, and the number of its rows that are instances; in
    the last batch the other rows hold zeros or old values
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
    """Compute attention (M, N), the softmax of the scores, and contributions (M, N, C)."""
    if scores.shape[1] == 0:
        return scores, evidence
    attention: Floats = softmax(scores, axis=1)
    return attention, attention[..., None] * evidence


def stack_bias(members: Sequence[Member]) -> Floats:
    """Stack the biases of the members' linear heads, (M, C)."""
    return np.stack([member.head.classifier.bias.numpy() for member in members]).astype(np.float64)


def score_bag(
    model: keras.Model,
    bias: Floats,
    batches: Iterable[NDArray[Any]],
    batch: int | None = None,
    observe: Observe | None = None,
) -> BagScores:
    """Apply an ensemble to a bag that comes as a stream; exact, in memory of 1 + C numbers each.

    Parameters
    ----------
    model : of `build_evidence`
    bias : (M, C), of `stack_bias`
    batches, batch, observe : as in `collect_evidence`
    """
    return _pool(*collect_evidence(model, batches, batch, observe), bias)


def score_bags(members: Sequence[Member], bags: Sequence[NDArray[Any]]) -> list[BagScores]:
    """Apply an ensemble to bags in memory, all their instances in common batches.

    Parameters
    ----------
    members : all with an encoder of their own, or all for features
    bags : arrays (N, ...), none empty
    """
    instances = np.concatenate(bags)
    model, bias = build_evidence(instances.shape[1:], members), stack_bias(members)
    batches = (instances[at : at + SCORE_BATCH] for at in range(0, len(instances), SCORE_BATCH))
    scores, evidence = collect_evidence(model, batches, min(SCORE_BATCH, len(instances)))
    cuts = np.cumsum([len(bag) for bag in bags])[:-1]
    parts = zip(np.split(scores, cuts, axis=1), np.split(evidence, cuts, axis=1), strict=True)
    return [_pool(*part, bias) for part in parts]


def _pool(scores: Floats, evidence: Floats, bias: Floats) -> BagScores:
    attention, contributions = pool_evidence(scores, evidence)
    return BagScores(
        member_attention=attention, member_contributions=contributions, member_bias=bias
    )
