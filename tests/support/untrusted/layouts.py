"""Malicious and damaged HDF5 files, read as feature files of every layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from milpath.errors import StoredFileError, UsageError
from milpath.formats.foreign import LAYOUTS, detect_features
from milpath.formats.foreign.values import FeatureHints, Layout
from support.foreign_h5 import (
    write_atlaspatch,
    write_clam,
    write_raw2features,
    write_stamp,
    write_trident,
)
from support.foreign_tensors import Drawn, draw_features
from support.untrusted.hdf5 import CANARY, PLANTS, Plant, hdf5_cases
from support.untrusted.watch import Case

HINTS = FeatureHints(mpp=0.5, slide_mpp=0.25)
_DRAWN: dict[Callable[[Path, str, Drawn], Path], tuple[str, ...]] = {
    write_trident: ("features", "coords"),
    write_stamp: ("feats", "coords"),
    write_clam: ("features", "coords"),
    write_atlaspatch: ("features/net", "coords", "passports"),
    write_raw2features: ("features", "coords"),
}
"""How files are written, and the datasets that are spoiled."""
_NAMES = {"milpath", "trident", "stamp", "clam", "atlaspatch", "raw2features", "torchmil"}
H5_LAYOUTS = [each for each in LAYOUTS if each.name in _NAMES]


def layout_cases() -> Iterator[Case]:
    """Yield all files of `hdf5_cases`, and files of tools with a spoiled dataset or cut short."""
    for case in hdf5_cases():
        yield replace(case, read=read_by_all, accepted=None, words="")
    for write, names in _DRAWN.items():
        kind = write.__name__.removeprefix("write_")
        for name in names:
            for planted, plant in PLANTS.items():
                spoil = partial(_write_spoiled, write, partial(plant, name))
                yield Case(f"{kind} {name} {planted}", spoil, read_detected, None)
        for kept in range(1, 20):
            cut = partial(_write_cut, write, kept / 20)
            yield Case(f"{kind} cut {kept}", cut, read_detected, None)


def read_by_all(path: Path) -> None:
    """Detect the layout of a file's folder, and read the file by every layout of HDF5."""
    with suppress(UsageError):
        detect_features(path.parent)
    refused = []
    for layout in H5_LAYOUTS:
        try:
            _read(layout, path)
        except StoredFileError as error:
            refused.append(error)
    if len(refused) == len(H5_LAYOUTS):
        raise refused[0]


def read_detected(path: Path) -> None:
    """Read a file by the layout that is found."""
    folder = path.parent.parent if path.parent.name == "h5_files" else path.parent
    try:
        layout = detect_features(folder).layout
    except UsageError as error:  # it names the folder as the user gave it
        raise UsageError(str(error).removeprefix(f"{folder}: ")) from None
    _read(layout, path)


def _read(layout: Layout, path: Path) -> None:
    with layout.open(path, HINTS) as slide:
        coords = b"" if slide.coords_l0 is None else slide.coords_l0.tobytes()
        if CANARY.encode() in slide.features[:].tobytes() + coords:
            raise ValueError(f"{layout.name} gives the contents of another file")
        if not np.isfinite(slide.features[:]).all():
            raise ValueError(f"{layout.name} gives features that are not finite")


def _write_spoiled(write: Callable[[Path, str, Drawn], Path], plant: Plant, folder: Path) -> Path:
    path = write(folder, "x", draw_features())
    with h5py.File(path, "r+") as h5:
        plant(h5, folder)
    return path


def _write_cut(write: Callable[[Path, str, Drawn], Path], share: float, folder: Path) -> Path:
    path = write(folder, "x", draw_features())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
