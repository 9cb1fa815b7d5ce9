"""Hostile model folders, by a table. This alone needs the network's libraries."""

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
from milpath.nn.encoder import build_small
from milpath.nn.mil import Member, build_head
from milpath.params import GridParams, HeadParams, TileParams
from support.untrusted.hdf5 import PLANTS
from support.untrusted.tamper import edited, tamper
from support.untrusted.watch import Case

CLASSES = ("normal", "tumour")
HEAD = HeadParams(attention_dim=8)


def load(path: Path) -> None:
    """Load the bundle whose record this is."""
    load_bundle(path.parent)


def load_kept_encoder(path: Path) -> None:
    """Load the encoder whose record this is."""
    load_encoder(path.parent)


@cache
def _whole() -> dict[str, bytes]:
    """The files of a model folder as it should be, and of an encoder's."""
    from milpath.formats.model_spec import EncoderSpec

    encoder = build_small((16, 16, 3))
    head = build_head(2, HEAD, projected=False)
    head.build((None, None, 128))
    record = EncoderSpec(name="small", patch_px=16, dim=128, weights="trained")
    spec = {
        "class_names": CLASSES,
        "mode": "pixels",
        "encoder": record,
        "head": HEAD,
        "tile": TileParams(grid=GridParams(mpp=1.0, patch_px=16)),
        "background": "bright",
    }
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(Path(folder), assemble_bundle(spec, [Member(head, encoder)], None))
        save_encoder(Path(folder), encoder, record)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _write(change: Callable[[Path], object], name: str, folder: Path) -> Path:
    for file, data in _whole().items():
        (folder / file).write_bytes(data)
    if name == "model.json":  # else the encoder's record is read in place of the model's
        (folder / "encoder.json").unlink()
    change(folder)
    return folder / name


def bundle_cases() -> Iterator[Case]:
    """Every hostile model folder, and the whole one."""
    for name, (change, words) in FOLDERS.items():
        write = partial(_write, change, "model.json")
        yield Case(f"bundle {name}", write, load, accepted=name == "whole", words=words)
    for name, plant in PLANTS.items():
        write = partial(_write, partial(_planted, plant), "model.json")
        yield Case(f"bundle planted {name}", write, load, words="seal is missing")
    for name, (change, words) in ENCODERS.items():
        write = partial(_write, change, "encoder.json")
        yield Case(f"encoder {name}", write, load_kept_encoder, name == "whole", words)


def _planted(plant: Callable[..., None], folder: Path) -> None:
    import h5py

    with h5py.File(_weights(folder), "r+") as h5:
        plant("00000", h5, folder)


def _weights(folder: Path) -> Path:
    (path,) = folder.glob("member-*")
    return path


def _record(file: str = "model.json", **changes: Any) -> Callable[[Path], object]:
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
    """A network of 8 GB, in two words."""
    _record(
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
    "whole": (lambda folder: None, ""),
    "8 GB": (_huge_patches, "shape"),
    "wide head": (_record(head={"attention_dim": 8192}), "shape"),
    "1,000 members": (_record(members=1000), "member-1-"),
    "other network": (_record(encoder={"name": "convnextxlarge", "dim": 2048}), ""),
    "name of a path": (_record(encoder={"name": "../../etc/passwd"}), "no encoder"),
    "name of a module": (_record(encoder={"name": "os.system"}), "no encoder"),
    "other mode": (_record(mode="features"), ""),
    "other classes": (_record(class_names=["a", "b", "c"]), "shape"),
    "other dim": (_record(encoder={"dim": 64}), "128"),
    "fingerprint": (_record(fingerprint="x"), "model.json"),
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
    "whole": (lambda folder: None, ""),
    "8 GB": (_record("encoder.json", name="centred", patch_px=4096), "shape"),
    "other dim": (_record("encoder.json", dim=1), "128"),
    "code": (_record("encoder.json", __reduce__="id"), "__reduce__"),
    "weights cut": (lambda folder: os.truncate(folder / "encoder.h5", 3000), "seal is missing"),
}
