"""Weights from the hub: downloaded once, pinned, verified, and every failure in one line."""

from __future__ import annotations

import hashlib
import shlex
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.hub import (
    CONTENT,
    DIGEST,
    REVISION,
    Hub,
    locate_in_child,
    make_environment,
    run_child,
    serve,
)

from milpath.registry import ENCODERS
from milpath.registry.checksums import digest_weights
from milpath.registry.instructions import describe_download

CACHED = Path("hub", "models--publisher--encoder", "snapshots", REVISION, "model.safetensors")
HOW = f"hf download publisher/encoder model.safetensors --revision {REVISION}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub()) as served:
        yield served


def test_weights_are_downloaded_once_and_then_found_without_network(
    hub: Hub, tmp_path: Path
) -> None:
    environment = make_environment(tmp_path, hub.endpoint)
    path = Path(locate_in_child(environment))
    assert path == tmp_path / CACHED
    assert path.read_bytes() == CONTENT
    asked = len(hub.requests)
    assert locate_in_child(environment) == str(path)
    assert locate_in_child(environment | {"HF_HUB_OFFLINE": "1"}) == str(path)
    assert len(hub.requests) == asked


def test_the_hub_learns_the_file_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    locate_in_child(make_environment(tmp_path, hub.endpoint, AI_AGENT="some-agent"))
    assert {path for _, path, _ in hub.requests} == {
        f"/publisher/encoder/resolve/{REVISION}/model.safetensors"
    }
    for method, _, headers in hub.requests:
        sent = headers["user-agent"]
        assert method in ("HEAD", "GET")
        assert "milpath/" in sent
        assert not any(word in sent for word in ("tensorflow", "torch", "agent/"))
        assert "authorization" not in headers


def test_the_token_of_the_environment_or_of_the_login_opens_a_gate(
    hub: Hub, tmp_path: Path
) -> None:
    hub.token = "hf_right"
    first, second = tmp_path / "first", tmp_path / "second"
    found = locate_in_child(make_environment(first, hub.endpoint, HF_TOKEN="hf_right"))
    assert found == str(first / CACHED)
    second.mkdir()
    (second / "token").write_text("hf_right", encoding="utf-8")
    assert locate_in_child(make_environment(second, hub.endpoint)) == str(second / CACHED)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HF_HOME": "~/a"},
        {"HF_HOME": "$HOME/b", "XDG_CACHE_HOME": "/not/used"},
        {"XDG_CACHE_HOME": "/tmp/xdg"},
        {"XDG_CACHE_HOME": "~/xdg"},
        {"HF_HUB_CACHE": "~/$NAME/c", "HF_HOME": "/not/used", "NAME": "d"},
        {"HUGGINGFACE_HUB_CACHE": "~/e"},
        {"HUGGINGFACE_HUB_CACHE": "/not/used", "HF_HUB_CACHE": "relative"},
    ],
    ids=lambda variables: ",".join(variables) or "none",
)
def test_the_cache_is_where_huggingface_hub_has_it(
    variables: dict[str, str], tmp_path: Path
) -> None:
    environment = make_environment(tmp_path, "")
    del environment["HF_HOME"]
    code = (
        "from milpath.registry.hub import locate_cache\n"
        "from huggingface_hub import constants\n"
        "print(locate_cache())\nprint(constants.HF_HUB_CACHE)"
    )
    found = run_child(code, environment | variables).stdout.splitlines()
    assert len(found) == 2
    assert found[0] == found[1]


def test_a_checksum_other_than_that_of_the_registry_is_refused_before_the_download(
    hub: Hub, tmp_path: Path
) -> None:
    environment = make_environment(tmp_path, hub.endpoint)
    found = locate_in_child(environment, sha256="0" * 64)
    assert found.startswith("StoredFileError: encoder-1: the hub has a file model.safetensors with")
    assert DIGEST[:12] in found
    assert [method for method, *_ in hub.requests] == ["HEAD"]
    assert locate_in_child(environment, sha256=DIGEST) == str(tmp_path / CACHED)


def test_bytes_that_changed_on_the_way_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.served = CONTENT[::-1]
    environment = make_environment(tmp_path, hub.endpoint)
    for _ in range(2):  # at the download, and when it is found in the cache
        found = locate_in_child(environment)
        assert found.startswith("StoredFileError: ")
        assert "not the weights of encoder-1, or damaged" in found
        assert f"expected {DIGEST[:12]}...; download it again: {HOW} --force-download" in found


def test_a_cached_file_that_changed_on_disk_is_refused(hub: Hub, tmp_path: Path) -> None:
    environment = make_environment(tmp_path, hub.endpoint)
    path = Path(locate_in_child(environment))
    path.write_bytes(CONTENT[:-1] + b"?")
    assert "not the weights of encoder-1, or damaged" in locate_in_child(environment)


