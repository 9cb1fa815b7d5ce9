"""Ids of slides: from the path of a file, and what to do with a name that cannot be one."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path

from milpath.slides.names import MAX_NAME_BYTES, is_file_name

SEPARATOR = "__"
"""Between the folders of an id that is made from a path."""


def id_from_path(path: Path, root: Path, *, suffix: bool = True) -> str:
    """Return an id from the path below a folder: `sub/x.tif` is `sub__x`.

    It depends on nothing but that path without its suffix, and differs where that differs. What is
    not valid in a file name, and an underscore beside another or at an end of a name, is written
    as %XX. A long id is shortened, and then begins with a digest.

    Parameters
    ----------
    path, root : the slide, and the folder that it was searched in
    suffix : whether what follows the last dot is a suffix, not part of the name
    """
    inner = _below(path, root)
    last = (inner.stem if suffix else inner.name) or root.resolve().name
    text = SEPARATOR.join(_encoded(part) for part in [*inner.parent.parts, last])
    if is_file_name(text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    tail = text.encode()[-(MAX_NAME_BYTES - 20) :].decode(errors="ignore")
    return f"{digest}{SEPARATOR}{tail}"


def _below(path: Path, root: Path) -> Path:
    one, two = (os.path.abspath(each) for each in (path, root))  # noqa: PTH100 - keeps links
    try:
        return Path(os.path.relpath(one, two))
    except ValueError:  # on another drive
        return Path(one).relative_to(Path(one).anchor)


def _encoded(part: str) -> str:
    odd = re.compile(r"""[%/\\:*?"<>|]|^[.\-_ ]|[._ ]\Z|(?<=_)_|_(?=_)""")
    text = odd.sub(lambda found: _escape(found.group()), part)
    return "".join(one if _is_plain(one) else _escape(one) for one in text)


def _is_plain(letter: str) -> bool:
    """Return whether a letter is visible, or an ordinary space."""
    return letter.isprintable() and unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp")


def _escape(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))


def safe_id(name: str, digest_of: str) -> str:
    """Return a valid id that resembles a name which is none.

    Parameters
    ----------
    name : of a file or folder
    digest_of : what tells it from others of a similar name
    """
    plain = "".join(one if is_file_name(f"x{one}x") else "_" for one in name)
    digest = hashlib.sha256(digest_of.encode(errors="surrogatepass")).hexdigest()[:8]
    short = plain.encode()[: MAX_NAME_BYTES - 20].decode(errors="ignore").strip("._- ")
    return f"{short or 'slide'} {digest}"
