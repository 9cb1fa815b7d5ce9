"""slide2vec's `tile_embeddings/<slide>.pt` or `.npz`, with the tiles of hs2p beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.formats.foreign.arrays import as_coords, pick_features
from milpath.formats.foreign.folders import find_files
from milpath.formats.foreign.h5 import get_number, get_text, get_whole
from milpath.formats.foreign.jsonfile import read_json
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    SlideFeatures,
    find_mpp,
    settle,
)
from milpath.slides.names import printable
from milpath.store.npyfile import read_npy, read_npz
from milpath.store.torchfile import read_torch

_FEATURES, _TILES = "tile_embeddings", "tiles"
_OLD_FEATURES, _OLD_TILES = "features", "coordinates"  # before version 3
_META = ".meta.json"
_TOOL = "slide2vec"


class Slide2vecLayout:
    """Features of tiles, with a JSON file of each slide; before version 3 without it.

    The folder is the one that holds `tile_embeddings`, or `tile_embeddings` itself, or a class of
    an annotation in it. The tiles lie in `tiles` beside it. Before version 3 the folders were
    `features` and `coordinates`, and the µm per pixel is not stored.
    """

    name = "slide2vec"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the features of each slide by its id; empty if the folder is not of slide2vec.

        Raises `StoredFileError` if a slide has both a `.pt` and an `.npz` file.
        """
        for place in (folder, folder / _FEATURES):
            stated = find_files(place, _META)
            features = _find_features(place)
            if features.keys() & stated.keys() and _FEATURES in place.absolute().parts[-2:]:
                return features
        for place in (folder, folder / _OLD_FEATURES):
            tiles = find_files(place.absolute().parent / _OLD_TILES, ".npy")
            features = _find_features(place)
            if place.absolute().name == _OLD_FEATURES and features.keys() & tiles.keys():
                return features
        return {}

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        slide_id = path.name.removesuffix(path.suffix)
        arrays = read_npz(path) if path.suffix == ".npz" else read_torch(path).tensors
        features = pick_features(path, {k: v for k, v in arrays.items() if k != "tile_index"})
        stated = read_json(path.with_name(slide_id + _META), _TOOL)
        kind = stated.get("artifact_type", _FEATURES)
        if kind != _FEATURES:
            raise StoredFileError(
                f"{path.name}: holds {printable(str(kind))}, expected {_FEATURES}; give the "
                "folder of these"
            )
        tiles = _read_tiles(path, slide_id, len(features))
        patch_px = get_whole(stated.get("requested_tile_size_px")) or tiles.patch_px
        size = get_number(stated.get("tile_size_lv0")) or tiles.size_l0
        encoder = get_text(stated.get("encoder_name"))
        spacing = get_number(stated.get("requested_spacing_um"))
        mpp = settle(path, "µm per pixel", spacing, hints.mpp)
        facts = FeatureFacts(
            layout=self.name,
            dim=features.shape[1],
            encoder=settle(path, "encoder", encoder, hints.encoder),
            patch_px=settle(path, "patch size", patch_px, hints.patch_px),
            mpp=find_mpp(mpp, hints, patch_px, size),
            tool=_TOOL,
        )
        return SlideFeatures(slide_id, features, tiles.coords, size, facts, tiles.slide_size)


@dataclass(frozen=True, eq=False)
class _Tiles:
    """Corners of tiles (N, 2), their edge in pixels and in level-0 pixels, and size of the slide.

    None where it is not stated.
    """

    coords: NDArray[np.int64] | None = None
    patch_px: int | None = None
    size_l0: float | None = None
    slide_size: tuple[int, int] | None = None


def _find_features(folder: Path) -> dict[str, Path]:
    tensors, archives = find_files(folder, ".pt"), find_files(folder, ".npz")
    for slide_id in tensors.keys() & archives.keys():
        raise StoredFileError(
            f"{slide_id}: has both a .pt and an .npz file of features; remove one of them"
        )
    return dict(sorted({**tensors, **archives}.items()))


def _read_tiles(path: Path, slide_id: str, count: int) -> _Tiles:
    """Read the tiles beside the folder of features."""
    folder = path.absolute().parent
    if folder.name == _OLD_FEATURES:
        return _read_old_tiles(folder.parent / _OLD_TILES / f"{slide_id}.npy", count)
    named = () if folder.name == _FEATURES else (folder.name,)  # class of an annotation
    tiles = folder.parents[len(named)].joinpath(_TILES, *named)
    stated = read_json(tiles / f"{slide_id}.coordinates{_META}", "hs2p")
    slide_size = _get_slide_size(stated.get("slide"))
    place = tiles / f"{slide_id}.coordinates.npz"
    if not place.is_file():
        return _Tiles(slide_size=slide_size)
    return _Tiles(_stack(place, read_npz(place), count), slide_size=slide_size)


def _read_old_tiles(path: Path, count: int) -> _Tiles:
    if not path.is_file():
        return _Tiles()
    tiles = read_npy(path)
    fields = {name: tiles[name] for name in tiles.dtype.names or ()}
    coords = _stack(path, fields, count)
    edges = (_get_only(fields, name) for name in ("target_tile_size", "tile_size_lv0"))
    patch_px, size = edges
    return _Tiles(coords, get_whole(patch_px), get_number(size))


def _stack(path: Path, tiles: dict[str, Any], count: int) -> NDArray[np.int64]:
    if not {"x", "y"} <= tiles.keys() or tiles["x"].shape != tiles["y"].shape:
        raise StoredFileError(f"{path.name}: holds no x and y of tiles; write it again")
    return as_coords(path, np.stack([tiles["x"], tiles["y"]], axis=-1), count)


def _get_only(fields: dict[str, Any], name: str) -> float | None:
    """Return the value that all tiles have, None if they differ or it is not stated."""
    values = np.unique(fields[name]) if name in fields else np.empty(0)
    return float(values[0]) if len(values) == 1 else None


def _get_slide_size(slide: object) -> tuple[int, int] | None:
    size = slide.get("dimensions") if isinstance(slide, dict) else None
    if not isinstance(size, list) or len(size) != 2:
        return None
    width, height = map(get_whole, size)
    return (width, height) if width and height else None