def test_the_name_of_a_blob_that_is_a_link_itself_is_not_taken_for_its_checksum(
    hub: Hub, tmp_path: Path
) -> None:
    environment = make_environment(tmp_path, hub.endpoint)
    blob = Path(locate_in_child(environment)).resolve()
    blob.rename(tmp_path / ("f" * 64))  # the store that caches share names files by another hash
    blob.symlink_to(tmp_path / ("f" * 64))
    assert locate_in_child(environment) == str(tmp_path / CACHED)


def test_a_cache_without_links_is_used_and_said_to_be_unverified(hub: Hub, tmp_path: Path) -> None:
    environment = make_environment(tmp_path, hub.endpoint, HF_HUB_DISABLE_SYMLINKS="1")
    environment["HF_HUB_DISABLE_SYMLINKS_WARNING"] = "1"
    assert locate_in_child(environment) == str(tmp_path / CACHED)
    assert not (tmp_path / CACHED).is_symlink()
    show = "import logging, sys\nlogging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
    again = locate_in_child(environment, prelude=show).splitlines()
    assert again[0].startswith("encoder-1: the checksum of ")
    assert again[1] == str(tmp_path / CACHED)


def test_without_a_revision_the_newest_is_taken_once_and_said(hub: Hub, tmp_path: Path) -> None:
    environment = make_environment(tmp_path, hub.endpoint)
    show = "import logging, sys\nlogging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
    said, path = locate_in_child(environment, prelude=show, revision=None).splitlines()
    assert said == (
        "encoder-1: milpath knows no revision of publisher/encoder; the newest is taken, "
        + REVISION
    )
    assert path == str(tmp_path / CACHED)
    asked = len(hub.requests)
    hub.revision = "f" * 40
    assert locate_in_child(environment, prelude=show, revision=None) == path
    assert len(hub.requests) == asked


