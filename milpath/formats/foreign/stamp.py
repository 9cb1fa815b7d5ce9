"""STAMP's `<slide>.h5`: features, and coordinates in µm."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.formats.foreign.folders import find_nested
from milpath.formats.foreign.h5 import (
    H5Sample,
    StoredRows,
    enter_h5,
    find_h5,
    get_size,
    get_text,
    get_whole,
)
from milpath.formats.foreign.jsonfile import read_json
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    SlideFeatures,
    scale_to_l0,
    settle,
)
from milpath.store.foreign import ForeignH5

_NAMES = ("feats", "patch_embeddings")
_CODE = re.compile(r"(?:STAMP-extract-(?:[\d.-]+_)+)?(.+?)(?:-[0-9a-fA-F]{6,})?")
"""An encoder's name: without the version of STAMP, and the digest of its code or of the weights."""
_OLD_TILE_PX, _OLD_TILE_UM = 224, 256.0  # before coordinates had a unit, if nothing else is stated
_INFO = "info.json"  # of version 1
_MAX_UM = 1e6


class StampLayout:
    """Features of tiles, with the µm from the corner of the canvas to the corner of each tile.

    The rows have no order. Coordinates become pixels with the slide's µm per pixel; without it they
    are None. Version 1 counted in pixels of the tiles, mostly of 224 px and 256 µm, without a unit;
    version 2.0 does not state how many pixels a tile has. Files may lie in folders of the folder,
    as the slides did.
    """

    name = "stamp"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the file of each slide by its id; empty if the folder is not of STAMP.

        Raises
        ------
        StoredFileError : two folders of it hold features of the same slide
        """
        return find_h5(folder, _fits) or find_nested(folder, lambda each: find_h5(each, _fits))

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        with ExitStack() as files:
            h5 = enter_h5(files, path)
            _require_tiles(h5)
            rows = StoredRows(path, h5, next(each for each in _NAMES if each in h5))
            places = _read_places(path, h5, rows.shape[0], hints)
            patch_px = settle(path, "patch size", places.tile_px, hints.patch_px)
            mpp = None
            if places.tile_um is not None and patch_px is not None:
                mpp = places.tile_um / patch_px
            facts = FeatureFacts(
                layout=self.name,
                dim=rows.shape[1],
                encoder=settle(path, "encoder", _get_encoder(h5), hints.encoder),
                patch_px=patch_px,
                mpp=settle(path, "µm per pixel", mpp, hints.mpp),
                tool="STAMP",
            )
            size = scale_to_l0(facts, hints)
            if hints.slide_mpp is not None and places.tile_um is not None:
                size = places.tile_um / hints.slide_mpp
            return SlideFeatures(
                slide_id=path.name.removesuffix(".h5"),
                features=rows,
                coords_l0=_scale(places.um, hints.slide_mpp),
                patch_size_l0=size,
                facts=facts,
                files=files.pop_all(),
            )


def _fits(sample: H5Sample) -> bool:
    exported = "raw2features_version" in sample.attrs  # a layout of its own
    return not exported and any(name in sample.shapes for name in _NAMES)


def _require_tiles(h5: ForeignH5) -> None:
    """Raise `StoredFileError` for one vector of a slide or of a patient."""
    kind = h5.attr("feat_type")
    if kind is None and h5.attr("encoder") is not None:  # as before version 2.3
        kind = "slide or patient"
    if kind not in (None, "tile"):
        raise h5.refuse(f"holds one vector of a {kind}, expected one of each of its tiles")
    if not any(name in h5 for name in _NAMES):
        raise h5.refuse(f"holds no {' or '.join(map(repr, _NAMES))}, expected features of tiles")


def _get_encoder(h5: ForeignH5) -> str | None:
    found = _CODE.fullmatch(get_text(h5.attr("extractor")) or "")
    return found and found.group(1)


# -- where the tiles lie ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Places:
    """Corners of the tiles (N, 2) in µm, and the edge of a tile; None where no file says it."""

    um: NDArray[np.float64] | None
    tile_um: float | None
    tile_px: int | None


def _read_places(path: Path, h5: ForeignH5, count: int, hints: FeatureHints) -> _Places:
    tile_um, tile_px = get_size(h5.attr("tile_size_um")), get_whole(h5.attr("tile_size_px"))
    unit = h5.attr("unit")
    if unit == "um" and tile_um is None:
        tile_um = get_size(h5.attr("tile_size"))
    if unit not in (None, "um"):
        raise h5.refuse(f"attribute 'unit' is {unit}, expected um")
    if "coords" not in h5:
        return _Places(None, tile_um, tile_px)
    values = _read_coords(path, h5, count)
    if unit is None and tile_um is None:
        return _read_old(path, h5, values, hints)
    if count and np.abs(values).max() >= _MAX_UM:
        raise h5.refuse("its coordinates cannot be µm on a slide")
    return _Places(values, tile_um, tile_px)


def _read_coords(path: Path, h5: ForeignH5, count: int) -> NDArray[np.float64]:
    shape, kind = h5.shape("coords"), h5.dtype("coords")
    if shape != (count, 2) or np.dtype(kind).kind not in "iuf":
        raise h5.refuse(f"'coords' is {kind} of shape {shape}, expected numbers of ({count}, 2)")
    values = h5.read("coords", kind, shape).astype(np.float64)
    if not np.isfinite(values).all():
        raise StoredFileError(f"{path.name}: its coordinates are not all finite; make it again")
    return values


def _read_old(
    path: Path, h5: ForeignH5, values: NDArray[np.float64], hints: FeatureHints
) -> _Places:
    """Return the places of version 1, which counted in pixels of its tiles.

    What `info.json` in the folder does not say of the tiles is what the user says of their µm per
    pixel, or what that version did by default.
    """
    info = read_json(path.with_name(_INFO), "STAMP 1")
    tile_px = get_whole(info.get("patch_size")) or _OLD_TILE_PX
    tile_um = get_size(info.get("microns"))
    if tile_um is None:
        tile_um = _OLD_TILE_UM if hints.mpp is None else hints.mpp * tile_px
    if (values % tile_px != 0).any():
        raise h5.refuse(
            f"its coordinates have no unit, and are not multiples of {tile_px} px as those of "
            "STAMP 1; write the attributes 'unit' (um) and 'tile_size_um', or make it again"
        )
    if _is_transposed(h5, values):
        values = values[:, ::-1]
    return _Places(values * (tile_um / tile_px), tile_um, tile_px)


def _is_transposed(h5: ForeignH5, values: NDArray[np.float64]) -> bool:
    """Return whether version 1 stored y before x, as it did for slides from its cache.

    It went through the tiles row by row.
    """
    if not (get_text(h5.attr("extractor")) or "").startswith("STAMP-extract-"):
        return False
    first, second = values.T
    return _is_sorted(first, second) and not _is_sorted(second, first)


def _is_sorted(major: NDArray[np.float64], minor: NDArray[np.float64]) -> bool:
    steps, inner = np.diff(major), np.diff(minor)
    return bool(((steps > 0) | ((steps == 0) & (inner > 0))).all())


def _scale(um: NDArray[np.float64] | None, slide_mpp: float | None) -> NDArray[np.int64] | None:
    """Return the nearest level-0 pixels."""
    if um is None or slide_mpp is None:
        return None
    return np.rint(um / slide_mpp).astype(np.int64)
