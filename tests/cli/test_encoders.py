"""`milpath encoders`: all in a table that fits, one with all facts, and nothing is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hub import make_environment, run_child

from milpath.cli.encoders import collect_facts, lay_out_table
from milpath.registry import ENCODERS
from milpath.registry.installed import OWN_ENCODERS, list_keras_names

PUBLISHED = list(ENCODERS)


def milpath(
    home: Path, *arguments: str, columns: int = 120, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `milpath encoders` in a process whose hub's cache is in `home`."""
    return subprocess.run(
        [sys.executable, "-m", "milpath", "encoders", *arguments],
        env=make_environment(home, "") | {"COLUMNS": str(columns), "PYTHONUTF8": "1"} | variables,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose cache holds the weights of one encoder."""
    home = tmp_path_factory.mktemp("home")
    chosen = ENCODERS["virchow2"]
    assert chosen.revision is not None
    repository = home / "hub" / f"models--{chosen.repository.replace('/', '--')}"
    path = repository / "snapshots" / chosen.revision / chosen.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    return home


@pytest.mark.parametrize("columns", [80, 100, 120, 250])
def test_the_table_fits_and_has_each_encoder_once(columns: int, home: Path) -> None:
    done = milpath(home, columns=columns)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    table = lines[: lines.index("")]
    assert [line.split()[0] for line in table if line[0] != " "] == ["encoder", *PUBLISHED]
    assert [line.split()[0] for line in table if line.endswith(" yes")] == ["virchow2"]
    rest = " ".join(lines[len(table) :])
    assert f"keras.applications ({len(list_keras_names())} networks)" in rest
    assert all(name in rest for name in OWN_ENCODERS)


def test_json_has_one_object_for_each_encoder_with_every_field(home: Path) -> None:
    done = milpath(home, "--json")
    found = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert list(found) == [*PUBLISHED, *OWN_ENCODERS, *list_keras_names()]
    for encoder in ENCODERS.values():
        one = found[encoder.name]
        for name in vars(encoder):
            assert name in one
        assert one["dims"] == {name: encoder.dim(name) for name in encoder.variants}
        assert one["mpp"] == list(encoder.mpp)
        assert (one["cached"] is not None) == (encoder.name == "virchow2")
    assert found["small"] == {
        "name": "small", "kind": "own", "publisher": "milpath", "dims": {"cls": 128},
    }  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_facts_of_an_encoder_can_be_stored_as_json(name: str) -> None:
    facts = collect_facts(ENCODERS[name])
    assert json.loads(json.dumps(facts))["name"] == name
    assert len(facts["steps"]) == 3


@pytest.mark.parametrize("name", ["virchow2", "VIRCHOW2", "prov-gigapath", "kaiko-vits8", "gpfm"])
def test_one_encoder_is_described_with_the_three_steps_to_its_weights(
    name: str, home: Path
) -> None:
    encoder = ENCODERS[name.lower()]
    done = milpath(home, name)
    assert (done.returncode, done.stderr) == (0, "")
    facts, steps = done.stdout.split("\n\n")
    for fact in (encoder.licence, encoder.repository, encoder.file, encoder.mpp_source):
        assert fact in facts
    assert ("commercial use     unclear" in facts) == (encoder.commercial is None)
    assert (f"the centre of {encoder.crop_px} px" in facts) == (encoder.crop_px is not None)
    for variant in encoder.variants:
        assert f"{variant}: {encoder.dim(variant)} features" in facts
    first, second, third = steps.splitlines()[1:]
    needs_account = encoder.gate != "open"
    assert (f"https://huggingface.co/{encoder.repository}" in first) == needs_account
    assert f"hf download {encoder.repository} {encoder.file}" in second
    assert (f"--revision {encoder.revision}" in second) == (encoder.revision is not None)
    assert f"--encoder {encoder.name} [--weights FILE]" in third


@pytest.mark.parametrize("name", ["small", "resnet50"])
def test_encoders_that_are_not_published_are_described_too(name: str, home: Path) -> None:
    done = milpath(home, name)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split() == ["encoder", name]
    (one,) = milpath(home, name, "--json").stdout.splitlines()
    assert json.loads(one)["name"] == name


def test_the_encoder_of_a_package_is_listed_without_loading_it(home: Path, tmp_path: Path) -> None:
    info = tmp_path / "other_package-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text("[milpath.encoders]\ntheirs = not_importable:make\n")
    paths = f"{tmp_path}{os.pathsep}{make_environment(home, '')['PYTHONPATH']}"
    assert "Of installed packages: theirs." in milpath(home, PYTHONPATH=paths).stdout
    done = milpath(home, "theirs", PYTHONPATH=paths)
    assert "the installed package other-package 2.1" in done.stdout
    (one,) = milpath(home, "theirs", "--json", PYTHONPATH=paths).stdout.splitlines()
    assert json.loads(one) == {
        "name": "theirs", "kind": "plugin", "publisher": "other-package", "version": "2.1",
    }  # fmt: skip


def test_an_unknown_name_is_wrong_usage_and_names_the_nearest(home: Path) -> None:
    done = milpath(home, "gigapath")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "milpath: there is no encoder 'gigapath'; did you mean prov-gigapath? milpath encoders "
        "lists all\n"
    )


def test_neither_keras_nor_huggingface_hub_is_imported(home: Path) -> None:
    code = (
        "import sys\nfrom milpath.cli import app\n"
        "for words in ([], ['virchow2'], ['resnet50', '--json']):\n"
        "    app(['encoders', *words], standalone_mode=False)\n"
        "print('loaded:', *sys.modules)"
    )
    done = run_child(code, make_environment(home, ""))
    loaded = set(done.stdout.rsplit("loaded:", 1)[1].split())
    heavy = {"keras", "tensorflow", "huggingface_hub", "numpy", "rich", "httpx2"}
    assert "milpath.registry" in loaded
    assert not heavy & loaded


def test_a_cache_that_cannot_be_read_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file, where a folder should be", encoding="utf-8")
    done = milpath(tmp_path)
    assert done.returncode == 0
    assert not any(line.endswith(" yes") for line in done.stdout.splitlines())


def test_cells_are_broken_without_losing_a_letter() -> None:
    rows = [[["name"], ["a long text in words"]], [["x" * 12], ["one", "two"]]]
    for width in range(10, 40):
        lines = list(lay_out_table(rows, (4, 4), width))
        assert max(map(len, lines)) <= max(width, 9)
        text = "".join("".join(lines).split())
        assert sorted(text) == sorted("name" + "alongtextinwords" + "x" * 12 + "onetwo")
