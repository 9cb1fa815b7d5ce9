"""Embed bags: run an encoder over the patches of bags, and store their features."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.cohort.workitem import WorkItem
from milpath.errors import StoredFileError, UsageError
from milpath.formats.bag import Bag, BagHeader, Origin
from milpath.formats.features import find_features, write_features
from milpath.formats.layout import features_path, list_bags
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bundle import load_encoder
from milpath.nn.encoders import (
    OWN_ENCODERS,
    build_encoder,
    fingerprint_weights,
    resize_encoder,
)
from milpath.nn.engine import keras
from milpath.nn.fitting import Patches, fit_encoder
from milpath.nn.scoring import BATCH
from milpath.params import GridParams
from milpath.runs import Facts, Outcome, describe_redo, planned_outcome, skipped_outcome
from milpath.tile import describe_header

log = logging.getLogger(__name__)

_GRID = GridParams()


@dataclass(frozen=True)
class EmbedFacts(Facts):
    """Facts about the features of a slide."""

    patches: int
    dim: int
    """Numbers per patch."""
    encoder: str
    """Its name."""
    unreadable: int = 0
    """Patches left out because the slide's file is damaged there."""
    left_out: int = 0
    """Patches left out as artefacts."""


class Embedder:
    """The job that embeds a bag, with an encoder that is loaded already.

    Parameters
    ----------
    encoder, spec : the network, and its description with the digest of its weights
    out : folder of the features
    dry_run : say what would be done, and write nothing
    """

    def __init__(
        self, encoder: keras.Model, spec: EncoderSpec, out: Path, *, dry_run: bool = False
    ) -> None:
        self.encoder = encoder
        self.spec = spec
        self.out = out
        self.dry_run = dry_run

    def __call__(self, item: WorkItem) -> Outcome:
        """Write the features of a bag, unless they are there already.

        Raises
        ------
        StoredFileError : not a bag, or its patches do not fit the encoder
        OutputError : the features cannot be written
        """
        spec, path = self.spec, features_path(self.out, item.slide_id)
        with Bag(item.path) as bag:
            _require_patches(bag, spec)
            header = bag.header
            facts = EmbedFacts(len(bag), spec.dim, spec.name, header.unreadable, header.left_out)
            found = find_features(path, Origin.of_stored(bag.slide, header), spec)
            if found.state == "current":
                message = f"{len(bag)} patches, already done with this encoder"
                return skipped_outcome(item, message, facts, dry_run=self.dry_run)
            if self.dry_run:
                return planned_outcome(item, "embedded", found)
            write_features(path, bag, embed_patches(self.encoder, bag), spec)
        said = [describe_features(header, facts.patches, spec), describe_redo("embedded", found)]
        return Outcome(item.slide_id, header.status, ", ".join(filter(None, said)), facts)


def describe_features(header: BagHeader, patches: int, spec: EncoderSpec) -> str:
    """Describe in a line the features of a slide with a number of patches."""
    said = describe_header(header, patches, "features")
    return f"{said}, {spec.dim} features each" if patches else said


def _require_patches(bag: Bag, spec: EncoderSpec) -> None:
    """Raise `StoredFileError` unless the patches of a bag are what the encoder is to see."""
    bag.require_pixels()
    grid = bag.header.params.grid
    for name, option, found, needed in (
        ("px", "patch-size", grid.patch_px, spec.patch_px),
        ("µm per pixel", "mpp", grid.mpp, spec.mpp),
    ):
        if found != needed:
            raise StoredFileError(
                f"{bag.path.name}: has patches of {found:g} {name}, the encoder needs {needed:g}; "
                f"tile again with --{option} {needed:g}"
            )


def embed_patches(encoder: keras.Model, bag: Bag) -> Iterator[NDArray[np.float32]]:
    """Yield the features of a bag's patches, float32 (n, D) per batch, in order.

    One batch is read ahead.
    """
    batches = bag.iter_patches(BATCH)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, batches, None)
        while (patches := ahead.result()) is not None:
            ahead = reader.submit(next, batches, None)
            yield encode(encoder, patches)


def encode(encoder: keras.Model, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute the features (n, D) of up to `BATCH` patches (n, P, P, 3)."""
    count = len(patches)
    full = np.pad(patches, [(0, BATCH - count), (0, 0), (0, 0), (0, 0)])
    return np.asarray(encoder.predict_on_batch(full)[:count])


def choose_encoder(
    name: str, weights: str, patches: Patches, seed: int = 0, *, allow: bool = False
) -> tuple[keras.Model, EncoderSpec]:
    """Build or load an encoder for patches.

    Parameters
    ----------
    name : of a network in `keras.applications`, or a model folder
    weights : "imagenet", "random" or a file; not used for a model folder
    patches : that it is to see
    seed : for random weights
    allow : apply it to patches that it was not made for, and log that

    Raises
    ------
    UsageError : no such encoder or weights, or it was not made for such patches
    """
    if Path(name).is_dir():
        encoder, spec = load_encoder(Path(name))
        fitted = fit_encoder(spec, patches, allow=allow)
        if fitted.patch_px != spec.patch_px:
            encoder = resize_encoder(encoder, fitted)
    elif name in OWN_ENCODERS:
        raise UsageError(
            f"the {name} CNN is trained with its model; give the model's folder instead"
        )
    else:
        keras.utils.set_random_seed(seed)
        side = patches.patch_px or _GRID.patch_px
        encoder = build_encoder(name, side, None if weights == "random" else weights)
        fitted = EncoderSpec(
            name=name.lower(),
            patch_px=encoder.input_shape[1],
            dim=encoder.output_shape[-1],
            weights=Path(weights).name,
            mpp=patches.mpp or _GRID.mpp,
        )
        if patches.mpp is None:
            log.warning(
                "%s was made for no particular resolution: patches have %g µm per pixel; give "
                "another with --mpp",
                fitted.name,
                fitted.mpp,
            )
    return encoder, fitted.model_copy(update={"digest": fingerprint_weights(encoder)})


def name_folder(spec: EncoderSpec) -> str:
    """Return the name of the folder of an encoder's features, one for each set of weights."""
    if spec.weights == "imagenet" or spec.digest is None:
        return spec.name
    return f"{spec.name}-{spec.digest[:8]}"


def read_patches_of(bags: Sequence[WorkItem]) -> Patches:
    """Return what patches bags hold, by the first readable one.

    Raises
    ------
    UsageError : none is readable
    """
    reason: StoredFileError | None = None
    for item in bags:
        try:
            with Bag(item.path) as bag:
                grid = bag.header.params.grid
                return Patches(grid.patch_px, grid.mpp, in_bags=True)
        except StoredFileError as error:
            reason = error
    raise UsageError(f"no readable bag: {reason}")


def find_bags(folder: Path) -> list[WorkItem]:
    """List the bags of a folder."""
    return [WorkItem(path, path.stem) for path in list_bags(folder)]
