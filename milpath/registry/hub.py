"""The hub of Hugging Face: weights of published encoders in its cache, or downloaded to it.

`huggingface_hub` downloads them (`pip install 'milpath[hub]'`), so its users' token, cache and
environment variables (HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE, ...) apply. Its
telemetry is off; the hub learns which file is downloaded, and nothing else. The cache is read
without it, since its layout is documented.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from milpath.errors import MilpathError, OutputError, StoredFileError, UsageError, is_out_of_memory
from milpath.registry.checksums import check_weights
from milpath.registry.instructions import describe_download, describe_page
from milpath.registry.published import PublishedEncoder
from milpath.slides.names import printable
from milpath.version import __version__

_log = logging.getLogger(__name__)

_NEWEST = "main"
"""Branch that is used of a repository of which the registry knows no revision."""
_SHA256 = re.compile("[0-9a-f]{64}")
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DISK_FULL_WORDS = ("no space left", "disk quota exceeded")


def find_cached(encoder: PublishedEncoder) -> Path | None:
    """Return the weights of an encoder in the hub's cache, or None; no network, no checksum."""
    folder = locate_cache() / f"models--{encoder.repository.replace('/', '--')}"
    try:
        commit = encoder.revision or (folder / "refs" / _NEWEST).read_text(encoding="utf-8").strip()
        path = folder / "snapshots" / commit / encoder.file
        return path if path.is_file() else None
    except (OSError, UnicodeError):  # nothing was downloaded, or the files are of a different user
        return None


def locate_cache() -> Path:
    """Return the folder of the hub's cache, as `huggingface_hub` finds it."""
    read = os.environ.get
    caches = read("XDG_CACHE_HOME", str(Path("~").expanduser() / ".cache"))
    home = _expand(read("HF_HOME", str(Path(caches, "huggingface"))))
    default = read("HUGGINGFACE_HUB_CACHE", str(Path(home, "hub")))
    return Path(_expand(read("HF_HUB_CACHE", default)))


