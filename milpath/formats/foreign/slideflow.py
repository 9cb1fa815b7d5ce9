"""Bags of slideflow: `<slide>.pt`, `<slide>.index.npz`, and `bags_config.json` for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.formats.foreign.arrays import as_coords, pick_features
from milpath.formats.foreign.folders import find_files
from milpath.formats.foreign.h5 import get_text
from milpath.formats.foreign.jsonfile import read_json
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    SlideFeatures,
    scale_to_l0,
    settle,
)
from milpath.store.npyfile import read_npz
from milpath.store.torchfile import read_torch

_CONFIG = "bags_config.json"
_INDEX = ".index.npz"


class SlideflowLayout:
    """A folder of bags that slideflow's `generate_feature_bags` wrote.

    Its index holds the centre of each tile; without the size of a tile in level-0 pixels, which
    depends on the slide, the corners are not known and `coords_l0` is None.
    """

    name = "slideflow"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the bag of each slide by its id; empty if the folder is not of slideflow."""
        if not (folder / _CONFIG).is_file() and not find_files(folder, _INDEX):
            return {}
        return find_files(folder, ".pt")

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        config = read_json(path.with_name(_CONFIG), "slideflow")
        features = pick_features(path, read_torch(path).tensors)
        slide_id = path.name.removesuffix(".pt")
        patch_px = settle(path, "patch size", _get_count(config, "tile_px"), hints.patch_px)
        facts = FeatureFacts(
            layout=self.name,
            dim=features.shape[1],
            encoder=settle(path, "encoder", _get_encoder(config), hints.encoder),
            patch_px=patch_px,
            mpp=settle(path, "µm per pixel", _get_mpp(config), hints.mpp),
            tool="slideflow",
        )
        size = scale_to_l0(facts, hints)
        centres = _read_centres(path.with_name(slide_id + _INDEX), len(features))
        coords = None if centres is None or size is None else centres - round(size / 2)
        return SlideFeatures(slide_id, features, coords, size, facts)


def _read_centres(path: Path, count: int) -> NDArray[np.int64] | None:
    """Return x and y of the centre of each tile, None without the file."""
    if not path.is_file():
        return None
    arrays = read_npz(path)
    if "arr_0" not in arrays:
        raise StoredFileError(f"{path.name}: holds no 'arr_0'; expected the index of a bag")
    return as_coords(path, arrays["arr_0"], count)


def _get_encoder(config: dict[str, Any]) -> str | None:
    """Return the class of the extractor without its module: slideflow stores no other name."""
    extractor = config.get("extractor")
    name = extractor.get("class") if isinstance(extractor, dict) else None
    return get_text(name.rpartition(".")[2]) if isinstance(name, str) else None


def _get_count(config: dict[str, Any], name: str) -> int | None:
    value = config.get(name)
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 16
    return value if whole else None


def _get_mpp(config: dict[str, Any]) -> float | None:
    """Return µm per pixel; None where the size of a tile is a magnification such as "20x"."""
    edge, px = config.get("tile_um"), _get_count(config, "tile_px")
    if px is None or isinstance(edge, bool) or not isinstance(edge, int | float):
        return None
    return edge / px if 0 < edge < 1 << 20 else None
