"""Embed: run an encoder over the patches of bags, and store their features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.cohort.workitem import WorkItem
from milpath.errors import StoredFileError, UsageError
from milpath.formats.bag import Bag, write_features
from milpath.formats.existing import Existing
from milpath.formats.layout import list_bags
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bundle import load_encoder
from milpath.nn.encoders import OWN_ENCODERS, build_encoder, fingerprint_weights
from milpath.nn.engine import keras
from milpath.nn.predict import BATCH
from milpath.runs import Facts, Outcome, describe_redo, planned_outcome, skipped_outcome


@dataclass(frozen=True)
class EmbedFacts(Facts):
    """Facts about the features of a bag."""

    patches: int
    dim: int
    """Numbers per patch."""
    encoder: str
    """Its name."""


class Embedder:
    """The job that embeds a bag, with an encoder that is loaded already.

    Parameters
    ----------
    encoder, spec : the network, and its description
    dry_run : say what would be done, and write nothing
    """

    def __init__(self, encoder: keras.Model, spec: EncoderSpec, *, dry_run: bool = False) -> None:
        self.encoder = encoder
        self.spec = spec
        self.dry_run = dry_run
        self.fingerprint = fingerprint_weights(encoder)

    def __call__(self, item: WorkItem) -> Outcome:
        """Write the features of a bag into it, unless they are there already.

        Raises
        ------
        StoredFileError : not a bag, or its patches do not fit the encoder
        OutputError : the bag cannot be written
        """
        with Bag(item.path) as bag:
            found = find_features(bag, self.spec, self.fingerprint)
            if found.value is not None:
                message = f"{len(bag)} patches, already done with this encoder"
                return skipped_outcome(item, message, found.value, dry_run=self.dry_run)
            if self.dry_run:
                return planned_outcome(item, "embedded", found)
            batches = embed_patches(self.encoder, bag)
            write_features(bag, batches, self.spec.name, self.fingerprint, self.spec.dim)
            facts = EmbedFacts(len(bag), self.spec.dim, self.spec.name)
        message = f"{facts.patches} patches, {facts.dim} features each"
        message = ", ".join(filter(None, [message, describe_redo("embedded", found)]))
        return Outcome(item.slide_id, "ok", message, facts)


def find_features(bag: Bag, spec: EncoderSpec, fingerprint: str) -> Existing[EmbedFacts]:
    """Find the features of an encoder in a bag.

    Parameters
    ----------
    bag : an open bag
    spec : of the encoder
    fingerprint : of the encoder's weights

    Raises
    ------
    StoredFileError : the bag's patches are not of the size that the encoder needs
    """
    if bag.encoder is not None and bag.encoder[1] == fingerprint:
        return Existing.current(EmbedFacts(len(bag), spec.dim, spec.name))
    if bag.grid.patch_px != spec.patch_px:
        raise StoredFileError(
            f"{bag.path.name}: has patches of {bag.grid.patch_px} px, the encoder needs "
            f"{spec.patch_px}; tile again with --patch-size {spec.patch_px}"
        )
    if bag.encoder is None:
        return Existing()
    if bag.encoder[0] == spec.name:
        return Existing.stale(f"the weights of {spec.name} differ")
    return Existing.stale(f"encoder changed from {bag.encoder[0]} to {spec.name}")


def embed_patches(encoder: keras.Model, bag: Bag) -> Iterator[NDArray[np.float32]]:
    """Yield the features of a bag's patches, float32 (n, D) per batch, in order.

    One batch is read ahead.
    """
    batches = bag.iter_patches(BATCH)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, batches, None)
        while (patches := ahead.result()) is not None:
            ahead = reader.submit(next, batches, None)
            count = len(patches)
            full = np.pad(patches, [(0, BATCH - count), (0, 0), (0, 0), (0, 0)])
            yield np.asarray(encoder.predict_on_batch(full)[:count])


def choose_encoder(
    name: str, weights: str, bags: Sequence[WorkItem], seed: int
) -> tuple[keras.Model, EncoderSpec]:
    """Build or load an encoder, for patches of the size in the first readable bag.

    Parameters
    ----------
    name : of a network in `keras.applications`, or a model folder
    weights : "imagenet", "random" or a file; not used for a model folder
    bags : to be embedded
    seed : for random weights

    Raises
    ------
    UsageError : no such encoder or weights, or no readable bag
    """
    if Path(name).is_dir():
        encoder, spec = load_encoder(Path(name))
        if spec.patch_px != (found := _patch_px(bags)):
            raise UsageError(
                f"the bags have patches of {found} px, the encoder needs {spec.patch_px}; "
                f"tile again with --patch-size {spec.patch_px}"
            )
        return encoder, spec
    if name in OWN_ENCODERS:
        raise UsageError(
            f"the {name} CNN is trained with its model; give the model's folder instead"
        )
    keras.utils.set_random_seed(seed)
    encoder = build_encoder(name, _patch_px(bags), None if weights == "random" else weights)
    return encoder, EncoderSpec(
        name=name.lower(),
        patch_px=encoder.input_shape[1],
        dim=encoder.output_shape[-1],
        weights=Path(weights).name,
    )


def _patch_px(bags: Sequence[WorkItem]) -> int:
    reason: StoredFileError | None = None
    for item in bags:
        try:
            with Bag(item.path) as bag:
                return bag.grid.patch_px
        except StoredFileError as error:
            reason = error
    raise UsageError(f"no readable bag: {reason}")


def find_bags(folder: Path) -> list[WorkItem]:
    """List the bags of a folder."""
    return [WorkItem(path, path.stem) for path in list_bags(folder)]
