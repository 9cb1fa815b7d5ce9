"""Small generated bags, ensemble members and models."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from milpath.cohort.cohort import Cohort, SlideEntry
from milpath.formats.bag import Bag, encode_patch, write_bag
from milpath.formats.features import write_features
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.layout import features_path, member_path
from milpath.formats.model_spec import EncoderSpec, read_bundle_spec
from milpath.nn import bags as sources
from milpath.nn.bags import LabelledBag
from milpath.nn.bundle import Bundle, assemble_bundle, load_bundle, save_bundle
from milpath.nn.encoders import SMALL, build_encoder
from milpath.nn.encoders.encoder import NetworkEncoder
from milpath.nn.mil import Member, build_head
from milpath.params import CodecParams, GridParams, HeadParams, TileParams, TrainParams
from milpath.patches.grid import PatchGrid
from milpath.slides.facts import SlideFacts

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

keras_saves = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")
"""For tests that write Keras' file format: its writer uses a deprecated NumPy protocol."""

HEAD = HeadParams(projection_dim=12, attention_dim=8, dropout=0.25)  # half of 12 would be too much


@dataclass(frozen=True)
class TiledCohort:
    """Twelve synthetic slides, half of them with a tumour, and their bags of about 40 patches."""

    cohort: Cohort
    bags: Path


def random_patches(count: int, side: int = 16, seed: int = 0) -> Pixels:
    shape = (count, side, side, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def raw_tile(side: int, mpp: float = 1.0) -> TileParams:
    """Return tiling parameters for lossless bags."""
    grid = GridParams(mpp=mpp, patch_px=side)
    return TileParams(grid=grid, pixels=CodecParams(codec="raw"))


def make_bag(
    folder: Path,
    slide_id: str,
    patches: Pixels,
    tile: TileParams | None = None,
    background: Literal["bright", "dark"] = "bright",
) -> Path:
    """Write a bag of patches (N, P, P, 3), side by side on a slide that does not exist."""
    count, side = patches.shape[:2]
    width = max(1, count) * side
    slide = SlideFacts(slide_id, "made", width, side, 1.0, 1.0, "slide", None, slide_id)
    coords = np.stack([np.arange(count) * side, np.zeros(count)], axis=1).astype(np.int64)
    grid = PatchGrid(coords, side, side, side, (0, 0), 1.0, 0)
    path = folder / f"{slide_id}.h5"
    tile = tile or raw_tile(side)
    encoded = ((row, encode_patch(each, tile.pixels)) for row, each in enumerate(patches))
    write_bag(path, slide, grid, background, encoded, tile)
    return path


def make_features(
    folder: Path,
    slide_id: str,
    features: NDArray[Any],
    encoder: EncoderSpec | None = None,
    background: Literal["bright", "dark"] = "bright",
    tile: TileParams | None = None,
) -> Path:
    """Write the features (N, D) of a bag that is gone."""
    bags = folder / "gone"
    source = make_bag(bags, slide_id, random_patches(len(features)), tile, background)
    path = features_path(folder, slide_id)
    with Bag(source) as bag:
        write_features(path, bag, [features], encoder or features_spec(features.shape[1]))
    shutil.rmtree(bags)
    return path


def features_spec(dim: int, name: str = "made", digest: str = "code") -> EncoderSpec:
    """Return the record of an encoder of 16 px patches at 1 µm per pixel."""
    return EncoderSpec(name=name, patch_px=16, dim=dim, mpp=1.0, digest=digest)


def stored_features(path: Path) -> sources.Features:
    """Return the features of a file of milpath as a source of training."""
    return sources.Features(MilpathLayout(), path, FeatureHints())


def read_stored(path: Path) -> NDArray[Any]:
    """Read all features of a file of milpath."""
    with MilpathLayout().open(path, FeatureHints()) as slide:
        return slide.features[:]


def make_records(
    folder: Path, sizes: Sequence[int], labels: Sequence[int], side: int = 16
) -> list[LabelledBag]:
    """Write bags of random patches; the pixels of bag i have seed i."""
    return [
        LabelledBag(
            sources.Pixels(make_bag(folder, f"b{number}", random_patches(size, side, seed=number))),
            f"b{number}",
            f"b{number}",
            label,
            size,
        )
        for number, (size, label) in enumerate(zip(sizes, labels, strict=True))
    ]


def make_cohort(folder: Path, labels: Sequence[str | None]) -> Cohort:
    """Return a cohort of slides b0, b1, ... that exist only as bags."""
    entries = [
        SlideEntry(folder / f"b{number}.tif", f"b{number}", label)
        for number, label in enumerate(labels)
    ]
    return Cohort("made", tuple(entries))


def make_member(
    classes: int = 2, side: int | None = 16, dim: int = 128, head: HeadParams = HEAD
) -> Member:
    """Return a member with random weights, for pixels, or for features if `side` is None."""
    layer = build_head(classes, head, projected=side is None)
    layer.build((None, None, dim))
    rng = np.random.default_rng(len(layer.weights) + classes)
    layer.classifier.bias.assign(rng.normal(size=classes))
    return Member(layer, None if side is None else build_encoder(SMALL, side))


def make_bundle(
    folder: Path,
    members: int = 1,
    classes: tuple[str, ...] = ("normal", "tumour"),
    seed: int = 0,
    tile: TileParams | None = None,
    mode: Literal["pixels", "features"] = "pixels",
    background: Literal["bright", "dark"] = "bright",
) -> Bundle:
    """Return a model with random weights, saved and loaded."""
    tile = tile or raw_tile(16)
    side = tile.grid.patch_px
    keras.utils.set_random_seed(seed)
    encoder = EncoderSpec(name=SMALL, patch_px=side, dim=128, weights="trained")
    made = [make_member(len(classes), side if mode == "pixels" else None) for _ in range(members)]
    bundle = assemble_bundle(
        {
            "class_names": classes,
            "mode": mode,
            "encoder": encoder,
            "head": HEAD,
            "tile": tile,
            "background": background,
        },
        made,
        NetworkEncoder(build_encoder(SMALL, side), encoder) if mode == "features" else None,
    )
    save_bundle(folder, bundle)
    return load_bundle(folder)


def member_file(folder: Path, number: int = 0) -> Path:
    """Return the weights file of a member of the model in `folder`."""
    return member_path(folder, number, read_bundle_spec(folder).fingerprint)


# -- generated features: one marked instance decides the class -------------------------

DIM, PER_BAG = 16, 20
HEAD_ALONE = TrainParams(
    mode="features", head=HEAD, epochs=15, patience=8, learning_rate=1e-2, bag_batch=8
)


@dataclass(frozen=True)
class Marked:
    """Bags of features; in a bag of class c > 0 one instance has the marker of c."""

    records: list[LabelledBag]
    features: list[NDArray[np.float16]]
    marked: list[int | None]


def make_marked(
    folder: Path, count: int, classes: int = 2, dim: int = DIM, code: str = "code"
) -> Marked:
    rng = np.random.default_rng(0)
    records, features, marked = [], [], []
    for number in range(count):
        label = number % classes
        values = rng.normal(0, 0.2, (PER_BAG, dim)).astype(np.float16)
        place = int(rng.integers(PER_BAG)) if label else None
        if place is not None:
            values[place, 4 * label : 4 * label + 4] += 3
        path = make_features(folder, f"b{number}", values, features_spec(dim, SMALL, code))
        source = stored_features(path)
        records.append(LabelledBag(source, f"b{number}", f"b{number}", label, PER_BAG))
        features.append(values)
        marked.append(place)
    return Marked(records, features, marked)
