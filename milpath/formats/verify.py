"""Verification of all files that milpath wrote under a folder, and new checksums for them.

Another program that opens a file for writing removes its checksums, also where it changes nothing.
`restore_checksums` gives them back to a file whose contents are valid.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from milpath.errors import StoredFileError
from milpath.formats.bag import Bag
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.layout import model_spec_path
from milpath.formats.model_spec import check_weights, read_bundle_spec
from milpath.formats.prediction import read_prediction
from milpath.formats.space import read_space
from milpath.store import (
    create_temp_folder,
    open_h5,
    publish,
    publish_h5,
    require_permission,
)
from milpath.store.foreign import ForeignH5, open_foreign_h5
from milpath.store.integrity import ChecksumError
from milpath.store.writing import READABLE

_BATCH = 256  # patches decoded at a time
_ROWS = 1 << 14  # of features read at a time

FileState = Literal["ok", "wrong", "without checksums", "restored", "of another program"]


@dataclass(frozen=True)
class FileCheck:
    """What was found about one file.

    Attributes
    ----------
    file : its path relative to the folder, with "/"
    kind : "bag", "features", "prediction", "space", "weights" or "model"; empty where it is not
        known
    state : "ok"; "wrong"; "without checksums" where another program removed them; "restored" where
        they were given back; "of another program" where milpath did not write it
    message : why it is wrong, one line; else empty
    """

    file: str
    kind: str
    state: FileState
    message: str = ""

    @property
    def failed(self) -> bool:
        """Whether milpath wrote the file, and cannot read it now."""
        return self.state in ("wrong", "without checksums")


def check_files(folder: Path, *, restore: bool = False) -> Iterator[FileCheck]:
    """Verify every HDF5 file and model under a folder, in the order of their names.

    All checksums are compared, and all numbers but pixels are read.

    Parameters
    ----------
    folder : a folder, or one file
    restore : give checksums back to files that lost them

    Raises
    ------
    OutputError : `restore`, and a file cannot be written
    """
    for path in _list_files(folder) if folder.is_dir() else [folder]:
        if isinstance(path, OSError):
            name = Path(str(path.filename)).relative_to(folder).as_posix()
            yield FileCheck(name, "", "wrong", f"cannot be listed ({path.strerror})")
            continue
        name = path.relative_to(folder).as_posix() if path != folder else path.name
        if path.suffix == ".json":
            yield _check_model(path.parent, name)
        else:
            yield _check_h5(path, name, restore)


def restore_checksums(path: Path, kind: str) -> None:
    """Give a file of a kind its checksums back, if all its contents are valid.

    Raises
    ------
    StoredFileError : it holds something else, of this or another kind; it is kept as it is
    OutputError : it cannot be written; the old one is kept
    """
    require_permission(path.parent)
    with open_foreign_h5(path) as old, create_temp_folder(path.parent) as folder:
        _require_restorable(old, kind)
        new = folder / path.name  # messages name the file
        try:
            with publish_h5(new, kind) as h5:
                old.copy(h5)
                h5.attrs["milpath_version"] = old.require_attr("milpath_version")
        except (ValueError, TypeError):
            raise old.refuse(f"holds more than a {kind} does") from None
        _READ[kind](new)
        if kind == "bag":
            _decode_patches(new)
        old.require_unchanged()
        with new.open("rb") as source, publish(path) as target:
            shutil.copyfileobj(source, target, 1 << 20)


def _list_files(folder: Path) -> Iterator[Path | OSError]:
    """Yield HDF5 files and descriptions of models, and the folders that cannot be listed."""
    errors: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=errors.append):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix == ".h5" or path == model_spec_path(path.parent):
                yield path
    yield from errors


def _check_model(folder: Path, name: str) -> FileCheck:
    try:
        check_weights(folder, read_bundle_spec(folder))
    except StoredFileError as error:
        return FileCheck(name, "model", "wrong", _fact(error, folder.name))
    return FileCheck(name, "model", "ok")


def _check_h5(path: Path, name: str, restore: bool) -> FileCheck:
    kind = ""
    try:
        with open_foreign_h5(path) as h5:
            kind, verified = str(h5.attr("milpath_kind") or "")[:40], h5.verified
        if not kind and not verified:
            return FileCheck(name, "", "of another program")
        if verified:
            _check_all(path, kind)
            return FileCheck(name, kind, "ok")
        if restore and kind in _READ:
            restore_checksums(path, kind)
            return FileCheck(name, kind, "restored")
    except StoredFileError as error:
        return FileCheck(name, kind, "wrong", _fact(error, path.name))
    return FileCheck(name, kind, "without checksums", _describe_loss(kind))


def _fact(error: StoredFileError, name: str) -> str:
    """Return the text of an error without the name of its file."""
    return str(error).removeprefix(f"{name}: ")


def _check_all(path: Path, kind: str) -> None:
    with open_h5(path, kind) as h5:
        try:
            h5.check_all()
        except (ChecksumError, OSError) as error:
            raise h5.refuse(f"a {kind} that cannot be read ({error})") from None
        if kind not in _READ:
            raise h5.refuse(f"a file of kind {kind!r}, which this milpath does not read")
    _READ[kind](path)


def _describe_loss(kind: str) -> str:
    fact = f"its checksums are gone, since another program opened this {kind!r} file for writing"
    if kind in _READ:
        return f"{fact}; milpath check --reseal gives them back if its contents are valid"
    return f"{fact}; copy it again from its source, or make it again"


def _require_restorable(old: ForeignH5, kind: str) -> None:
    if kind not in _READ or old.attr("milpath_kind") != kind:
        raise old.refuse(f"is no {kind} file; expected one that milpath wrote")
    if old.attr("milpath_format") not in READABLE:
        raise old.refuse(f"is not of format {READABLE[0]} to {READABLE[-1]}")


# -- all contents of each kind -----------------------------------------------------------------


def _read_bag(path: Path) -> None:
    with Bag(path) as bag:
        bag.read_artefacts()


def _read_features(path: Path) -> None:
    with MilpathLayout().open(path, FeatureHints()) as found:
        for low in range(0, len(found), _ROWS):
            found.features[low : low + _ROWS]


def _decode_patches(path: Path) -> None:
    with Bag(path) as bag:
        for _ in bag.iter_patches(_BATCH):
            pass


def _read_weights(path: Path) -> None:
    with open_h5(path, "weights") as h5:
        if not isinstance(h5.require_attr("model"), str):
            raise h5.refuse("attribute 'model' is not the fingerprint of a model")
        names = sorted(h5.names)
        if not names or names != [f"{number:05d}" for number in range(len(names))]:
            raise h5.refuse("its weights are not numbered from 0")
        for name in names:
            if not np.isfinite(h5.read(name, "float32", h5.shape(name))).all():
                raise h5.refuse(f"weight {name!r} is not finite everywhere")


_READ: dict[str, Callable[[Path], object]] = {
    "bag": _read_bag,
    "features": _read_features,
    "prediction": read_prediction,
    "space": read_space,
    "weights": _read_weights,
}
