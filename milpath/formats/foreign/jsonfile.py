"""JSON files that tools write beside features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from milpath.errors import StoredFileError

_MAX_BYTES = 1 << 22


def read_json(path: Path, tool: str) -> dict[str, Any]:
    """Return the object in a JSON file, empty without the file; raises `StoredFileError`.

    Parameters
    ----------
    path : the file
    tool : that wrote it, for messages
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError
    except (OSError, ValueError, RecursionError):
        raise StoredFileError(
            f"{path.name}: cannot be read as JSON; expected what {tool} wrote, or no such file"
        ) from None
    return found
