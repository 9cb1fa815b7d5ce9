"""Limits on memory under which a command starts, or is refused."""

from __future__ import annotations

import os
import sys

from milpath.errors import UsageError

_MIN_BYTES = 600 << 20
"""Address space in which all libraries except the network's can be loaded."""
_MIN_NETWORK_BYTES = 2500 << 20
"""Address space in which Keras and TensorFlow can be loaded, too."""


def address_space_limit() -> int | None:
    """Return the address space that this process may use, in bytes; None without a limit."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def require_memory(*, network: bool = False) -> None:
    """Raise `UsageError` where the limit on address space is too low to load the libraries.

    Under a low limit OpenBLAS tries to allocate memory for ever, and TensorFlow aborts.
    """
    limit = address_space_limit()
    if limit is None:
        return
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # each takes 70 MB of address space
    least = _MIN_NETWORK_BYTES if network else _MIN_BYTES
    if limit < least:
        raise UsageError(
            f"the address space of this process is limited to {limit >> 20} MB (ulimit -v), "
            f"expected {least >> 20} MB or more; raise the limit, or ulimit -v unlimited"
        )
