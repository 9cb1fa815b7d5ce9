"""Slides of LazySlide, `<slide>.zarr`: tables of features, and the tiles that they are of."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.formats.foreign.arrays import as_coords, as_features
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    SlideFeatures,
    scale_to_l0,
    settle,
)
from milpath.store.zarrfile import read_zarr_array, read_zarr_attrs, require_package

_SUFFIX = ".zarr"
_MAX_TILES = 1 << 24
_RECTANGLE = struct.pack("<BIII", 1, 3, 1, 5)
"""Begin of a rectangle in the format WKB: little-endian, a polygon, one ring, five points."""
_RECTANGLE_BYTES = len(_RECTANGLE) + 5 * 2 * 8


class ZarrLayout:
    """What LazySlide (wsidata, SpatialData) keeps of each slide.

    Tables of features are named `<encoder>_<tiles>`; `tile_spec` among the attributes describes the
    tiles, and `shapes/<tiles>/shapes.parquet` says where they lie. The packages `zarr` and
    `pyarrow` must be installed; they are no dependencies of milpath.
    """

    name = "zarr"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the store of each slide that has tables by its id; empty without any."""
        if not folder.is_dir():
            return {}
        found = {
            path.name.removesuffix(_SUFFIX): path
            for path in folder.iterdir()
            if path.name.endswith(_SUFFIX) and (path / "tables").is_dir()
        }
        return dict(sorted(found.items()))

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        specs = _read_specs(path)
        table = _pick_table(path, specs, hints.encoder)
        spec = specs[table.tiles]
        features = as_features(path, read_zarr_array(table.folder / "X"))
        facts = FeatureFacts(
            layout=self.name,
            dim=features.shape[1],
            encoder=table.encoder,
            patch_px=settle(path, "patch size", spec.patch_px, hints.patch_px),
            mpp=settle(path, "µm per pixel", spec.mpp, hints.mpp),
            tool="LazySlide",
        )
        slide_id = path.name.removesuffix(_SUFFIX)
        size = spec.size_l0 or scale_to_l0(facts, hints)
        coords = _read_coords(path, table, len(features))
        return SlideFeatures(slide_id, features, coords, size, facts)


@dataclass(frozen=True)
class _TileSpec:
    """Edge of a tile in pixels and in level-0 pixels, and µm per pixel; None if not stated."""

    patch_px: int | None = None
    size_l0: float | None = None
    mpp: float | None = None


@dataclass(frozen=True)
class _Table:
    folder: Path
    encoder: str
    tiles: str


def _read_specs(path: Path) -> dict[str, _TileSpec]:
    """Return what is stated of each set of tiles, by its name."""
    found = read_zarr_attrs(path).get("tile_spec")
    if not isinstance(found, dict) or not found:
        return {"tiles": _TileSpec()}
    return {name: _parse_spec(spec) for name, spec in found.items() if isinstance(spec, dict)}


def _parse_spec(spec: dict[str, Any]) -> _TileSpec:
    width, scale = _get_size(spec, "width"), _get_size(spec, "base_downsample")
    if width is None or width != spec.get("height"):
        return _TileSpec(mpp=_get_size(spec, "mpp"))
    size = None if scale is None else float(int(width * scale))
    return _TileSpec(int(width), size, _get_size(spec, "mpp"))


def _get_size(spec: dict[str, Any], name: str) -> float | None:
    value = spec.get(name)
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1 << 20
    return value if known else None


def _pick_table(path: Path, specs: dict[str, _TileSpec], encoder: str | None) -> _Table:
    """Return the table of the encoder that the user names, or the only one."""
    tables = [
        _Table(folder, folder.name.removesuffix(f"_{tiles}"), tiles)
        for folder in sorted((path / "tables").iterdir())
        for tiles in specs
        if folder.name.endswith(f"_{tiles}") and not tiles.endswith("_dense") and folder.is_dir()
    ]
    names = ", ".join(sorted({table.encoder for table in tables})) or "none"
    wanted = [table for table in tables if encoder in (None, table.encoder)]
    if len(wanted) == 1:
        return wanted[0]
    if encoder is not None:
        raise StoredFileError(
            f"{path.name}: has {len(wanted)} tables of features of encoder {encoder!r}, expected "
            f"one; it has features of: {names}"
        )
    raise StoredFileError(
        f"{path.name}: has {len(tables)} tables of features, expected one; name the encoder; "
        f"it has features of: {names}"
    )


def _read_coords(path: Path, table: _Table, count: int) -> NDArray[np.int64] | None:
    """Return the corners of the tiles in the order of the features, None without tiles."""
    shapes = path / "shapes" / table.tiles / "shapes.parquet"
    if not shapes.is_file():
        return None
    tiles = _read_parquet(shapes)
    corners = _find_corners(shapes, tiles)
    ids = table.folder / "obs" / "tile_id"
    if "tile_id" in tiles and ids.is_dir():
        corners = corners[_match(path, read_zarr_array(ids, sparse=True), tiles["tile_id"])]
    return as_coords(path, corners, count)


def _read_parquet(path: Path) -> dict[str, Any]:
    """Return the columns that say where tiles lie, as NumPy arrays."""
    parquet = require_package("pyarrow", path) and require_package("pyarrow.parquet", path)
    try:
        with parquet.ParquetFile(path) as file:
            if file.metadata.num_rows > _MAX_TILES:
                raise ValueError(f"{file.metadata.num_rows} rows")
            here = set(file.schema_arrow.names)
            columns = [name for name in ("x", "y", "tile_id") if name in here]
            if not {"x", "y"} <= here:
                columns.append("geometry")
            read = file.read(columns=columns)
            return {name: read[name].to_numpy() for name in columns}
    except Exception as error:  # Arrow raises errors of many types
        fact = ascii(str(error)[:80])[1:-1]
        raise StoredFileError(
            f"{path.parent.name}/{path.name}: cannot be read ({fact}); copy or write it again"
        ) from None


def _find_corners(path: Path, tiles: dict[str, Any]) -> NDArray[Any]:
    """Return the top left corner of each tile (N, 2): stated, or of its rectangle."""
    if "geometry" not in tiles:
        return np.stack([tiles["x"], tiles["y"]], axis=1)
    shapes = list(tiles["geometry"])
    if not all(map(_is_rectangle, shapes)):
        raise StoredFileError(
            f"{path.parent.name}/{path.name}: its tiles are not rectangles in WKB; write it again "
            "with the settings that LazySlide has by default"
        )
    records = np.frombuffer(b"".join(shapes), np.uint8).reshape(-1, _RECTANGLE_BYTES)
    points = np.ascontiguousarray(records[:, len(_RECTANGLE) :]).view("<f8").reshape(-1, 5, 2)
    corners: NDArray[Any] = points.min(axis=1)
    return corners


def _is_rectangle(shape: object) -> bool:
    if not isinstance(shape, bytes) or len(shape) != _RECTANGLE_BYTES:
        return False
    return shape.startswith(_RECTANGLE)


def _match(path: Path, wanted: NDArray[Any], tile_ids: NDArray[Any]) -> NDArray[np.intp]:
    """Return the row of each tile that the features name."""
    rows = dict(zip(tile_ids.tolist(), range(len(tile_ids)), strict=True))
    found = [rows.get(tile_id, -1) for tile_id in wanted.ravel().tolist()]
    if -1 in found or len(set(found)) < len(found):
        raise StoredFileError(
            f"{path.name}: has features of tiles that it does not hold, or two of one tile; "
            "compute them again"
        )
    return np.array(found, np.intp)
