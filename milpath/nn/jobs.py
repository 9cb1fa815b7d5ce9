"""Jobs for other processes: they name a folder, from which each process loads the network once.

Importing this module, or sending a job, imports no network library.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from milpath.cohort.cohort import SlideEntry
from milpath.cohort.workitem import WorkItem
from milpath.errors import StoredFileError, UsageError
from milpath.formats.foreign.values import FeatureHints, Layout
from milpath.formats.model_spec import BundleSpec, read_bundle_spec
from milpath.nn import import_keras
from milpath.params import TileParams
from milpath.runs import Outcome

if TYPE_CHECKING:
    from milpath.nn.bundle import Bundle
    from milpath.nn.classify import Classifier
    from milpath.nn.classify_features import FeatureClassifier, FeatureItem
    from milpath.nn.embed import Embedder
    from milpath.nn.embed_slide import SlideEmbedder
    from milpath.nn.encoders.encoder import Encoder


@dataclass(frozen=True)
class ClassifyJob:
    """Classifies a slide; see `milpath.nn.classify.classify_slide`.

    Attributes
    ----------
    model : folder of the model
    fingerprint : of the model; the folder may be replaced before the job runs
    out : folder of the results
    threads : that read the slide while the network works
    weights : of its encoder, if the model only refers to it; see `load_model`
    dry_run : say what would be done, and write nothing; loads no network
    """

    model: Path
    fingerprint: str
    out: Path
    threads: int = 2
    weights: Path | None = None
    dry_run: bool = False

    def __call__(self, entry: SlideEntry) -> Outcome:
        if not self.dry_run:
            return _load_classifier(self)(entry)
        from milpath.nn.classify import classify_slide

        spec = _load_spec(self.model, self.fingerprint)
        return classify_slide(entry, self.out, spec, dry_run=True)


@dataclass(frozen=True)
class ClassifyFeaturesJob:
    """Classifies features; see `milpath.nn.classify_features`.

    Attributes
    ----------
    layout, hints : how the features are read
    model, fingerprint, out, dry_run : as in `ClassifyJob`
    """

    layout: Layout
    hints: FeatureHints
    model: Path
    fingerprint: str
    out: Path
    dry_run: bool = False

    def __call__(self, item: FeatureItem) -> Outcome:
        from milpath.nn.classify_features import classify_features

        if not self.dry_run:
            return _load_feature_classifier(self)(item)
        spec = _load_spec(self.model, self.fingerprint)
        return classify_features(item, self.out, spec, self.layout, self.hints)


@dataclass(frozen=True)
class EmbedJob:
    """Embeds a bag; see `milpath.nn.embed.Embedder`.

    Attributes
    ----------
    folder : of the encoder; see `save_encoder`
    digest : of its weights; the folder may be replaced before the job runs
    out : folder of the features
    weights : of an encoder that is only referred to; see `load_encoder`
    """

    folder: Path
    digest: str
    out: Path
    weights: Path | None = None

    def __call__(self, item: WorkItem) -> Outcome:
        return _load_embedder(self)(item)


@dataclass(frozen=True)
class EmbedSlideJob:
    """Embeds a slide; see `milpath.nn.embed_slide.SlideEmbedder`.

    Attributes
    ----------
    folder, digest, out, weights : as in `EmbedJob`
    params : how slides are tiled
    threads : that read the slide while the network works
    """

    folder: Path
    digest: str
    out: Path
    params: TileParams
    weights: Path | None = None
    threads: int = 2

    def __call__(self, entry: SlideEntry) -> Outcome:
        return _load_slide_embedder(self)(entry)


@lru_cache(maxsize=1)
def _load_spec(model: Path, fingerprint: str) -> BundleSpec:
    try:
        spec = read_bundle_spec(model)
    except StoredFileError as error:
        raise UsageError(str(error)) from None
    _require_same(model, spec.fingerprint, fingerprint)
    return spec


@lru_cache(maxsize=1)  # a process works for one run at a time
def _load_classifier(job: ClassifyJob) -> Classifier:
    bundle = _load_bundle(job.model, job.fingerprint)
    from milpath.nn.classify import Classifier
    from milpath.nn.predict import prepare_model

    try:
        model = prepare_model(bundle, job.weights)
    except StoredFileError as error:
        raise UsageError(str(error)) from None
    return Classifier(model, job.out, job.threads)


@lru_cache(maxsize=1)
def _load_feature_classifier(job: ClassifyFeaturesJob) -> FeatureClassifier:
    bundle = _load_bundle(job.model, job.fingerprint)
    from milpath.nn.classify_features import FeatureClassifier
    from milpath.nn.predict_features import predict_features, prepare_for_features

    predict = partial(predict_features, prepare_for_features(bundle))
    return FeatureClassifier(predict, bundle.spec, job.out, job.layout, job.hints)


def _load_bundle(model: Path, fingerprint: str) -> Bundle:
    import_keras()
    from milpath.nn.bundle import load_bundle

    try:
        bundle = load_bundle(model)
    except StoredFileError as error:  # every slide would fail in the same way
        raise UsageError(str(error)) from None
    _require_same(model, bundle.spec.fingerprint, fingerprint)
    return bundle


@lru_cache(maxsize=1)
def _load_embedder(job: EmbedJob) -> Embedder:
    encoder = _load_encoder(job.folder, job.weights, job.digest)
    from milpath.nn.embed import Embedder

    return Embedder(encoder, job.out)


@lru_cache(maxsize=1)
def _load_slide_embedder(job: EmbedSlideJob) -> SlideEmbedder:
    encoder = _load_encoder(job.folder, job.weights, job.digest)
    from milpath.nn.embed_slide import SlideEmbedder

    return SlideEmbedder(encoder, job.out, job.params, job.threads)


def _load_encoder(folder: Path, weights: Path | None, digest: str) -> Encoder:
    import_keras()
    from milpath.nn.bundle import load_encoder

    try:
        encoder = load_encoder(folder, weights)
    except StoredFileError as error:
        raise UsageError(str(error)) from None
    _require_same(folder, encoder.spec.digest or "", digest)
    return encoder


def _require_same(folder: Path, found: str, expected: str) -> None:
    if found != expected:
        raise UsageError(f"{folder}: was replaced during the run; start the run again")
