"""Files of a folder, one for each slide."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from milpath.errors import StoredFileError

_MAX_DEPTH = 3
_LEFT_OUT = (".zarr",)  # folders that are files of another kind


def find_files(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the files of a folder with a suffix such as ".pt", by their names without it.

    Hidden files are left out; the order is that of these names. Empty if there is no such folder.
    """
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        names = [
            each.name
            for each in entries
            if each.name.endswith(suffix) and not each.name.startswith(".") and each.is_file()
        ]
    found = {name.removesuffix(suffix): folder / name for name in names}
    return dict(sorted(found.items()))


def find_nested(folder: Path, find: Callable[[Path], dict[str, Path]]) -> dict[str, Path]:
    """Return the files that lie in folders of a folder, as the slides did, by their names.

    Empty unless the first and the last of these folders hold files of the layout.

    Parameters
    ----------
    folder : whose folders are searched, a few levels deep
    find : returns the files of one folder

    Raises
    ------
    StoredFileError : two folders hold a file of the same name
    """
    places = [each for each in _walk(folder, _MAX_DEPTH) if find_files(each, ".h5")]
    if not places or not all(find(each) for each in {places[0], places[-1]}):
        return {}
    found: dict[str, Path] = {}
    for place in places:
        for name, path in find_files(place, ".h5").items():
            other = found.setdefault(name, path)
            if other != path:
                both = " and in ".join(
                    each.relative_to(folder).as_posix() for each in (other, path)
                )
                raise StoredFileError(
                    f"{folder}: holds features of {name} twice, in {both}; expected them once, so "
                    "give one of their folders"
                )
    return dict(sorted(found.items()))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the folders of a folder, each before its own folders, sorted by name."""
    if not folder.is_dir() or not depth:
        return
    for each in sorted(folder.iterdir()):
        if each.is_dir() and not each.name.startswith(".") and each.suffix not in _LEFT_OUT:
            yield each
            yield from _walk(each, depth - 1)