def _expand(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111 (as the hub does it)


def fetch_weights(encoder: PublishedEncoder) -> Path:
    """Return the weights of an encoder from the hub's cache, where needed after a download.

    The revision is the registry's, or the newest where it has none. The file's sha256 is compared
    with the registry's, or else with what the hub says of the file. On a terminal, a bar shows the
    progress.

    Raises
    ------
    UsageError : `huggingface_hub` is not installed
    StoredFileError : the weights cannot be downloaded, or are not those of the registry
    OutputError : the cache cannot be written, such as on a full disk
    """
    cached = find_cached(encoder)
    if cached is not None:
        check_weights(encoder, cached, _read_stated_digest(cached))
        return cached
    hub = _import_hub(encoder)
    with _explained(hub, encoder), _in_one_line(hub):
        revision = encoder.revision or _NEWEST
        url = hub.hf_hub_url(encoder.repository, encoder.file, revision=revision)
        stated = hub.get_hf_file_metadata(url, library_name="milpath", library_version=__version__)
        digest = _SHA256.fullmatch(stated.etag or "") and stated.etag
        _check_before(encoder, digest, stated.size)
        if encoder.revision is None:
            _log.warning(
                "%s: milpath knows no revision of %s; the newest is taken, %s",
                encoder.name,
                encoder.repository,
                stated.commit_hash,
            )
        path = Path(
            hub.hf_hub_download(
                encoder.repository,
                encoder.file,
                revision=revision,
                library_name="milpath",
                library_version=__version__,
            )
        )
    check_weights(encoder, path, digest)
    return path


def _import_hub(encoder: PublishedEncoder) -> Any:
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when it is imported
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise UsageError(
            f"{encoder.name}: its weights are not in the cache {locate_cache()}, and downloading "
            "needs huggingface_hub, which is not installed; run pip install 'milpath[hub]', or "
            "give the file: --weights FILE"
        ) from None
    return huggingface_hub


@contextmanager
def _in_one_line(hub: Any) -> Iterator[None]:
    """Silence what `huggingface_hub` logs about its retries, unless its user wants it."""
    before = hub.logging.get_verbosity()
    if not os.environ.get("HF_HUB_VERBOSITY") and not os.environ.get("HF_DEBUG"):
        hub.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.logging.set_verbosity(before)


def _check_before(encoder: PublishedEncoder, digest: str | None, size: int | None) -> None:
    """Compare what the hub says of the file, so that gigabytes are not downloaded in vain."""
    if digest and encoder.sha256 and digest != encoder.sha256:
        raise StoredFileError(
            f"{encoder.name}: the hub has a file {encoder.file} with the sha256 {digest[:12]}..., "
            f"expected {encoder.sha256[:12]}...; nothing was downloaded; give the right file with "
            "--weights FILE"
        )
    cache = locate_cache()
    existing = next((each for each in (cache, *cache.parents) if each.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    if size is not None and size > free:
        raise OutputError(
            f"{encoder.name}: its weights take {_gigabytes(size)}, and {existing} has "
            f"{_gigabytes(free)} free; free some space, or set HF_HOME to a folder on a larger disk"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2g} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"


def _read_stated_digest(cached: Path) -> str | None:
    """Return the sha256 that the hub stated for a file in its cache: the name of its blob.

    Only the first link says so: a blob may be a link itself, to a file named by another checksum.
    """
    if not cached.is_symlink():
        return None
    name = cached.readlink().name
    return name if _SHA256.fullmatch(name) else None


@contextmanager
def _explained(hub: Any, encoder: PublishedEncoder) -> Iterator[None]:
    """Turn what `huggingface_hub` and its network libraries raise into one line."""
    try:
        yield
    except MilpathError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _explain(hub, encoder, error) from error


def _explain(hub: Any, encoder: PublishedEncoder, error: Exception) -> MilpathError:
    cause = error.__cause__
    if isinstance(error, hub.errors.LocalEntryNotFoundError) and isinstance(cause, Exception):
        return _explain(hub, encoder, cause)
    if _is_disk_full(error):
        return OutputError(
            f"{encoder.name}: no space left in the cache {locate_cache()}; free some, or set "
            "HF_HOME to a folder on a larger disk"
        )
    for kind, explain in _EXPLANATIONS.items():
        if isinstance(error, getattr(hub.errors, kind, ())):
            return StoredFileError(f"{encoder.name}: {explain(hub, encoder, error)}")
    if isinstance(error, OSError) and error.filename:
        return OutputError(
            f"{encoder.name}: {error.filename}: {error.strerror}; the cache of the hub must be "
            "readable and writable; set HF_HOME to a folder of yours"
        )
    return StoredFileError(f"{encoder.name}: {_explain_network(hub, encoder, error)}")


def _is_disk_full(error: BaseException) -> bool:
    full = isinstance(error, OSError) and error.errno in _DISK_FULL
    return full or any(words in str(error).lower() for words in _DISK_FULL_WORDS)


def _explain_offline(hub: Any, encoder: PublishedEncoder, error: Exception) -> str:
    return (
        f"its weights are not in the cache {locate_cache()}, and HF_HUB_OFFLINE forbids "
        f"downloading; unset it, or run this where it is unset: {describe_download(encoder)}"
    )


def _explain_gated(hub: Any, encoder: PublishedEncoder, error: Any) -> str:
    page = describe_page(encoder)
    if error.response.status_code == 401 and hub.get_token() is None:
        return (
            f"its weights are gated, and you are not logged in: accept the terms at {page}, then "
            "run hf auth login, or set HF_TOKEN"
        )
    if error.response.status_code == 401:
        return _explain_token(encoder)
    return (
        f"your account has no access to its weights: accept the terms at {page}, wait for the "
        "publisher's approval, and use a token that may read gated repositories"
    )


def _explain_token(encoder: PublishedEncoder) -> str:
    return (
        f"the hub does not accept your token for {encoder.repository}; run hf auth login again, or "
        "set HF_TOKEN to a valid token"
    )


def _explain_repository(hub: Any, encoder: PublishedEncoder, error: Any) -> str:
    return (
        f"the hub has no repository {encoder.repository}, or hides it from you: see "
        f"{describe_page(encoder)}, and run hf auth login if you have access; or give the file: "
        "--weights FILE"
    )


def _explain_missing(hub: Any, encoder: PublishedEncoder, error: Exception) -> str:
    return (
        f"the hub no longer has the file {encoder.file} at revision "
        f"{encoder.revision or _NEWEST} of {encoder.repository}, and other weights would give "
        "other features; give that file: --weights FILE"
    )


def _explain_disabled(hub: Any, encoder: PublishedEncoder, error: Exception) -> str:
    return f"the hub has disabled {encoder.repository}; see {describe_page(encoder)}"


def _explain_not_hub(hub: Any, encoder: PublishedEncoder, error: Exception) -> str:
    return (
        f"what {_name_endpoint(hub)} answers is not an answer of the hub; check HF_ENDPOINT, and "
        "whether a proxy or a log-in page of the network answers instead"
    )


def _explain_status(hub: Any, encoder: PublishedEncoder, error: Any) -> str:
    status = error.response.status_code
    if status == 401:
        return _explain_token(encoder)
    remedy = {
        404: "check HF_ENDPOINT",
        403: f"see {describe_page(encoder)}, and whether your token may read it",
        429: "too many requests; wait some minutes, and log in with hf auth login",
    }.get(status, "try again later")
    return f"{_name_endpoint(hub)} answers with the error {status}; {remedy}"


_EXPLANATIONS: dict[str, Callable[[Any, PublishedEncoder, Any], str]] = {
    "OfflineModeIsEnabled": _explain_offline,
    "GatedRepoError": _explain_gated,
    "RepositoryNotFoundError": _explain_repository,
    "RevisionNotFoundError": _explain_missing,
    "EntryNotFoundError": _explain_missing,
    "DisabledRepoError": _explain_disabled,
    "FileMetadataError": _explain_not_hub,
    "HfHubHTTPError": _explain_status,
}
"""By class in `huggingface_hub.errors`; subclasses first."""


def _explain_network(hub: Any, encoder: PublishedEncoder, error: BaseException) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnicodeError) or "Bearer " in reason:  # it cannot be sent as a header
        return _explain_token(encoder)
    return (
        f"downloading from {_name_endpoint(hub)} failed ({printable(reason)}); check the network "
        "and its proxy and try again, or run this on a machine with network, and give the file "
        f"with --weights FILE: {describe_download(encoder)}"
    )


def _name_endpoint(hub: Any) -> str:
    url = str(hub.hf_hub_url("a/b", "c"))
    return urlsplit(url).netloc or url.partition("/")[0]
