"""Jobs for other processes: they name a folder, from which each process loads the network once.

Importing this module, or sending a job, imports no network library.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from milpath.cohort.cohort import SlideEntry
from milpath.cohort.workitem import WorkItem
from milpath.errors import StoredFileError, UsageError
from milpath.formats.model_spec import BundleSpec, read_bundle_spec
from milpath.nn import import_keras
from milpath.runs import Outcome

if TYPE_CHECKING:
    from milpath.nn.classify import Classifier
    from milpath.nn.embed import Embedder


@dataclass(frozen=True)
class ClassifyJob:
    """Classifies a slide; see `milpath.nn.classify.classify_slide`.

    Attributes
    ----------
    model : folder of the model
    fingerprint : of the model; the folder may be replaced before the job runs
    out : folder of the results
    threads : that read the slide while the network works
    dry_run : say what would be done, and write nothing; loads no network
    """

    model: Path
    fingerprint: str
    out: Path
    threads: int = 2
    dry_run: bool = False

    def __call__(self, entry: SlideEntry) -> Outcome:
        if not self.dry_run:
            return _load_classifier(self)(entry)
        from milpath.nn.classify import classify_slide

        return classify_slide(entry, self.out, _load_spec(self), dry_run=True)


@dataclass(frozen=True)
class EmbedJob:
    """Embeds a bag; see `milpath.nn.embed.Embedder`.

    Attributes
    ----------
    folder : of the encoder; see `save_encoder`
    fingerprint : of its weights; the folder may be replaced before the job runs
    """

    folder: Path
    fingerprint: str

    def __call__(self, item: WorkItem) -> Outcome:
        return _load_embedder(self)(item)


@lru_cache(maxsize=1)
def _load_spec(job: ClassifyJob) -> BundleSpec:
    try:
        spec = read_bundle_spec(job.model)
    except StoredFileError as error:
        raise UsageError(str(error)) from None
    _require_same(job.model, spec.fingerprint, job.fingerprint)
    return spec


@lru_cache(maxsize=1)  # a process works for one run at a time
def _load_classifier(job: ClassifyJob) -> Classifier:
    import_keras()
    from milpath.nn.bundle import load_bundle
    from milpath.nn.classify import Classifier
    from milpath.nn.predict import prepare_model

    try:
        bundle = load_bundle(job.model)
    except StoredFileError as error:  # every slide would fail in the same way
        raise UsageError(str(error)) from None
    _require_same(job.model, bundle.spec.fingerprint, job.fingerprint)
    return Classifier(prepare_model(bundle), job.out, job.threads)


@lru_cache(maxsize=1)
def _load_embedder(job: EmbedJob) -> Embedder:
    import_keras()
    from milpath.nn.bundle import load_encoder
    from milpath.nn.embed import Embedder

    try:
        embedder = Embedder(*load_encoder(job.folder))
    except StoredFileError as error:
        raise UsageError(str(error)) from None
    _require_same(job.folder, embedder.fingerprint, job.fingerprint)
    return embedder


def _require_same(folder: Path, found: str, expected: str) -> None:
    if found != expected:
        raise UsageError(f"{folder}: was replaced during the run; start the run again")
