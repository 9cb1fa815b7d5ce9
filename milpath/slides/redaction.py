"""Alias: what a slide is called, without saying where it lies.

Files and folders are often named after a patient. Where the user gave a slide another id, that id
is all that messages, logs and results call it.
"""

from __future__ import annotations

import re
from pathlib import Path


def name_slide(path: Path, slide_id: str) -> str:
    """What messages call a slide: its file's name, but the id alone where that is another."""
    return path.name if slide_id == path.stem else slide_id


def redact_path(text: str, path: Path, slide_id: str) -> str:
    """What a library says of a slide's file, without the names of files and folders.

    Parameters
    ----------
    text : of an error
    path, slide_id : the slide's; see `name_slide`
    """
    name = name_slide(path, slide_id)
    for given in dict.fromkeys((path, path.absolute())):
        text = text.replace(str(given), name)
        # others of its folder, or of one beside it, as DICOM and MIRAX have them
        text = re.sub(rf"{re.escape(str(given.parent))}/[^'\"\n:,;)]*", "one of its files", text)
    return text.replace(path.name, name)
