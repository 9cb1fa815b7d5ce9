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
from milpath.formats.bag import Bag
from milpath.formats.features import find_features, write_features
from milpath.formats.layout import features_path, list_bags
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bundle import load_encoder
from milpath.nn.encoders import OWN_ENCODERS, build_encoder, fingerprint_weights
from milpath.nn.engine import keras
from milpath.nn.scoring import BATCH
from milpath.params import GridParams
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
            facts = EmbedFacts(len(bag), spec.dim, spec.name)
            found = find_features(path, bag.header.fingerprint, spec)
            if found.state == "current":
                message = f"{len(bag)} patches, already done with this encoder"
                return skipped_outcome(item, message, facts, dry_run=self.dry_run)
            if self.dry_run:
                return planned_outcome(item, "embedded", found)
            write_features(path, bag, embed_patches(self.encoder, bag), spec)
        message = f"{facts.patches} patches, {facts.dim} features each"
        message = ", ".join(filter(None, [message, describe_redo("embedded", found)]))
        return Outcome(item.slide_id, "ok", message, facts)


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
            count = len(patches)
            full = np.pad(patches, [(0, BATCH - count), (0, 0), (0, 0), (0, 0)])
            yield np.asarray(encoder.predict_on_batch(full)[:count])


def choose_encoder(
    name: str, weights: str, bags: Sequence[WorkItem], seed: int
) -> tuple[keras.Model, EncoderSpec]:
    """Build or load an encoder, for patches as in the first readable bag.

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
        grid = _read_grid(bags)
        if spec.patch_px != grid.patch_px:
            raise UsageError(
                f"the bags have patches of {grid.patch_px} px, the encoder needs {spec.patch_px}; "
                f"tile again with --patch-size {spec.patch_px}"
            )
    elif name in OWN_ENCODERS:
        raise UsageError(
            f"the {name} CNN is trained with its model; give the model's folder instead"
        )
    else:
        grid = _read_grid(bags)
        keras.utils.set_random_seed(seed)
        encoder = build_encoder(name, grid.patch_px, None if weights == "random" else weights)
        spec = EncoderSpec(
            name=name.lower(),
            patch_px=encoder.input_shape[1],
            dim=encoder.output_shape[-1],
            weights=Path(weights).name,
        )
    known = {"digest": fingerprint_weights(encoder), "mpp": spec.mpp or grid.mpp}
    return encoder, spec.model_copy(update=known)


def name_folder(spec: EncoderSpec) -> str:
    """Return the name of the folder of an encoder's features, one for each set of weights."""
    if spec.weights == "imagenet" or spec.digest is None:
        return spec.name
    return f"{spec.name}-{spec.digest[:8]}"


def _read_grid(bags: Sequence[WorkItem]) -> GridParams:
    reason: StoredFileError | None = None
    for item in bags:
        try:
            with Bag(item.path) as bag:
                return bag.header.params.grid
        except StoredFileError as error:
            reason = error
    raise UsageError(f"no readable bag: {reason}")


def find_bags(folder: Path) -> list[WorkItem]:
    """List the bags of a folder."""
    return [WorkItem(path, path.stem) for path in list_bags(folder)]
