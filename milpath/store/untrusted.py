"""Check of HDF5 files without an integrity footer, before another library reads them.

Keras allocates whatever a weights file declares: 11 KiB are enough to request 11 GiB. The check
runs in a child process with limits on memory and time, since a damaged file can crash the HDF5
library or make it loop for ever.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py

from milpath.errors import UsageError

_MAX_SECONDS = 20
_MAX_OBJECTS = 20_000
_MAX_DEPTH = 32
_MAX_ADDRESS_SPACE = 4 << 30


def check_untrusted_hdf5(path: Path) -> None:
    """Check that an HDF5 file of Keras weights holds only plain numbers, and all it declares.

    Raises
    ------
    UsageError : not HDF5, damaged, or with links, filters, other types, or undefined data
    """
    # -P: modules in the current folder are not imported
    command = [sys.executable, "-P", "-m", __name__, str(path.absolute())]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_MAX_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"weights {path.name}: damaged (not read within {_MAX_SECONDS} s)"
        ) from None
    if done.returncode:
        fact = done.stdout.strip() or "damaged, or no HDF5 file"
        raise UsageError(f"weights {path.name}: {fact}; expected a Keras weights file")


def find_problem(path: Path) -> str | None:
    """Return what is wrong with an HDF5 file, None if nothing is; any error means damage."""
    declared, count = 0, 0
    with h5py.File(path, "r", locking=False) as h5:
        groups: list[tuple[Any, int]] = [(h5, 0)]
        while groups:
            group, depth = groups.pop()
            for name in group:
                count += 1
                if count > _MAX_OBJECTS or depth > _MAX_DEPTH:
                    return "holds too many groups and datasets"
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    return "holds a link"
                item = group[name]
                if isinstance(item, h5py.Group):
                    groups.append((item, depth + 1))
                elif not _is_plain(item):
                    return "holds data other than plain numbers"
                else:
                    declared += item.nbytes
    return None if declared <= path.stat().st_size else "declares more numbers than it holds"


def _is_plain(item: Any) -> bool:
    return (
        isinstance(item, h5py.Dataset)
        and item.dtype.kind in "biuf"
        and not (item.external or item.is_virtual)
        and not item.id.get_create_plist().get_nfilters()
    )


def _limit_memory() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESS_SPACE, _MAX_ADDRESS_SPACE))


if __name__ == "__main__":
    _limit_memory()
    try:
        problem = find_problem(Path(sys.argv[1]))
    except Exception:  # on damage h5py raises errors of many types
        sys.exit(1)
    if problem is not None:
        print(problem)
        sys.exit(2)
