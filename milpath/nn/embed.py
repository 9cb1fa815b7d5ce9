"""Embedding: an encoder runs over the patches of a bag."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from milpath.cohort.cohort import SlideEntry
from milpath.errors import StoredFileError, UsageError
from milpath.formats.bag import Bag, write_features
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bundle import load_encoder
from milpath.nn.encoder import OURS, build_encoder, digest_weights
from milpath.nn.predict import BATCH
from milpath.runs import Outcome, plan_outcome


class Embedder:
    """The job that embeds a bag; the entry's path is the bag's file."""

    def __init__(self, encoder: keras.Model, spec: EncoderSpec) -> None:
        self.encoder = encoder
        self.spec = spec
        self.code = digest_weights(encoder)

    def __call__(self, entry: SlideEntry) -> Outcome:
        with Bag(entry.path) as bag:
            found = find_features(bag, entry, self.spec, self.code)
            if isinstance(found, Outcome):
                return found
            batches = embed_patches(self.encoder, bag)
            write_features(bag, batches, self.spec.name, self.code, self.spec.dim)
            sentence = f"{len(bag)} patches to {self.spec.dim} numbers each"
            facts = _facts(bag, self.spec)
        if found:
            sentence += f", made anew: {found}"
        return Outcome(entry.slide_id, "ok", sentence, facts)


def preview_features(entry: SlideEntry, spec: EncoderSpec, code: str) -> Outcome:
    """What an `Embedder` would do with a bag; raises as `Bag` and `find_features` do."""
    with Bag(entry.path) as bag:
        return plan_outcome(entry, find_features(bag, entry, spec, code))


def find_features(
    bag: Bag, entry: SlideEntry, spec: EncoderSpec, code: str
) -> Outcome | str | None:
    """The outcome where a bag holds these embeddings, why others will not do, None without any.

    Raises
    ------
    StoredFileError : the bag's patches are not of the size that the encoder takes
    """
    if bag.encoder is not None and bag.encoder[1] == code:
        said = f"{len(bag)} patches, done before with this encoder"
        return Outcome(entry.slide_id, "skipped", said, _facts(bag, spec))
    if bag.grid.patch_px != spec.patch_px:
        raise StoredFileError(
            f"{entry.path.name}: patches of {bag.grid.patch_px} px, the encoder takes "
            f"{spec.patch_px}; tile again with --patch-size {spec.patch_px}"
        )
    if bag.encoder is None:
        return None
    if bag.encoder[0] == spec.name:
        return f"the weights of {spec.name} are others"
    return f"the encoder was {bag.encoder[0]}, is {spec.name}"


def _facts(bag: Bag, spec: EncoderSpec) -> dict[str, Any]:
    return {"patches": len(bag), "dim": spec.dim, "encoder": spec.name}


def embed_patches(encoder: keras.Model, bag: Bag) -> Iterator[NDArray[np.float32]]:
    """The embeddings of a bag's patches, batch by batch, in order; read one batch ahead."""
    batches = bag.iter_patches(BATCH)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, batches, None)
        while (patches := ahead.result()) is not None:
            ahead = reader.submit(next, batches, None)
            count = len(patches)
            full = np.pad(patches, [(0, BATCH - count), (0, 0), (0, 0), (0, 0)])
            yield np.asarray(encoder.predict_on_batch(full)[:count])


def choose_encoder(
    name: str, weights: str, bags: Sequence[SlideEntry], seed: int
) -> tuple[keras.Model, EncoderSpec]:
    """The encoder a user names, for patches of the size the first readable bag has.

    Parameters
    ----------
    name : of a network of `keras.applications`, or a model folder
    weights : "imagenet", "random" or a file; a model folder brings its own
    bags : to be embedded
    seed : of random weights

    Raises
    ------
    UsageError : no such encoder or weights, or no readable bag
    """
    if Path(name).is_dir():
        encoder, spec = load_encoder(Path(name))
        if spec.patch_px != (found := _patch_px(bags)):
            raise UsageError(
                f"the bags hold patches of {found} px, the encoder takes {spec.patch_px}; "
                f"tile again with --patch-size {spec.patch_px}"
            )
        return encoder, spec
    if name in OURS:
        raise UsageError(
            f"the {name} CNN is trained with its model: name the model's folder instead"
        )
    keras.utils.set_random_seed(seed)
    encoder = build_encoder(name, _patch_px(bags), None if weights == "random" else weights)
    return encoder, EncoderSpec(
        name=name.lower(),
        patch_px=encoder.input_shape[1],
        dim=encoder.output_shape[-1],
        weights=Path(weights).name,
    )


def _patch_px(bags: Sequence[SlideEntry]) -> int:
    reason: StoredFileError | None = None
    for entry in bags:
        try:
            with Bag(entry.path) as bag:
                return bag.grid.patch_px
        except StoredFileError as error:
            reason = error
    raise UsageError(f"no readable bag: {reason}")


def find_bags(folder: Path) -> list[SlideEntry]:
    """The bags of a folder, as entries whose path is the bag."""
    return [SlideEntry(path, path.stem) for path in sorted(folder.glob("*.h5"))]
