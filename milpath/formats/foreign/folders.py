"""Files of a folder, one for each slide."""

from __future__ import annotations

from pathlib import Path


def find_files(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the files of a folder with a suffix such as ".pt", by their names without it.

    Hidden files are left out; the order is that of these names. Empty if there is no such folder.
    """
    if not folder.is_dir():
        return {}
    found = {
        path.name.removesuffix(suffix): path
        for path in folder.iterdir()
        if path.name.endswith(suffix) and not path.name.startswith(".") and path.is_file()
    }
    return dict(sorted(found.items()))
