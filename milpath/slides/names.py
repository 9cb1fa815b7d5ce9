"""Names that people and files give: what may be printed, and what may become a file's name."""

from __future__ import annotations

import unicodedata

MAX_NAME_BYTES = 200

_RESERVED = {"con", "prn", "aux", "nul"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in "123456789"
}
"""Files of these names, whatever their suffix, are devices on Windows."""


def is_printable(text: str) -> bool:
    """Whether a text is short and holds nothing that a terminal would obey."""
    controls = any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)
    return len(text.encode(errors="replace")) <= MAX_NAME_BYTES and not controls


def is_file_name(name: str) -> bool:
    """Whether a name can be a file's in any folder of any system, and no option of a program."""
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
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
