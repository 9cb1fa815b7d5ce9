"""Atomic writing of results, and checked reading of HDF5 files that need not be trusted."""

import hashlib
import json

from milpath.store.publishing import (
    discard,
    publish,
    publish_bytes,
    publish_csv,
    publish_json,
    publish_text,
    require_folder,
    require_permission,
    require_writable,
)
from milpath.store.reading import SafeH5, open_h5
from milpath.store.temporary import create_temp_folder, remove_stale_temps
from milpath.store.writing import FORMAT_VERSION, publish_h5

__all__ = [
    "FORMAT_VERSION",
    "SafeH5",
    "create_temp_folder",
    "discard",
    "fingerprint",
    "open_h5",
    "publish",
    "publish_bytes",
    "publish_csv",
    "publish_h5",
    "publish_json",
    "publish_text",
    "remove_stale_temps",
    "require_folder",
    "require_permission",
    "require_writable",
]


def fingerprint(*parts: object) -> str:
    """Return 32 hexadecimal digits that are equal exactly when the JSON-serialisable values are."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
