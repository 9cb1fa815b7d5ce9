"""Embed bags: run an encoder over the patches of bags, and store their features."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.cohort.workitem import WorkItem
from milpath.errors import StoredFileError
from milpath.formats.bag import Bag, BagHeader, Origin
from milpath.formats.features import find_features, write_features
from milpath.formats.layout import features_path, list_bags
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.encoders.encoder import BATCH, Encoder
from milpath.runs import Facts, Outcome, describe_redo, planned_outcome, skipped_outcome
from milpath.tile import describe_header


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
    encoder : of the patches
    out : folder of the features
    dry_run : say what would be done, and write nothing
    """

    def __init__(self, encoder: Encoder, out: Path, *, dry_run: bool = False) -> None:
        self.encoder = encoder
        self.out = out
        self.dry_run = dry_run

    def __call__(self, item: WorkItem) -> Outcome:
        """Write the features of a bag, unless they are there already.

        Raises
        ------
        StoredFileError : not a bag, or its patches do not fit the encoder
        OutputError : the features cannot be written
        """
        spec, path = self.encoder.spec, features_path(self.out, item.slide_id)
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


def embed_patches(encoder: Encoder, bag: Bag) -> Iterator[NDArray[np.float32]]:
    """Yield the features of a bag's patches, float32 (n, D) per batch, in order.

    One batch is read ahead.
    """
    batches = bag.iter_patches(BATCH)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, batches, None)
        while (patches := ahead.result()) is not None:
            ahead = reader.submit(next, batches, None)
            yield encoder.embed(patches)


def name_folder(spec: EncoderSpec) -> str:
    """Return the name of the folder of an encoder's features, one for each set of weights."""
    name = "-".join(filter(None, (spec.name, spec.variant)))
    name = re.sub(r"[^\w.+-]+", "-", name)  # a variant may be any text in a file
    if spec.weights == "imagenet" or spec.revision is not None or spec.digest is None:
        return name
    return f"{name}-{spec.digest[:8]}"


def find_bags(folder: Path) -> list[WorkItem]:
    """List the bags of a folder."""
    return [WorkItem(path, path.stem) for path in list_bags(folder)]
