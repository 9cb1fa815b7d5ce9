"""Table of malicious and damaged model folders; the only part that needs Keras."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from milpath.nn.bundle import (
    assemble_bundle,
    load_bundle,
    load_encoder,
    save_bundle,
    save_encoder,
)
from milpath.nn.encoders import build_small
from milpath.nn.encoders.encoder import NetworkEncoder
from milpath.nn.mil import Member, build_head
from milpath.params import GridParams, HeadParams, TileParams
from support.untrusted.hdf5 import PLANTS
from support.untrusted.tamper import edited, tamper
from support.untrusted.watch import Case

CLASSES = ("normal", "tumour")
HEAD = HeadParams(attention_dim=8)


def load(path: Path) -> None:
    """Load the model with this description."""
    load_bundle(path.parent)


def load_stored_encoder(path: Path) -> None:
    """Load the encoder with this description."""
    load_encoder(path.parent)


@cache
def _valid_files() -> dict[str, bytes]:
    """Return the files of a valid model folder and of a valid encoder."""
    from milpath.formats.model_spec import EncoderSpec

    encoder = build_small((16, 16, 3))
    head = build_head(2, HEAD, projected=False)
    head.build((None, None, 128))
    encoder_spec = EncoderSpec(name="small", patch_px=16, dim=128, weights="trained")
    spec = {
        "class_names": CLASSES,
        "mode": "pixels",
        "encoder": encoder_spec,
        "head": HEAD,
        "tile": TileParams(grid=GridParams(mpp=1.0, patch_px=16)),
        "background": "bright",
    }
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(Path(folder), assemble_bundle(spec, [Member(head, encoder)], None))
        save_encoder(Path(folder), NetworkEncoder(encoder, encoder_spec))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _write(change: Callable[[Path], object], name: str, folder: Path) -> Path:
    for file, data in _valid_files().items():
        (folder / file).write_bytes(data)
    if name == "model.json":  # otherwise it is read instead of model.json
        (folder / "encoder.json").unlink()
    change(folder)
    return folder / name


def bundle_cases() -> Iterator[Case]:
    """Yield every invalid model folder, and the valid ones."""
    for name, (change, words) in FOLDERS.items():
        write = partial(_write, change, "model.json")
        yield Case(f"bundle {name}", write, load, accepted=name == "valid", words=words)
    for name, plant in PLANTS.items():
        write = partial(_write, partial(_planted, plant), "model.json")
        yield Case(f"bundle planted {name}", write, load, words="modified outside milpath")
    for name, (change, words) in ENCODERS.items():
        write = partial(_write, change, "encoder.json")
        yield Case(f"encoder {name}", write, load_stored_encoder, name == "valid", words)


def _planted(plant: Callable[..., None], folder: Path) -> None:
    import h5py

    with h5py.File(_weights(folder), "r+") as h5:
        plant("00000", h5, folder)


def _weights(folder: Path) -> Path:
    (path,) = folder.glob("member-*")
    return path


def _describe(file: str = "model.json", **changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        record = json.loads((folder / file).read_bytes())
        for name, value in changes.items():
            if isinstance(value, dict):
                record[name].update(value)
            else:
                record[name] = value
        (folder / file).write_text(json.dumps(record))

    return change


def _huge_patches(folder: Path) -> None:
    """Describe a network of 8 GB."""
    _describe(
        encoder={"name": "centred", "patch_px": 4096}, tile={"grid": {"mpp": 1, "patch_px": 4096}}
    )(folder)


def _instead(data: bytes) -> Callable[[Path], object]:
    return lambda folder: _weights(folder).write_bytes(data)


def _linked(target: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = _weights(folder)
        path.unlink()
        path.symlink_to(target)

    return change


def _linked_to_itself(folder: Path) -> None:
    _linked(_weights(folder).name)(folder)


def _fifo(folder: Path) -> None:
    path = _weights(folder)
    path.unlink()
    os.mkfifo(path)


def _folder(folder: Path) -> None:
    path = _weights(folder)
    path.unlink()
    path.mkdir()


def _weight(**values: Any) -> Callable[[Path], object]:
    return lambda folder: tamper(
        _weights(folder), lambda index: index["datasets"]["00000"].update(values)
    )


def _without(folder: Path) -> None:
    with edited(_weights(folder)) as h5:
        del h5["00003"]


def _more(folder: Path) -> None:
    with edited(_weights(folder)) as h5:
        h5[f"{len(h5):05d}"] = h5["00000"][:]


Folders = dict[str, tuple[Callable[[Path], object], str]]

FOLDERS: Folders = {
    "valid": (lambda folder: None, ""),
    "8 GB": (_huge_patches, "shape"),
    "wide head": (_describe(head={"attention_dim": 8192}), "shape"),
    "1,000 members": (_describe(members=1000), "member-1-"),
    "other network": (_describe(encoder={"name": "convnextxlarge", "dim": 2048}), ""),
    "name of a path": (_describe(encoder={"name": "../../etc/passwd"}), "no encoder"),
    "name of a module": (_describe(encoder={"name": "os.system"}), "no encoder"),
    "other mode": (_describe(mode="features"), ""),
    "other classes": (_describe(class_names=["a", "b", "c"]), "shape"),
    "other dim": (_describe(encoder={"dim": 64}), "128"),
    "fingerprint": (_describe(fingerprint="x"), "model.json"),
    "pickle": (_instead(b"\x80\x04cos\nsystem\n(S'id'\ntR."), "no HDF5"),
    "zip": (_instead(b"PK\x03\x04" + bytes(999)), "no HDF5"),
    "empty": (_instead(b""), "no HDF5"),
    "link to a secret": (_linked("/etc/passwd"), "no HDF5"),
    "link to nothing": (_linked("nowhere"), "no such"),
    "link to itself": (_linked_to_itself, "no such"),
    "link to a device": (_linked("/dev/zero"), "no such"),
    "fifo": (_fifo, "no such"),
    "folder": (_folder, "no such"),
    "3.9 GB weight": (_weight(shape=[1 << 30]), "declares more"),
    "other shape": (_weight(shape=[1, 5, 5, 48]), "shape"),
    "other type": (_weight(dtype="<i4"), "int32"),
    "weight missing": (_without, "missing"),
    "weight more": (_more, "more weights"),
}

ENCODERS: Folders = {
    "valid": (lambda folder: None, ""),
    "8 GB": (_describe("encoder.json", name="centred", patch_px=4096), "shape"),
    "other dim": (_describe("encoder.json", dim=1), "128"),
    "code": (_describe("encoder.json", __reduce__="id"), "__reduce__"),
    "weights cut": (lambda folder: os.truncate(folder / "encoder.h5", 3000), "cut short"),
}
