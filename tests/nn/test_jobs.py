"""A job in another process does the same as in this one."""

from __future__ import annotations

import csv
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from support.nn_tools import make_bag, make_bundle, member_file, random_patches, raw_tile
from support.results import require_equal_predictions

from milpath.cohort.cohort import SlideEntry
from milpath.errors import UsageError
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bundle import save_encoder
from milpath.nn.classify import Classifier
from milpath.nn.embed import Embedder, find_bags
from milpath.nn.encoders import SMALL, build_encoder, fingerprint_weights
from milpath.nn.encoders.encoder import NetworkEncoder
from milpath.nn.jobs import ClassifyJob, EmbedJob
from milpath.nn.predict import prepare_model
from milpath.runs import run_job
from milpath.synthetic import SyntheticSlide, draw_slide


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def encoder_in(
    folder: Path, seed: int = 0, out: Path = Path("out")
) -> tuple[keras.Model, EncoderSpec, EmbedJob]:
    keras.utils.set_random_seed(seed)
    network = build_encoder(SMALL, 16)
    digest = fingerprint_weights(network)
    spec = EncoderSpec(name=SMALL, patch_px=16, dim=128, weights="random", mpp=1.0, digest=digest)
    save_encoder(folder, NetworkEncoder(network, spec))
    return network, spec, EmbedJob(folder, digest, out)


def test_a_pickled_job_classifies_alike_and_is_small(drawn: SyntheticSlide, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model", members=2, tile=raw_tile(32, mpp=2.0))
    entry = SlideEntry(drawn.path, "drawn")
    here = Classifier(prepare_model(bundle), tmp_path / "here")(entry)
    job = ClassifyJob(tmp_path / "model", bundle.spec.fingerprint, tmp_path / "there")
    assert len(pickle.dumps(job)) < 1000
    there = pickle.loads(pickle.dumps(job))(entry)
    assert there == here
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_a_pickled_job_embeds_alike(tmp_path: Path) -> None:
    network, spec, job = encoder_in(tmp_path / "encoder", out=tmp_path / "there")
    make_bag(tmp_path / "bags", "s", random_patches(70))
    (item,) = find_bags(tmp_path / "bags")
    here = Embedder(NetworkEncoder(network, spec), tmp_path / "here")
    assert pickle.loads(pickle.dumps(job))(item) == here(item)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_a_network_that_was_replaced_stops_the_run(tmp_path: Path) -> None:
    make_bag(tmp_path, "s", random_patches(1))
    *_, job = encoder_in(tmp_path / "encoder")
    encoder_in(tmp_path / "encoder", seed=1)
    with pytest.raises(UsageError, match="encoder: was replaced during the run; start"):
        list(run_job(job, find_bags(tmp_path)))
    make_bundle(tmp_path / "model")
    other = ClassifyJob(tmp_path / "model", "another", tmp_path)
    with pytest.raises(UsageError, match="model: was replaced during the run; start"):
        list(run_job(other, find_bags(tmp_path)))


def test_a_network_that_cannot_be_loaded_stops_the_run(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model")
    member_file(tmp_path / "model").write_text("damaged")
    job = ClassifyJob(tmp_path / "model", bundle.spec.fingerprint, tmp_path / "out")
    with pytest.raises(UsageError, match=r"member-0-\w+\.h5: not a weights file"):
        list(run_job(job, [SlideEntry(tmp_path / "a.svs", "a")]))
    with pytest.raises(UsageError, match="not a model folder"):
        list(
            run_job(
                EmbedJob(tmp_path / "nothing", "code", tmp_path), [SlideEntry(tmp_path / "a", "a")]
            )
        )


def test_importing_jobs_imports_no_network_library() -> None:
    code = "import sys, milpath.nn.jobs, milpath.predictions_table; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"keras", "tensorflow"} & set(run.stdout.split())


def read_table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


def require_equal_rows(one: dict[str, str], two: dict[str, str]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        if name.startswith("prob_") and value:
            assert float(value) == pytest.approx(float(two[name]), abs=2e-6)  # 6 digits are kept
        else:
            assert value == two[name]


@pytest.mark.slow
def test_two_processes_and_shards_predict_alike_within_rounding_and_keep_separate_tables(
    tmp_path: Path,
) -> None:
    make_bundle(tmp_path / "model", tile=raw_tile(32))
    slides = tmp_path / "slides"
    slides.mkdir()
    for number in range(3):
        draw_slide(slides / f"s{number}.tif", seed=number, tumour=False, size_px=(512, 512))

    def classify(out: str, *options: str) -> None:
        words = ["classify", "slides", "--model", "model", "--out", out, *options]
        done = subprocess.run(
            [sys.executable, "-m", "milpath", *words],
            cwd=tmp_path, capture_output=True, text=True, check=True,
            env={**os.environ, "TERM": "dumb"},
        )  # fmt: skip
        first, *lines = done.stderr.splitlines()
        assert first.startswith("model: was trained by an earlier version")  # has no feature space
        assert lines[-1].startswith("classify: ")
        progress = re.compile(r"\d{4}-\d\d-\d\dT\S+ classify \d+/\d+, elapsed ")
        assert all(map(progress.match, lines[:-1]))  # and nothing of Keras

    classify("one")
    classify("two", "--workers", "2", "--shard", "1/2")
    assert sorted(read_table(tmp_path / "two" / "predictions-1-of-2.csv")) == ["s0", "s2"]
    classify("two", "--shard", "2/2")
    assert sorted(read_table(tmp_path / "two" / "predictions-2-of-2.csv")) == ["s1"]
    assert not (tmp_path / "two" / "predictions.csv").exists()
    classify("two")  # skips all, and writes the table
    names = {path.name for path in (tmp_path / "one").glob("*.*")}
    assert names <= {path.name for path in (tmp_path / "two").glob("*.*")}
    require_equal_predictions(tmp_path / "one", tmp_path / "two")
    one, two = (read_table(tmp_path / name / "predictions.csv") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for slide, row in one.items():
        require_equal_rows(row, two[slide])
