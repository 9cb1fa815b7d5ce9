"""A summary of a folder of features says what its files say, which differ, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from milpath.cli import app
from milpath.errors import StoredFileError
from milpath.formats.foreign import detect_features
from milpath.formats.foreign.summary import SAMPLED_SLIDES, FolderSummary, summarize_features
from milpath.formats.foreign.values import FeatureHints
from tests.support import foreign_tensors as write
from tests.support.foreign_tensors import draw_features


def summarize(folder: Path, **hints: Any) -> FolderSummary:
    return summarize_features(detect_features(folder), FeatureHints(**hints))


def test_what_the_files_say_is_said(tmp_path: Path) -> None:
    write.write_slideflow(tmp_path, "a", draw_features(dtype="float16"))
    found = summarize(tmp_path)
    assert found.facts == {
        "tool": "slideflow",
        "encoder": "net",
        "variant": None,
        "revision": None,
        "digest": None,
        "features": 4,
        "precision": "float16",
        "patch in pixels": 256,
        "µm per pixel": 0.5,
        "checksums": None,
        "coordinates": "from the files and the slide's µm per pixel",
        "patch at level 0": "from the files and the slide's µm per pixel",
    }
    assert (found.differ, found.failed, found.sampled) == ({}, {}, ("a",))


def test_what_no_file_says_is_none_or_what_the_user_says(tmp_path: Path) -> None:
    write.write_npz(tmp_path, "a", draw_features())
    silent = summarize(tmp_path).facts
    assert (silent["encoder"], silent["patch in pixels"], silent["µm per pixel"]) == (None,) * 3
    assert (silent["coordinates"], silent["patch at level 0"]) == ("in the files", None)
    said = summarize(tmp_path, encoder="uni", patch_px=224, mpp=0.25).facts
    assert (said["encoder"], said["patch in pixels"], said["µm per pixel"]) == ("uni", 224, 0.25)
    assert said["patch at level 0"] == "from the files and the slide's µm per pixel"


def test_slides_that_differ_or_cannot_be_read_are_named(tmp_path: Path) -> None:
    for at in range(5):
        write.write_npz(tmp_path, f"s{at}", draw_features(dim=5 if at == 3 else 4))
    (tmp_path / "s0.npz").write_bytes(b"torn")
    found = summarize(tmp_path)
    assert found.facts["features"] == 4
    assert found.differ == {"s3": {"features": 5}}
    assert list(found.failed) == ["s0"]
    assert found.failed["s0"].startswith("s0.npz: ")


def test_a_sample_is_spread_over_all_slides(tmp_path: Path) -> None:
    for at in range(5 * SAMPLED_SLIDES):
        write.write_npz(tmp_path, f"{at:03}", draw_features(1))
    sampled = summarize(tmp_path).sampled
    assert sampled == tuple(f"{5 * at:03}" for at in range(SAMPLED_SLIDES))


def test_a_folder_of_which_no_slide_can_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"torn")
    with pytest.raises(StoredFileError, match=r"a\.npz: not an archive"):
        summarize(tmp_path)


def test_info_says_which_option_gives_what_the_files_do_not(tmp_path: Path) -> None:
    write.write_npz(tmp_path, "a", draw_features())
    command = ["info", str(tmp_path), "--mpp", "0.5"]
    answer = CliRunner().invoke(app, [*command, "--json"])
    found = json.loads(answer.stdout)
    assert (found["what"], found["layout"], found["slides"]) == ("folder of features", "numpy", 1)
    assert found["µm per pixel"] == 0.5
    assert found["not in the files"] == {
        "encoder": "give --encoder-name",
        "patch in pixels": "give --patch-size",
    }
    words = CliRunner().invoke(app, command).stdout
    assert "not in the files            encoder give --encoder-name" in words
    assert "slides that differ          -" in words


def test_info_refuses_options_of_features_for_another_file(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes(b"")
    answer = CliRunner().invoke(app, ["info", str(path), "--mpp", "0.5"])
    assert answer.exit_code != 0
    assert "are for folders of feature files" in str(answer.exception)
