"""Check of HDF5 files without an integrity footer, before another library reads them.

Keras allocates whatever a weights file declares: 11 KiB are enough to request 11 GiB.
"""

from __future__ import annotations

import math
from pathlib import Path

from milpath.errors import StoredFileError, UsageError
from milpath.store.foreign import FileDescription, ForeignProbe

_MAX_SECONDS = 20.0  # of processor time: networks have thousands of weights


def check_untrusted_hdf5(path: Path) -> None:
    """Check that an HDF5 file of Keras weights holds only plain numbers, and all it declares.

    Raises
    ------
    UsageError : not HDF5, damaged, or with links, filters, other types, or undefined data
    """
    try:
        with ForeignProbe(_MAX_SECONDS) as probe:
            problem = _find_problem(probe.describe(path), path.stat().st_size)
    except StoredFileError as error:
        raise UsageError(f"weights {error}") from None
    if problem is not None:
        raise UsageError(f"weights {path.name}: {problem}; expected a Keras weights file")


def _find_problem(found: FileDescription, file_bytes: int) -> str | None:
    declared = 0
    for name, dataset in found.datasets.items():
        if dataset.problem is not None:
            return f"{name[:80]!r} {dataset.problem}"
        if dataset.texts is not None or (dataset.chunks and dataset.chunks.filters):
            return f"{name[:80]!r} holds other data than plain numbers"
        declared += math.prod(dataset.shape[:1]) * dataset.row_bytes
    return None if declared <= file_bytes else "declares more numbers than it holds"
