"""Write a small file of each format, as `tests/data/format-<number>` keeps them.

python scripts/write_stored_files.py FOLDER

Run once when a format is new; later versions read these files in `tests/formats/test_stored_files`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from milpath.formats.bag import Bag, encode_patch, write_bag
from milpath.formats.features import write_features
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.model_spec import EncoderSpec
from milpath.formats.prediction import write_prediction
from milpath.nn import import_keras
from milpath.params import CodecParams, GridParams, HeadParams, TileParams
from milpath.patches.grid import PatchGrid
from milpath.slides.facts import SlideFacts

_SIDE = 16
_TILE = TileParams(grid=GridParams(mpp=1.0, patch_px=_SIDE), pixels=CodecParams())
_ENCODER = EncoderSpec(name="drawn", patch_px=_SIDE, dim=6, mpp=1.0, digest="0" * 32)
_HEAD = HeadParams(projection_dim=4, attention_dim=3)


def main() -> None:
    """Write a bag, its features, a model of such features, and its prediction."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rng = np.random.default_rng(0)
    slide = SlideFacts("drawn", "drawn", 96, 64, 0.5, 0.5, "slide", 20.0, "q" * 64, "c" * 64, 0, 0)
    coords = np.array([[0, 0], [32, 0], [64, 0], [0, 32], [64, 32]], np.int64)
    grid = PatchGrid(coords, _SIDE, 32, 32, (0, 0), 1.0, 0)
    pixels = rng.integers(0, 256, (5, _SIDE, _SIDE, 3), np.uint8)
    patches = ((row, encode_patch(each, _TILE.pixels)) for row, each in enumerate(pixels))
    write_bag(folder / "bag.h5", slide, grid, "bright", patches, _TILE)
    with Bag(folder / "bag.h5") as bag:
        write_features(folder / "features.h5", bag, [rng.normal(size=(5, 6))], _ENCODER)
    write_model(folder, rng)


def write_model(folder: Path, rng: np.random.Generator) -> None:
    """Write a model of two members with drawn weights, and its prediction."""
    import_keras()
    from milpath.formats.space import fit_space
    from milpath.nn.bundle import assemble_bundle, save_bundle
    from milpath.nn.mil import Member, build_head
    from milpath.nn.predict_features import predict_features, prepare_for_features

    members = []
    for _ in range(2):
        head = build_head(2, _HEAD, projected=True)
        head.build((None, None, _ENCODER.dim))
        head.set_weights([rng.normal(size=weight.shape) for weight in head.get_weights()])
        members.append(Member(head, None))
    fields = {"class_names": ("normal", "tumour"), "mode": "features", "has_encoder": False}
    fields |= {"encoder": _ENCODER, "head": _HEAD, "tile": _TILE, "background": "bright"}
    space = fit_space([rng.normal(size=(4, 6)), rng.normal(size=(9, 6))])
    bundle = assemble_bundle(fields, members, None, space)
    save_bundle(folder / "model", bundle)
    path = folder / "features.h5"
    with MilpathLayout().open(path, FeatureHints()) as features:
        prediction = predict_features(prepare_for_features(bundle), path, features)
    write_prediction(folder / "drawn.prediction.h5", prediction)
    print(prediction.probs.tolist(), prediction.attention.tolist(), prediction.distance)


if __name__ == "__main__":
    main()
