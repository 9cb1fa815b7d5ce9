"""Feature files in HDF5, and slide2vec's, drawn as their tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from milpath.formats.bag import encode_patch, write_bag, write_header
from milpath.formats.geometry import write_geometry
from milpath.formats.model_spec import EncoderSpec
from milpath.params import GridParams, TileParams
from milpath.patches.grid import free_grid
from milpath.slides.facts import SlideFacts
from milpath.store import publish_h5
from tests.support.foreign_tensors import Drawn, as_int32, tensor, write_clam_pt, write_torch

SLIDE_MPP = 0.25
SLIDE_SIZE = (60_000, 60_000)


def write_milpath(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write features of milpath."""
    slide = SlideFacts(slide_id, "made", *SLIDE_SIZE, SLIDE_MPP, SLIDE_MPP, "slide", None, slide_id)
    grid = free_grid(drawn.coords, drawn.patch_px, drawn.patch_size_l0, drawn.mpp)
    params = TileParams(grid=GridParams(mpp=drawn.mpp, patch_px=drawn.patch_px))
    patch = encode_patch(np.zeros((drawn.patch_px, drawn.patch_px, 3), np.uint8), params.pixels)
    source = folder / "source.bag"
    header = write_bag(
        source, slide, grid, "bright", ((row, patch) for row in range(len(grid))), params
    )
    source.unlink()
    encoder = EncoderSpec(
        name=drawn.encoder, patch_px=drawn.patch_px, dim=drawn.features.shape[-1], mpp=drawn.mpp
    )
    with publish_h5(folder / f"{slide_id}.h5", "features") as h5:
        write_geometry(h5, slide, grid)
        write_header(h5, header)
        h5.attrs["encoder"] = encoder.model_dump_json()
        h5["features"] = drawn.features
    return folder / f"{slide_id}.h5"


