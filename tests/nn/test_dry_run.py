"""A dry run of what needs the network says what would be done, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from support.nn_tools import (
    TiledCohort,
    make_bag,
    make_bundle,
    member_file,
    random_patches,
    raw_tile,
)
from typer.testing import CliRunner, Result

from milpath.cli import app
from milpath.cohort.cohort import SlideEntry
from milpath.errors import UsageError
from milpath.nn.jobs import ClassifyJob
from milpath.runs import run_job
from milpath.synthetic import SyntheticSlide


def milpath(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_classifying_is_foreseen_without_loading_the_network(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    spec = make_bundle(tmp_path / "model", tile=raw_tile(32, mpp=2.0)).spec
    out = tmp_path / "out"
    words = ("classify", drawn.path, "--out", out, "--dry-run", "--model")
    assert "would be done" in milpath(*words, tmp_path / "model").stdout
    assert not out.exists()
    job = ClassifyJob(tmp_path / "model", spec.fingerprint, out)
    list(run_job(job, [SlideEntry(drawn.path, drawn.path.stem)]))
    before = times(tmp_path)
    assert "would be skipped: " in milpath(*words, tmp_path / "model").stdout
    assert times(tmp_path) == before
    make_bundle(tmp_path / "other", tile=raw_tile(32, mpp=2.0), seed=1)
    said = milpath(*words, tmp_path / "other").stdout
    assert "would be made anew: the model is another one" in said
    (out / f"{drawn.path.stem}.png").unlink()
    assert "anew: its picture was missing" in milpath(*words, tmp_path / "model").stdout
    member_file(tmp_path / "model").unlink()
    assert isinstance(milpath(*words, tmp_path / "model").exception, UsageError)


def test_embedding_is_foreseen_bag_by_bag(tmp_path: Path) -> None:
    make_bundle(tmp_path / "model", tile=raw_tile(16))
    bags = tmp_path / "bags"
    make_bag(bags, "a", random_patches(2))
    make_bag(bags, "b", random_patches(3), features=np.zeros((3, 4)))
    make_bag(bags, "c", random_patches(3, side=32))
    before = times(tmp_path)
    done = milpath("embed", bags, "--encoder", tmp_path / "model", "--dry-run", "--json")
    assert done.exit_code == 3
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["status"] for one in said] == ["planned", "planned", "failed"]
    assert said[1]["message"] == "would be made anew: the encoder was made, is small"
    assert times(tmp_path) == before


def test_training_is_foreseen_with_its_split(tiled: TiledCohort, tmp_path: Path) -> None:
    rows = [f"{entry.path},{entry.slide_id},{entry.label}" for entry in tiled.cohort.entries]
    cohort = tmp_path / "cohort.csv"
    cohort.write_text("\n".join(["slide,slide_id,label", *rows]))
    words = ("train", cohort, "--bags", tiled.bags, "--out", tmp_path / "model", "--dry-run")
    said = milpath(*words).stdout
    assert said.startswith("would train 1 for normal, tumour on 12 slides: first on ")
    told = json.loads(milpath(*words, "--json").stdout)
    assert sum(told["first_fold"].values()) == told["slides"] == 12
    assert list(tmp_path.iterdir()) == [cohort]
