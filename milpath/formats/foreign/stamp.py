"""STAMP's `<slide>.h5`: features, and coordinates in µm."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.formats.foreign.h5 import (
    H5Sample,
    StoredRows,
    enter_h5,
    find_h5,
    get_number,
    get_text,
    get_whole,
)
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    SlideFeatures,
    scale_to_l0,
    settle,
)
from milpath.store.foreign import ForeignH5

_NAMES = ("feats", "patch_embeddings")
_OLD_TILE_PX, _OLD_TILE_UM = 224, 256.0  # before coordinates had a unit
_MAX_UM = 1e6


class StampLayout:
    """Features of tiles, with the µm from the corner of the canvas to the corner of each tile.

    The rows have no order. Coordinates become pixels with the slide's µm per pixel; without it they
    are None. The first versions counted in pixels of tiles of 224 px and 256 µm, without a unit.
    """

    name = "stamp"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the file of each slide by its id; empty if the folder is not of STAMP."""
        return find_h5(folder, _fits)

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        with ExitStack() as files:
            h5 = enter_h5(files, path)
            kind = h5.attr("feat_type")
            if kind not in (None, "tile"):
                raise h5.refuse(f"holds the features of a {kind}, expected those of its tiles")
            (name,) = [each for each in _NAMES if each in h5][:1] or [_NAMES[0]]
            rows = StoredRows(path, h5, name)
            um, tile_um, tile_px = _read_coords(path, h5, rows.shape[0])
            mpp = None if tile_um is None or tile_px is None else tile_um / tile_px
            facts = FeatureFacts(
                layout=self.name,
                dim=rows.shape[1],
                encoder=settle(path, "encoder", get_text(h5.attr("extractor")), hints.encoder),
                patch_px=settle(path, "patch size", tile_px, hints.patch_px),
                mpp=settle(path, "µm per pixel", mpp, hints.mpp),
                tool="STAMP",
                revision=get_text(h5.attr("code_hash")),
            )
            scale = hints.slide_mpp
            coords = None if scale is None else np.rint(um / scale).astype(np.int64)
            size = None if scale is None or tile_um is None else tile_um / scale
            return SlideFeatures(
                slide_id=path.name.removesuffix(".h5"),
                features=rows,
                coords_l0=coords,
                patch_size_l0=size or scale_to_l0(facts, hints),
                facts=facts,
                files=files.pop_all(),
            )


def _fits(sample: H5Sample) -> bool:
    return "coords" in sample.shapes and any(name in sample.shapes for name in _NAMES)


def _read_coords(
    path: Path, h5: ForeignH5, count: int
) -> tuple[NDArray[np.float64], float | None, int | None]:
    """Return coordinates (N, 2) in µm, and the edge of a tile in µm and in pixels."""
    shape = h5.shape("coords")
    if shape != (count, 2) or np.dtype(h5.dtype("coords")).kind not in "iuf":
        raise h5.refuse(f"'coords' is {h5.dtype('coords')} of shape {shape}, expected ({count}, 2)")
    values = h5.read("coords", h5.dtype("coords"), shape).astype(np.float64)
    if not (np.isfinite(values).all() and (np.abs(values) < _MAX_UM).all()):
        raise StoredFileError(f"{path.name}: its coordinates cannot be µm; make it again")
    if h5.attr("unit") is None:
        return values * (_OLD_TILE_UM / _OLD_TILE_PX), _OLD_TILE_UM, _OLD_TILE_PX
    if h5.attr("unit") != "um":
        raise h5.refuse(f"attribute 'unit' is {h5.attr('unit')}, expected um")
    edge = h5.attr("tile_size_um") or h5.attr("tile_size")
    return values, get_number(edge), get_whole(h5.attr("tile_size_px"))