def write_trident(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write `features_<encoder>/<slide>.h5`, with sizes as the batch command writes them."""
    path = folder / f"{slide_id}.h5"
    with h5py.File(path, "w") as h5:
        shape = drawn.features.shape
        features = h5.create_dataset(
            "features", data=drawn.features, chunks=(1, *shape[1:]), maxshape=(None, *shape[1:])
        )
        features.attrs.update({"name": slide_id, "savetodir": "out", "encoder": drawn.encoder})
        coords = h5.create_dataset("coords", data=drawn.coords, chunks=(1, 2), maxshape=(None, 2))
        attrs: dict[str, Any] = {
            "patch_size": drawn.patch_px,
            "patch_size_level0": float(drawn.patch_size_l0),
            "level0_magnification": 40,
            "target_magnification": 20.0,
            "overlap": 0,
            "name": slide_id,
            "savetodir": "out",
            "level0_width": SLIDE_SIZE[0],
            "level0_height": SLIDE_SIZE[1],
        }
        coords.attrs.update(attrs)
    return path


def write_clam(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write both kinds of features and the patches."""
    write_clam_pt(folder, slide_id, drawn)
    return folder / "h5_files" / f"{slide_id}.h5"


def write_stamp(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write features with coordinates in µm, as STAMP 2 does."""
    path = folder / f"{slide_id}.h5"
    with h5py.File(path, "w") as h5:
        _write_stamp_data(h5, drawn)
        h5.attrs["stamp_version"], h5.attrs["code_hash"] = "2.3.0", "0123abcd"
    return path


def _write_stamp_data(h5: h5py.File, drawn: Drawn) -> None:
    h5["feats"] = drawn.features
    h5["coords"] = (drawn.coords * SLIDE_MPP).astype(np.float32)
    h5.attrs.update({
        "unit": "um",
        "tile_size_um": drawn.patch_px * drawn.mpp,
        "tile_size_px": drawn.patch_px,
        "feat_type": "tile",
        "extractor": drawn.encoder,
    })  # fmt: skip


def write_raw2features(folder: Path, slide_id: str, drawn: Drawn, clam: bool = False) -> Path:
    """Write what `export-h5` does by default, or as "clam" with coordinates of int32."""
    path = folder / f"{slide_id}.h5"
    with h5py.File(path, "w") as h5:
        h5["features"] = drawn.features
        h5["features"].attrs["encoder"] = drawn.encoder
        h5["coords"] = as_int32(drawn.coords) if clam else drawn.coords
        attrs: dict[str, Any] = {
            "patch_size_level0": drawn.patch_size_l0,
            "patch_size": drawn.patch_size_l0,
            "target_magnification": round(10 / drawn.mpp, 1),
            "level0_magnification": round(10 / SLIDE_MPP, 1),
        }
        h5["coords"].attrs.update(attrs)
    return path


def write_raw2features_stamp(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write what `export-h5 --layout stamp` does."""
    path = folder / f"{slide_id}.h5"
    with h5py.File(path, "w") as h5:
        _write_stamp_data(h5, drawn)
        h5.attrs["raw2features_version"] = "0.2"
    return path


def write_atlaspatch(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write patches and the features of one encoder."""
    path = folder / f"{slide_id}.h5"
    count, edge = len(drawn.coords), drawn.patch_px
    rest = np.tile(np.array([edge, edge, 1], drawn.coords.dtype), (count, 1))
    with h5py.File(path, "w") as h5:
        places = as_int32(np.concatenate([drawn.coords, rest], axis=1))
        h5.create_dataset("coords", data=places, chunks=(8192, 5), maxshape=(None, 5))
        h5["passports"] = np.full(count, slide_id.encode(), "S160")
        h5[f"features/{drawn.encoder}"] = drawn.features
        h5.attrs.update({
            "patch_size": drawn.patch_px,
            "patch_size_level0": drawn.patch_size_l0,
            "level0_magnification": 40,
            "target_magnification": 20,
            "overlap": 0,
            "level0_width": SLIDE_SIZE[0],
            "level0_height": SLIDE_SIZE[1],
            "passport_format": "{stem}",
            "passport_version": 2,
            "num_patches": count,
            "mpp": SLIDE_MPP,
        })  # fmt: skip
    return path


def write_slide2vec(folder: Path, slide_id: str, drawn: Drawn, suffix: str = ".pt") -> Path:
    """Write `tile_embeddings` and `tiles`."""
    features, tiles = folder / "tile_embeddings", folder / "tiles"
    for place in (features, tiles):
        place.mkdir(exist_ok=True)
    path = features / f"{slide_id}{suffix}"
    if suffix == ".pt":
        write_torch(path, tensor(drawn.features))
    else:
        index = np.arange(len(drawn.features))
        np.savez_compressed(path, features=drawn.features, tile_index=index)
    stated = {
        "sample_id": slide_id,
        "artifact_type": "tile_embeddings",
        "format": suffix[1:],
        "encoder_name": drawn.encoder,
        "requested_tile_size_px": drawn.patch_px,
        "requested_spacing_um": drawn.mpp,
        "tile_size_lv0": drawn.patch_size_l0,
        "num_tiles": len(drawn.features),
    }
    (features / f"{slide_id}.meta.json").write_text(json.dumps(stated))
    np.savez_compressed(
        tiles / f"{slide_id}.coordinates.npz",
        tile_index=np.arange(len(drawn.coords), dtype=np.int32),
        x=drawn.coords[:, 0],
        y=drawn.coords[:, 1],
        tissue_fractions=np.ones(len(drawn.coords), np.float32),
    )
    tiled = {"slide": {"dimensions": SLIDE_SIZE, "base_spacing_um": SLIDE_MPP}}
    (tiles / f"{slide_id}.coordinates.meta.json").write_text(json.dumps(tiled))
    return path


def write_old_slide2vec(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write `features` and `coordinates`, as slide2vec did before version 3."""
    features, tiles = folder / "features", folder / "coordinates"
    for place in (features, tiles):
        place.mkdir(exist_ok=True)
    kind = drawn.coords.dtype.str
    names = ("x", "y", "target_tile_size", "tile_size_lv0")
    table = np.zeros(len(drawn.coords), [(name, kind) for name in names])
    table["x"], table["y"] = drawn.coords.T
    table["target_tile_size"], table["tile_size_lv0"] = drawn.patch_px, drawn.patch_size_l0
    np.save(tiles / f"{slide_id}.npy", table)
    return write_torch(features / f"{slide_id}.pt", tensor(drawn.features))
