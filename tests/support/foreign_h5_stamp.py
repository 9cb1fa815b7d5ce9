"""Feature files of STAMP, drawn by hand from their description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tests.support.foreign_tensors import Drawn

SLIDE_MPP = 0.25


def write_stamp(folder: Path, slide_id: str, drawn: Drawn, **more: Any) -> Path:
    """Write what STAMP 2.3 and later do; `more` are attributes in place of, None for none."""
    edge = drawn.mpp * drawn.patch_px
    attrs: dict[str, Any] = {
        "stamp_version": "2.5.0",
        "extractor": drawn.encoder,
        "unit": "um",
        "tile_size_um": np.float64(edge),
        "tile_size_px": drawn.patch_px,
        "code_hash": "49b04e14",
        "feat_type": "tile",
    }
    coords = (drawn.coords * SLIDE_MPP).astype(np.float32)
    return write_feats(folder, slide_id, drawn.features, coords, attrs | more)


def write_stamp_2_0(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write what STAMP 2.0 did: the µm of a tile, not its pixels, and a digest of the code."""
    return write_stamp(
        folder,
        slide_id,
        drawn,
        stamp_version="2.0.0",
        extractor=f"{drawn.encoder}-d249c29a",
        tile_size=drawn.mpp * drawn.patch_px,
        **dict.fromkeys(("tile_size_um", "tile_size_px", "code_hash", "feat_type")),
    )


def write_stamp_1(
    folder: Path, slide_id: str, features: NDArray[Any], places: NDArray[Any], **info: Any
) -> Path:
    """Write what STAMP 1 did: coordinates in pixels of the tiles, and `info.json` beside.

    Parameters
    ----------
    places : column and row of each tile, or row and column
    info : what the file beside says; without it there is none
    """
    edge = info.get("patch_size", 224)
    attrs = {"extractor": "STAMP-extract-001_01-10-2023_some-net-7c998680"}
    path = write_feats(folder, slide_id, features, places * edge, attrs)
    with h5py.File(path, "a") as h5:
        h5["augmented"] = np.zeros(len(features), bool)
    if info:
        (folder / "info.json").write_text(json.dumps(attrs | info))
    return path


def write_feats(
    folder: Path,
    slide_id: str,
    features: NDArray[Any],
    coords: NDArray[Any] | None,
    attrs: dict[str, Any],
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slide_id}.h5"
    with h5py.File(path, "w") as h5:
        h5["feats"] = features
        if coords is not None:
            h5["coords"] = coords
        h5.attrs.update({name: value for name, value in attrs.items() if value is not None})
    return path
