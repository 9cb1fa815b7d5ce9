"""A dry run of classify, embed and train says what would be done, and writes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from support.nn_tools import (
    TiledCohort,
    features_spec,
    make_bag,
    make_bundle,
    make_features,
    member_file,
    random_patches,
    raw_tile,
)
from typer.testing import CliRunner, Result

from milpath.cli import app
from milpath.cohort.cohort import SlideEntry
from milpath.errors import UsageError
from milpath.nn.bundle import load_encoder
from milpath.nn.embed import name_folder
from milpath.nn.jobs import ClassifyJob
from milpath.runs import run_job
from milpath.synthetic import SyntheticSlide


def milpath(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_of_classify_says_what_a_run_does(drawn: SyntheticSlide, tmp_path: Path) -> None:
    spec = make_bundle(tmp_path / "model", tile=raw_tile(32, mpp=2.0)).spec
    out = tmp_path / "out"
    words = ("classify", drawn.path, "--out", out, "--dry-run", "--model")
    assert "would be classified" in milpath(*words, tmp_path / "model").stdout
    assert not out.exists()
    job = ClassifyJob(tmp_path / "model", spec.fingerprint, out)
    list(run_job(job, [SlideEntry(drawn.path, drawn.path.stem)]))
    before = times(tmp_path)
    assert "would be skipped: " in milpath(*words, tmp_path / "model").stdout
    assert times(tmp_path) == before
    make_bundle(tmp_path / "other", tile=raw_tile(32, mpp=2.0), seed=1)
    said = milpath(*words, tmp_path / "other").stdout
    assert "would be re-classified: the model differs" in said
    (out / f"{drawn.path.stem}.png").unlink()
    assert (
        "would be re-rendered: its picture is missing" in milpath(*words, tmp_path / "model").stdout
    )
    member_file(tmp_path / "model").unlink()
    assert isinstance(milpath(*words, tmp_path / "model").exception, UsageError)


def test_a_dry_run_of_classify_imports_no_network_library(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "model", tile=raw_tile(32, mpp=2.0))
    words = ["classify", str(drawn.path), "--model", "model", "--out", "out", "--dry-run"]
    code = (
        "import sys, milpath.cli\n"
        "try:\n"
        f"    milpath.cli.app({words!r})\n"
        "except SystemExit:\n"
        "    print(*sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "would be classified" in run.stdout
    assert "milpath.nn.classify" in run.stdout.split()
    assert not {"keras", "tensorflow"} & set(run.stdout.split())


def test_a_dry_run_gives_the_reasons_of_the_run(drawn: SyntheticSlide, tmp_path: Path) -> None:
    entry = SlideEntry(drawn.path, "s")
    for seed in (0, 1):
        spec = make_bundle(tmp_path / str(seed), tile=raw_tile(32, mpp=2.0), seed=seed).spec
        job = ClassifyJob(tmp_path / str(seed), spec.fingerprint, tmp_path / "out")
        planned = replace(job, dry_run=True)(entry)
        done = job(entry)
        reason = done.message.partition(", re-classified: ")[2]
        assert reason == ("the model differs" if seed else "")
        assert planned.message.removeprefix("would be ") == (
            f"re-classified: {reason}" if reason else "classified"
        )
        skipped = job(entry)
        assert replace(job, dry_run=True)(entry).message == f"would be skipped: {skipped.message}"
        assert skipped.facts == done.facts
    (tmp_path / "out" / "s.png").unlink()
    planned, done = replace(job, dry_run=True)(entry), job(entry)
    assert planned.message == "would be re-rendered: its picture is missing"
    assert done.message.endswith(", re-rendered: its picture is missing")


def test_a_dry_run_of_embed_says_what_happens_to_each_bag(tmp_path: Path) -> None:
    make_bundle(tmp_path / "model", tile=raw_tile(16))
    bags = tmp_path / "bags"
    make_bag(bags, "a", random_patches(2))
    make_bag(bags, "b", random_patches(3))
    make_bag(bags, "c", random_patches(3, side=32))
    spec = load_encoder(tmp_path / "model").spec
    folder = tmp_path / "features" / name_folder(spec)
    make_features(folder, "b", np.eye(3, 4), features_spec(4))
    before = times(tmp_path)
    words = ("--encoder", tmp_path / "model", "--out", tmp_path / "features")
    done = milpath("embed", bags, *words, "--dry-run", "--json")
    assert done.exit_code == 3
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["status"] for one in said] == ["planned", "planned", "failed"]
    assert said[1]["message"] == (
        "would be re-embedded: the encoder differs (encoder made and small; dimension 4 and 128)"
    )
    assert times(tmp_path) == before


def test_a_dry_run_of_train_shows_the_split(tiled: TiledCohort, tmp_path: Path) -> None:
    rows = [f"{entry.path},{entry.slide_id},{entry.label}" for entry in tiled.cohort.entries]
    cohort = tmp_path / "cohort.csv"
    cohort.write_text("\n".join(["slide,slide_id,label", *rows]))
    words = ("train", cohort, "--bags", tiled.bags, "--out", tmp_path / "model", "--dry-run")
    said = milpath(*words).stdout
    assert said.startswith("would train 1 model (classes normal, tumour) on 12 slides: ")
    plan = json.loads(milpath(*words, "--json").stdout)
    assert sum(plan["first_fold"].values()) == plan["slides"] == 12
    assert list(tmp_path.iterdir()) == [cohort]
