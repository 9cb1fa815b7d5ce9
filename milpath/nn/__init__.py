"""The networks: the only room that imports Keras."""

from __future__ import annotations

import gc
import os
import sys


def import_keras() -> None:
    """Import Keras and its backend, without the remarks their C++ writes to stderr meanwhile."""
    sys.stderr.flush()
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        import keras  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
    gc.freeze()  # what they made stays: to search it for garbage while tracing takes a second
