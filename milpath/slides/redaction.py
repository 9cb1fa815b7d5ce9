"""Redaction: the name of a slide in messages, without the path of its file.

Files and folders are often named after a patient. If the user gave a slide an id of its own,
messages, logs and results use only that id.
"""

from __future__ import annotations

import re
from pathlib import Path


def name_slide(path: Path, slide_id: str) -> str:
    """Return the slide's name in messages: the file's, or only the id if that is different."""
    return path.name if slide_id == path.stem else slide_id


def redact_path(text: str, path: Path, slide_id: str) -> str:
    """Replace the names of files and folders in a library's message about a slide.

    Parameters
    ----------
    text : the message
    path, slide_id : the slide's; see `name_slide`
    """
    name = name_slide(path, slide_id)
    for given in dict.fromkeys((path, path.absolute())):
        text = text.replace(str(given), name)
        # other files of the slide, in its folder or one beside it, as in DICOM and MIRAX
        text = re.sub(rf"{re.escape(str(given.parent))}/[^'\"\n:,;)]*", "one of its files", text)
    return text.replace(path.name, name)