def close_port() -> str:
    """Return the address of a port that no one listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_no_network_is_one_line(tmp_path: Path) -> None:
    found = locate_in_child(make_environment(tmp_path, close_port()))
    assert found.startswith("StoredFileError: encoder-1: downloading from 127.0.0.1:")
    assert "Connection refused" in found
    assert found.endswith(f"give the file with --weights FILE: {HOW}")
    assert "\n" not in found


def test_a_download_that_breaks_off_is_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.served = CONTENT[:100]
    found = locate_in_child(make_environment(tmp_path, hub.endpoint))
    assert found.startswith("StoredFileError: encoder-1: downloading from 127.0.0.1:")
    assert "\n" not in found
    assert not (tmp_path / CACHED).exists()


def test_offline_mode_without_cached_weights_is_one_line(hub: Hub, tmp_path: Path) -> None:
    found = locate_in_child(make_environment(tmp_path, hub.endpoint, HF_HUB_OFFLINE="1"))
    assert found == (
        f"StoredFileError: encoder-1: its weights are not in the cache {tmp_path / 'hub'}, and "
        f"HF_HUB_OFFLINE forbids downloading; unset it, or run this where it is unset: {HOW}"
    )
    assert not hub.requests


PAGE = "https://huggingface.co/publisher/encoder"
REFUSALS = {
    "gated, no token": ((401, "GatedRepo", "restricted"), "", f"accept the terms at {PAGE}, then"),
    "gated, bad token": ((401, "GatedRepo", "x"), "hf_bad", "the hub does not accept your token"),
    "gated, not allowed": ((403, "GatedRepo", "x"), "hf_x", "your account has no access"),
    "bad token": (
        (401, "", "Invalid credentials in Authorization header"),
        "hf_x",
        "the hub does not accept your token",
    ),
    "no repository": (
        (404, "RepoNotFound", "x"),
        "",
        "the hub has no repository publisher/encoder",
    ),
    "no revision": ((404, "RevisionNotFound", "x"), "", "the hub no longer has the file"),
    "no file": ((404, "EntryNotFound", "x"), "", "the hub no longer has the file"),
    "disabled": ((403, "", "Access to this resource is disabled."), "", "the hub has disabled"),
    "forbidden": ((403, "", "x"), "", "answers with the error 403"),
    "too many requests": ((429, "", "x"), "", "answers with the error 429; too many requests"),
    "nothing there": ((404, "", "x"), "", "answers with the error 404; check HF_ENDPOINT"),
    "hub down": ((503, "", "x"), "", "answers with the error 503; try again later"),
}


@pytest.mark.parametrize(("refusal", "token", "text"), REFUSALS.values(), ids=list(REFUSALS))
def test_each_refusal_of_the_hub_is_one_line(
    refusal: tuple[int, str, str], token: str, text: str, hub: Hub, tmp_path: Path
) -> None:
    hub.refusal = refusal
    found = locate_in_child(make_environment(tmp_path, hub.endpoint, HF_TOKEN=token))
    assert found.startswith("StoredFileError: encoder-1: ")
    assert text in found
    assert "\n" not in found
    assert not token or token not in found


@pytest.mark.parametrize("token", ["hf_\0secret", "hf_\x0bsecret", "hf_sécret"])
def test_a_token_that_cannot_be_sent_is_said_and_not_shown(
    token: str, hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(token, encoding="utf-8")
    found = locate_in_child(make_environment(tmp_path, hub.endpoint))
    assert "the hub does not accept your token" in found
    assert "cret" not in found
    assert not hub.requests


@pytest.mark.parametrize(
    "endpoint", ["huggingface.invalid", "http://huggingface.invalid", "ftp://a"]
)
def test_an_endpoint_that_is_no_address_is_one_line(endpoint: str, tmp_path: Path) -> None:
    found = locate_in_child(make_environment(tmp_path, endpoint))
    assert found.startswith("StoredFileError: encoder-1: downloading from ")
    assert "downloading from  failed" not in found
    assert "\n" not in found


def test_the_commands_that_milpath_prints_are_those_of_hf(hub: Hub, tmp_path: Path) -> None:
    environment = make_environment(tmp_path, hub.endpoint)

    def run_hf(command: str) -> None:
        program, *arguments = shlex.split(command)
        code = "import sys\nfrom huggingface_hub.cli.hf import main\nmain()"
        assert program == "hf"
        done = run_child(code, environment, *arguments)
        assert done.returncode == 0, done.stderr

    encoder = replace(
        ENCODERS["virchow"], repository=hub.repository, file=hub.file, revision=REVISION
    )
    run_hf(describe_download(encoder))
    path = Path(locate_in_child(environment | {"HF_HUB_OFFLINE": "1"}))
    path.write_bytes(b"damaged")
    remedy = locate_in_child(environment).rpartition("download it again: ")[2]
    assert remedy == f"{HOW} --force-download"
    run_hf(remedy)
    assert locate_in_child(environment) == str(path)
    assert path.read_bytes() == CONTENT


def test_a_server_that_is_not_the_hub_is_said(hub: Hub, tmp_path: Path) -> None:
    hub.is_hub = False  # such as the log-in page of a hotel
    found = locate_in_child(make_environment(tmp_path, hub.endpoint))
    assert "is not an answer of the hub; check HF_ENDPOINT" in found


def test_a_disk_that_is_too_small_is_said_before_the_download(hub: Hub, tmp_path: Path) -> None:
    hub.size = 10**18
    found = locate_in_child(make_environment(tmp_path, hub.endpoint))
    assert found.startswith("OutputError: encoder-1: its weights take 1000000000 GB, and ")
    assert [method for method, *_ in hub.requests] == ["HEAD"]


@pytest.mark.parametrize(
    "error",
    [
        "OSError(28, 'No space left on device')",
        "OSError(122, 'Disk quota exceeded')",
        "RuntimeError('Data processing error: No space left on device (os error 28)')",
    ],
)
def test_a_disk_that_fills_up_during_the_download_is_said(
    error: str, hub: Hub, tmp_path: Path
) -> None:
    prelude = (
        "import huggingface_hub\ndef full(*_, **__):\n"
        f"    raise {error}\nhuggingface_hub.hf_hub_download = full\n"
    )
    environment = make_environment(tmp_path, hub.endpoint)
    found = locate_in_child(environment, prelude=prelude)
    assert found.startswith("OutputError: encoder-1: no space left in the cache ")
    assert "\n" not in found


def test_a_cache_that_cannot_be_written_is_said(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file, where a folder should be", encoding="utf-8")
    found = locate_in_child(make_environment(tmp_path, hub.endpoint))
    assert found.startswith(f"OutputError: encoder-1: {tmp_path / 'hub'}")
    assert found.endswith("set HF_HOME to a folder of yours")


def test_without_huggingface_hub_the_cache_is_used_and_a_download_names_the_package(
    hub: Hub, tmp_path: Path
) -> None:
    environment = make_environment(tmp_path, hub.endpoint)
    missing = "import sys\nsys.modules['huggingface_hub'] = None\n"
    found = locate_in_child(environment, prelude=missing)
    assert found.startswith("UsageError: encoder-1: its weights are not in the cache ")
    assert "run pip install 'milpath[hub]', or give the file: --weights FILE" in found
    path = locate_in_child(environment)
    assert locate_in_child(environment, prelude=missing) == path


def test_the_checksum_of_a_file_is_computed_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for content in (b"a", b"bb", b""):
        path.write_bytes(content)
        assert digest_weights(path) == hashlib.sha256(content).hexdigest()


def test_neither_the_registry_nor_the_cache_imports_huggingface_hub(tmp_path: Path) -> None:
    code = (
        "import sys, milpath.registry.weights as weights\n"
        "from milpath.registry import ENCODERS\n"
        "assert not any(map(weights.find_cached, ENCODERS.values()))\n"
        "assert not {'huggingface_hub', 'keras', 'tensorflow', 'numpy'} & set(sys.modules)"
    )
    done = run_child(code, make_environment(tmp_path, ""))
    assert done.returncode == 0, done.stderr
