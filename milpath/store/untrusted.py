"""Weights files that Keras wrote, looked at before Keras reads them.

They are HDF5 without milpath's seal, and Keras takes memory for whatever they declare: eleven
kilobytes are enough to ask for eleven gigabytes. A process of its own looks, so that a damaged file
harms nobody.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py

from milpath.errors import UsageError

_SECONDS = 20
_MAX_OBJECTS = 20_000
_MAX_DEPTH = 32
_ADDRESS_SPACE = 4 << 30


def check_untrusted_hdf5(path: Path) -> None:
    """Raise `UsageError` unless a file is HDF5 that plainly holds all the numbers it declares."""
    command = [sys.executable, "-m", "milpath.store.untrusted", str(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"weights {path.name}: damaged (no end of reading it)") from None
    if done.returncode:
        fact = done.stdout.strip() or "damaged, or no HDF5 file"
        raise UsageError(f"weights {path.name}: {fact}; expected a weights file of Keras")


def find_problem(path: Path) -> str | None:
    """What is not plain about an HDF5 file; raises whatever h5py does where it is damaged."""
    held, count = 0, 0
    with h5py.File(path, "r", locking=False) as h5:
        groups: list[tuple[Any, int]] = [(h5, 0)]
        while groups:
            group, depth = groups.pop()
            for name in group:
                count += 1
                if count > _MAX_OBJECTS or depth > _MAX_DEPTH:
                    return "holds too many parts"
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    return "holds a link"
                item = group[name]
                if isinstance(item, h5py.Group):
                    groups.append((item, depth + 1))
                elif not _is_plain(item):
                    return "holds something else than plain numbers"
                else:
                    held += item.nbytes
    return None if held <= path.stat().st_size else "declares more numbers than it holds"


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

        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))


if __name__ == "__main__":
    _limit_memory()
    try:
        fault = find_problem(Path(sys.argv[1]))
    except Exception:  # h5py raises nearly anything on damage
        sys.exit(1)
    if fault is not None:
        print(fault)
        sys.exit(2)
