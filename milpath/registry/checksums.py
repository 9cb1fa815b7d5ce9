"""Checksums of weights files: which file is the published one."""

from __future__ import annotations

import functools
import hashlib
import logging
from pathlib import Path

from milpath.errors import StoredFileError
from milpath.registry.instructions import describe_download
from milpath.registry.published import PublishedEncoder

_log = logging.getLogger(__name__)


_POINTER = b"version https://git-lfs.github.com/"


def refuse_pointer(path: Path) -> None:
    """Refuse what `git clone` leaves in place of weights where Git LFS is not installed.

    Raises
    ------
    StoredFileError : the file is such a pointer, or cannot be read
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError as error:
        raise StoredFileError(f"{path}: cannot be read ({error.strerror})") from error
    if start == _POINTER:
        raise StoredFileError(
            f"{path}: a pointer of Git LFS, not the weights; run git lfs pull in its folder, or "
            "download the file with hf download"
        )


def check_weights(encoder: PublishedEncoder, path: Path, stated: str | None = None) -> None:
    """Compare the sha256 of a weights file with the registry's, or else with what the hub says.

    Parameters
    ----------
    encoder : the encoder
    path : its weights
    stated : sha256 that the hub says; None if unknown

    Raises
    ------
    StoredFileError : the file has a different checksum, or cannot be read
    """
    expected = encoder.sha256 or stated
    if not expected:
        _log.warning("%s: the checksum of %s is not known and was not verified", encoder.name, path)
        return
    found = digest_weights(path)
    if found != expected:
        raise StoredFileError(
            f"{path}: not the weights of {encoder.name}, or damaged: its sha256 is "
            f"{found[:12]}..., expected {expected[:12]}...; download it again: "
            f"{describe_download(encoder)} --force-download"
        )


def digest_weights(path: Path) -> str:
    """Return the sha256 of a file, 64 hexadecimal digits; known again until the file changes.

    Raises
    ------
    StoredFileError : the file cannot be read
    """
    try:
        now = path.stat()
        return _digest_file(path, now.st_size, now.st_mtime_ns)
    except OSError as error:
        raise StoredFileError(f"{path}: cannot be read ({error.strerror})") from error


@functools.cache
def _digest_file(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
