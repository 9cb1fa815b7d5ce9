"""Weights of a published encoder: the user's file, the hub's cache, or a download."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from milpath.errors import StoredFileError, UsageError
from milpath.registry.checksums import check_weights, refuse_pointer
from milpath.registry.hub import fetch_weights, find_cached, locate_cache
from milpath.registry.instructions import describe_download
from milpath.registry.published import PublishedEncoder


def locate_weights(encoder: PublishedEncoder, weights: Path | None, *, download: bool) -> Path:
    """Find the weights of a published encoder.

    Parameters
    ----------
    encoder : the encoder
    weights : a weights file; or a folder with the registry's file in a subfolder named after the
        encoder, or in the folder itself; or None for the hub's cache
    download : whether to download weights that are not in the cache

    Returns
    -------
    Path : of the file. In the format of the registry's file, it has the checksum of the registry;
        of a file in a different format (converted weights), nothing is known.

    Raises
    ------
    UsageError : no such file or folder, or `huggingface_hub` is needed and not installed
    StoredFileError : not the weights of the registry, or they cannot be downloaded
    OutputError : the cache cannot be written, such as on a full disk
    """
    if weights is not None:
        path = _find_given(encoder, weights)
        refuse_pointer(path)
        if encoder.sha256 and path.suffix == PurePosixPath(encoder.file).suffix:
            check_weights(encoder, path)
        return path
    if not download and find_cached(encoder) is None:
        raise StoredFileError(
            f"{encoder.name}: its weights are not in the cache {locate_cache()}; run "
            f"{describe_download(encoder)}, or give the file: --weights FILE"
        )
    return fetch_weights(encoder)


def _find_given(encoder: PublishedEncoder, weights: Path) -> Path:
    if weights.is_file():
        return weights
    if not weights.exists():
        raise UsageError(f"--weights {weights}: no such file or folder")
    places = (weights / encoder.name / encoder.file, weights / encoder.file)
    for path in places:
        if path.is_file():
            return path
    raise UsageError(
        f"--weights {weights}: no weights of {encoder.name} in this folder; expected "
        f"{encoder.name}/{encoder.file} or {encoder.file} in it"
    )
