"""Files of other tools that hold tensors and arrays, drawn by hand from their descriptions."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

_STORAGES = {
    "float16": "HalfStorage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "int16": "ShortStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
}


@dataclass
class Tensor:
    """A tensor as `torch.save` records it: a view of a storage.

    Parameters
    ----------
    numbers : 1-D, the storage
    key, kind : of the storage; equal keys share it
    count : numbers that the record declares; None for those that are there
    flags : such as {"conj": True}, that the numbers must be changed before use
    """

    numbers: NDArray[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    key: str = "0"
    kind: str = ""
    count: int | None = None
    flags: dict[str, bool] | None = None

    @property
    def storage_kind(self) -> str:
        return self.kind or _STORAGES[str(self.numbers.dtype)]

    @property
    def storage_count(self) -> int:
        return len(self.numbers) if self.count is None else self.count


def tensor(array: NDArray[Any], key: str = "0") -> Tensor:
    """Return a contiguous tensor."""
    strides = np.cumprod([1, *array.shape[:0:-1]])[::-1] if array.ndim else []
    return Tensor(array.ravel(), array.shape, tuple(int(step) for step in strides), key=key)


def bfloat16(array: NDArray[Any], key: str = "0") -> Tensor:
    """Return a contiguous tensor of bfloat16: the upper halves of float32."""
    upper = (array.astype("<f4").view("<u4") >> 16).astype("<u2")
    made = tensor(upper.astype("<i2"), key)
    made.kind = "BFloat16Storage"
    return made


@dataclass
class Recorder:
    """Write the instructions of a pickle of `torch.save`, protocol 2."""

    legacy: bool = False
    storages: dict[str, Tensor] = field(default_factory=dict)

    def record(self, value: Any) -> bytes:
        """Return a whole pickle of the value."""
        return b"\x80\x02" + self._emit(value) + b"."

    def _emit(self, value: Any) -> bytes:
        if isinstance(value, Tensor):
            return self._emit_tensor(value)
        if isinstance(value, dict):
            items = b"".join(self._emit(key) + self._emit(item) for key, item in value.items())
            return b"}(" + items + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(self._emit, value)) + b"e"
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self._emit, value)) + b"t"
        return pickle.dumps(value, 2)[2:-1]

    def _emit_tensor(self, made: Tensor) -> bytes:
        self.storages[made.key] = made
        storage = b"(" + b"".join(
            [
                self._emit("storage"),
                f"ctorch\n{made.storage_kind}\n".encode(),
                self._emit(made.key),
                self._emit("cpu"),
                self._emit(made.storage_count),
                b"N" if self.legacy else b"",
                b"tQ",
            ]
        )
        args = self._emit(made.offset) + self._emit(made.shape) + self._emit(made.strides)
        hooks = b"\x89ccollections\nOrderedDict\n)R"
        flags = b"" if made.flags is None else self._emit(made.flags)
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + args + hooks + flags + b"tR"


def write_torch(path: Path, value: Any, byte_order: str | None = "little") -> Path:
    """Write what `torch.save(value, path)` of PyTorch 1.6 and later writes."""
    recorder = Recorder()
    record = recorder.record(value)
    storages = {key: made.numbers.tobytes() for key, made in recorder.storages.items()}
    return write_archive(path, record, storages, byte_order)


def write_archive(
    path: Path,
    record: bytes,
    storages: dict[str, bytes],
    byte_order: str | None = "little",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write the ZIP archive of `torch.save` around a pickle and its storages."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", record)
        if byte_order is not None:
            archive.writestr("archive/byteorder", byte_order)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy_torch(path: Path, value: Any, little: bool = True) -> Path:
    """Write what `torch.save` of PyTorch before 1.6 wrote."""
    out, recorder = io.BytesIO(), Recorder(legacy=True)
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"int": 4}}
    for plain in (0x1950A86A20F9469CFC6C, 1001, system):
        out.write(pickle.dumps(plain, 2))
    out.write(recorder.record(value))
    out.write(pickle.dumps(sorted(recorder.storages), 2))
    _write_storages(out, (recorder.storages[key] for key in sorted(recorder.storages)))
    path.write_bytes(out.getvalue())
    return path


def _write_storages(out: io.BytesIO, tensors: Iterable[Tensor]) -> None:
    for made in tensors:
        out.write(struct.pack("<q", made.storage_count))
        out.write(made.numbers.tobytes())


# -- folders of other tools ------------------------------------------------------------------------


@dataclass
class Drawn:
    """Features of one slide, as a test has drawn them; level-0 pixels, top left corners."""

    features: NDArray[Any]
    coords: NDArray[np.int64]
    patch_size_l0: int = 512
    patch_px: int = 256
    mpp: float = 0.5
    encoder: str = "net"


def draw_features(count: int = 7, dim: int = 4, dtype: str = "float32", seed: int = 0) -> Drawn:
    """Draw features on no lattice and in no order."""
    rng = np.random.default_rng(seed)
    coords = rng.integers(0, 50_000, (count, 2), dtype=np.int64)
    return Drawn(rng.normal(size=(count, dim)).astype(dtype), coords)


def as_int32(coords: NDArray[Any]) -> NDArray[Any]:
    """Return whole numbers as int32 if they fit, else as they are."""
    small = coords.astype(np.int32)
    return small if np.array_equal(small, coords) else coords


def write_slideflow(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write a bag as slideflow's `DatasetFeatures.to_torch` does."""
    path = write_torch(folder / f"{slide_id}.pt", tensor(drawn.features))
    np.savez(folder / f"{slide_id}.index.npz", arr_0=drawn.coords + drawn.patch_size_l0 // 2)
    config = {
        "extractor": {"class": f"slideflow.model.extractors.x.{drawn.encoder}", "kwargs": {}},
        "normalizer": None,
        "num_features": drawn.features.shape[-1],
        "tile_px": drawn.patch_px,
        "tile_um": drawn.patch_px * drawn.mpp,
    }
    (folder / "bags_config.json").write_text(json.dumps(config))
    return path


def write_clam_pt(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write what CLAM's scripts for patches and features do, at a level of half the resolution."""
    for name in ("pt_files", "h5_files", "patches"):
        (folder / name).mkdir(exist_ok=True)
    with h5py.File(folder / "h5_files" / f"{slide_id}.h5", "w") as h5:
        growing = (None, *drawn.features.shape[1:])
        h5.create_dataset("features", data=drawn.features, maxshape=growing)
        h5.create_dataset("coords", data=as_int32(drawn.coords), maxshape=(None, 2))
    with h5py.File(folder / "patches" / f"{slide_id}.h5", "w") as h5:
        coords = h5.create_dataset("coords", data=drawn.coords, maxshape=(None, 2))
        scale = drawn.patch_size_l0 / drawn.patch_px
        attrs = {"patch_size": drawn.patch_px, "patch_level": 1, "downsample": (scale, scale)}
        coords.attrs.update(attrs)
    return write_torch(folder / "pt_files" / f"{slide_id}.pt", tensor(drawn.features))


def write_plain_torch(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write features and coordinates as a dict of tensors."""
    value = {"features": tensor(drawn.features), "coords": tensor(drawn.coords, "1")}
    return write_torch(folder / f"{slide_id}.pt", value)


def write_npz(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write features and coordinates with `numpy.savez_compressed`."""
    path = folder / f"{slide_id}.npz"
    np.savez_compressed(path, features=drawn.features, coords=drawn.coords)
    return path


def write_npy(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write features with `numpy.save`, and coordinates beside them."""
    path = folder / f"{slide_id}.npy"
    np.save(path, drawn.features)
    np.save(folder / f"{slide_id}_coords.npy", drawn.coords)
    return path


def write_torchmil(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write the folders that torchmil's data sets read, with one encoder."""
    features, coords = folder / "features" / f"features_{drawn.encoder}", folder / "coords"
    for place in (features, coords):
        place.mkdir(exist_ok=True, parents=True)
    np.save(coords / f"{slide_id}.npy", drawn.coords)
    np.save(features / f"{slide_id}.npy", drawn.features)
    return features / f"{slide_id}.npy"


def write_torchmil_h5(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write the same in HDF5, without a folder for the encoder."""
    for name, array in (("features", drawn.features), ("coords", drawn.coords)):
        (folder / name).mkdir(exist_ok=True)
        with h5py.File(folder / name / f"{slide_id}.h5", "w") as h5:
            h5[name] = array
    return folder / "features" / f"{slide_id}.h5"


def write_zarr_array(folder: Path, array: NDArray[Any], version: int = 3) -> None:
    """Write an array of zarr format 2 or 3 in one chunk that is not compressed."""
    folder.mkdir(parents=True)
    chunk = [max(1, edge) for edge in array.shape]
    shape = list(array.shape)
    if version == 2:
        meta: dict[str, Any] = {"shape": shape, "chunks": chunk, "dtype": array.dtype.str}
        meta |= {"compressor": None, "filters": None, "fill_value": 0, "order": "C"}
        (folder / ".zarray").write_text(json.dumps(meta | {"zarr_format": 2}))
        name = ".".join("0" for _ in shape)
    else:
        grid = {"name": "regular", "configuration": {"chunk_shape": chunk}}
        keys = {"name": "default", "configuration": {"separator": "/"}}
        codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
        meta = {"shape": shape, "data_type": str(array.dtype), "chunk_grid": grid, "codecs": codecs}
        meta |= {"chunk_key_encoding": keys, "fill_value": 0, "attributes": {}}
        (folder / "zarr.json").write_text(
            json.dumps(meta | {"zarr_format": 3, "node_type": "array"})
        )
        name = "/".join("c" + "0" * len(shape))
    if array.size:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(array.tobytes())


def write_lazyslide(folder: Path, slide_id: str, drawn: Drawn, version: int = 3) -> Path:
    """Write what LazySlide keeps of a slide; of its tiles only with `write_tiles`."""
    path = folder / f"{slide_id}.zarr"
    table = path / "tables" / f"{drawn.encoder}_tiles"
    write_zarr_array(table / "X", drawn.features, version)
    write_zarr_array(table / "obs" / "tile_id", np.arange(len(drawn.features)), version)
    scale = drawn.patch_size_l0 / drawn.patch_px
    spec = {"width": drawn.patch_px, "height": drawn.patch_px, "mpp": drawn.mpp}
    attrs = {"tile_spec": {"tiles": spec | {"base_downsample": scale}}}
    if version == 2:
        (path / ".zattrs").write_text(json.dumps(attrs))
    else:
        meta = {"zarr_format": 3, "node_type": "group", "attributes": attrs}
        (path / "zarr.json").write_text(json.dumps(meta))
    return path


def write_tiles(path: Path, drawn: Drawn, order: NDArray[Any], stated: bool) -> None:
    """Write the tiles of LazySlide's store in another order than that of the features.

    Parameters
    ----------
    stated : give columns x and y; else only rectangles
    """
    import pyarrow
    from pyarrow import parquet

    place = path / "shapes" / "tiles"
    place.mkdir(parents=True)
    columns: dict[str, Any] = {"tile_id": order}
    if stated:
        columns |= {"x": drawn.coords[order, 0], "y": drawn.coords[order, 1]}
    columns["geometry"] = [_rectangle(*drawn.coords[at], drawn.patch_size_l0) for at in order]
    parquet.write_table(pyarrow.table(columns), place / "shapes.parquet")


def _rectangle(x: int, y: int, size: int) -> bytes:
    points = [(x + size, y), (x + size, y + size), (x, y + size), (x, y), (x + size, y)]
    return struct.pack("<BIII10d", 1, 3, 1, 5, *(value for point in points for value in point))
