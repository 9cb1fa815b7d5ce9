"""Names: which text may be printed, and which may become the name of a file."""

from __future__ import annotations

import unicodedata

MAX_NAME_BYTES = 200

_RESERVED = {"con", "prn", "aux", "nul"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in "123456789"
}
"""Files of these names, with any suffix, are devices on Windows."""


def is_printable(text: str) -> bool:
    """Return whether a text is short and has no control characters."""
    controls = any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)
    return len(text.encode(errors="replace")) <= MAX_NAME_BYTES and not controls


def is_file_name(name: str) -> bool:
    """Return whether a name is a valid file name on every system, and not a command-line option."""
    return (
        bool(name)
        and name.isprintable()
        and is_printable(name)
        and not any(mark in name for mark in '/\\:*?"<>|')
        and not name.startswith((".", "-"))
        and not name.endswith((".", " "))
        and name.partition(".")[0].casefold() not in _RESERVED
    )


def folded(name: str) -> str:
    """Fold a name so that names which some file system treats as the same are equal."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def printable(text: str, limit: int = 100) -> str:
    """Return a text for a message: without control or invisible characters, and not long."""
    shown = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def describe_name(name: str) -> str:
    """Say in a few words why a name is not a valid file name on every system."""
    marks = [mark for mark in '/\\:*?"<>|' if mark in name]
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        return f"it is longer than {MAX_NAME_BYTES} bytes"
    if marks:
        return f"it contains {marks[0]}"
    if not (name.isprintable() and is_printable(name)):
        return "it contains control characters or invisible letters"
    if name.startswith((".", "-")):
        return f"it begins with {name[0]}"
    if name.endswith((".", " ")):
        return "it ends with a dot or a space"
    return "it is the name of a device on Windows"
