"""Jobs that travel: they name a network's folder, from which each process loads it once.

Who only sends them needs no network: what imports Keras is imported where the work is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from milpath.cohort.cohort import SlideEntry
from milpath.errors import StoredFileError, UsageError
from milpath.nn import import_keras
from milpath.runs import Outcome

if TYPE_CHECKING:
    from milpath.nn.classify import Classifier
    from milpath.nn.embed import Embedder


@dataclass(frozen=True)
class ClassifyJob:
    """Classifies a slide, as `Classifier` does, wherever it is called."""

    model: Path
    fingerprint: str
    """Of the model; the folder may have changed on the way."""
    out: Path
    threads: int = 2

    def __call__(self, entry: SlideEntry) -> Outcome:
        return _load_classifier(self)(entry)


@dataclass(frozen=True)
class EmbedJob:
    """Embeds a bag, as `Embedder` does, wherever it is called."""

    folder: Path
    """Of the encoder; see `save_encoder`."""
    code: str
    """Digest of its weights."""

    def __call__(self, entry: SlideEntry) -> Outcome:
        return _load_embedder(self)(entry)


@lru_cache(maxsize=1)  # a process works for one run at a time
def _load_classifier(job: ClassifyJob) -> Classifier:
    import_keras()
    from milpath.nn.bundle import load_bundle
    from milpath.nn.classify import Classifier

    try:
        bundle = load_bundle(job.model)
    except StoredFileError as error:  # of no slide in particular
        raise UsageError(str(error)) from None
    _require_same(job.model, bundle.spec.fingerprint, job.fingerprint)
    return Classifier(bundle, job.out, job.threads)


@lru_cache(maxsize=1)
def _load_embedder(job: EmbedJob) -> Embedder:
    import_keras()
    from milpath.nn.bundle import load_encoder
    from milpath.nn.embed import Embedder

    try:
        embedder = Embedder(*load_encoder(job.folder))
    except StoredFileError as error:
        raise UsageError(str(error)) from None
    _require_same(job.folder, embedder.code, job.code)
    return embedder


def _require_same(folder: Path, found: str, expected: str) -> None:
    if found != expected:
        raise UsageError(f"{folder}: was replaced by another one during the run; start it again")
