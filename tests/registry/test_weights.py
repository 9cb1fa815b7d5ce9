"""The user's own weights file or folder is found, and is what the registry expects."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from milpath.errors import StoredFileError, UsageError
from milpath.registry import ENCODERS, PublishedEncoder
from milpath.registry.hub import find_cached
from milpath.registry.weights import locate_weights

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def make_encoder(**fields: Any) -> PublishedEncoder:
    known = {
        "name": "encoder-1",
        "repository": "publisher/encoder",
        "revision": "0" * 40,
        "file": "model.safetensors",
        "sha256": DIGEST,
    }
    return replace(ENCODERS["virchow"], **known | fields)


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["model.safetensors", "other name.safetensors", "no suffix"])
def test_a_file_is_used_whatever_its_name(name: str, tmp_path: Path) -> None:
    path = put(tmp_path / name)
    assert locate_weights(make_encoder(), path, download=False) == path


@pytest.mark.parametrize("place", ["model.safetensors", "encoder-1/model.safetensors"])
@pytest.mark.parametrize("file", ["model.safetensors", "folder/model.safetensors"])
def test_a_folder_is_searched_by_the_name_of_the_file(
    place: str, file: str, tmp_path: Path
) -> None:
    path = put(tmp_path / place.replace("model.safetensors", file))
    assert locate_weights(make_encoder(file=file), tmp_path, download=False) == path


def test_the_subfolder_of_the_encoder_comes_first(tmp_path: Path) -> None:
    put(tmp_path / "model.safetensors", b"of a different encoder with the same file name")
    path = put(tmp_path / "encoder-1" / "model.safetensors")
    assert locate_weights(make_encoder(), tmp_path, download=False) == path


def test_a_file_with_another_checksum_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "model.safetensors", b"fine-tuned")
    with pytest.raises(StoredFileError, match=r"not the weights of encoder-1.*sha256 is"):
        locate_weights(make_encoder(), path, download=False)


def test_a_converted_file_and_an_encoder_without_checksum_are_taken_as_they_are(
    tmp_path: Path,
) -> None:
    path = put(tmp_path / "converted.safetensors", b"the same numbers in a different format")
    published = make_encoder(file="pytorch_model.bin")
    assert locate_weights(published, path, download=False) == path
    assert locate_weights(make_encoder(sha256=None), path, download=False) == path


@pytest.mark.parametrize("sha256", [DIGEST, None])
def test_a_pointer_of_git_lfs_is_said(sha256: str | None, tmp_path: Path) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{DIGEST}\nsize 7\n"
    path = put(tmp_path / "model.safetensors", text.encode())
    with pytest.raises(StoredFileError, match=r"a pointer of Git LFS, not the weights"):
        locate_weights(make_encoder(sha256=sha256), path, download=False)


def test_what_does_not_exist_is_said_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        locate_weights(make_encoder(), tmp_path / "missing", download=True)
    expected = r"expected encoder-1/model\.safetensors or model\.safetensors in it"
    with pytest.raises(UsageError, match=expected):
        locate_weights(make_encoder(), tmp_path, download=True)


def test_without_download_the_command_for_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    command = f"run hf download publisher/encoder model.safetensors --revision {'0' * 40}, or give"
    with pytest.raises(StoredFileError, match=command):
        locate_weights(make_encoder(), None, download=False)
    folder = tmp_path / "models--publisher--encoder" / "snapshots" / ("0" * 40)
    path = put(folder / "model.safetensors")
    assert locate_weights(make_encoder(), None, download=False) == path


def test_a_revision_or_file_that_is_not_the_registrys_is_not_found_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--publisher--encoder" / "snapshots"
    put(folder / ("1" * 40) / "model.safetensors")
    put(folder / ("0" * 40) / "pytorch_model.bin")
    assert find_cached(make_encoder()) is None
