"""Features written in the layout of another tool are read back as they were."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from support.nn_tools import features_spec, make_features
from typer.testing import CliRunner, Result

from milpath.cli import app
from milpath.formats.foreign import detect_features
from milpath.formats.foreign.values import FeatureHints
from milpath.store.torchfile import read_torch
from milpath.store.torchwriting import publish_tensor

WHERE = {"trident": "features_net", "clam": "", "stamp": ""}
HINTS = {
    "trident": FeatureHints(slide_mpp=1.0),
    "clam": FeatureHints(encoder="net", slide_mpp=1.0),
    "stamp": FeatureHints(slide_mpp=1.0),
}


def draw(count: int) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.random.default_rng(count).normal(size=(count, 5)).astype("f4")
    return values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Features of three slides of 4, 7 and 0 patches."""
    made = tmp_path / "made"
    for name, count in (("a", 4), ("b.c", 7), ("empty", 0)):
        make_features(made, name, draw(count), features_spec(5, "net"))
    return made


def export(folder: Path, layout: str, out: Path) -> Result:
    words = ["export-features", str(folder), "--layout", layout, "--out", str(out)]
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize("layout", WHERE)
def test_every_layout_gives_back_features_places_and_facts(
    folder: Path, tmp_path: Path, layout: str
) -> None:
    assert export(folder, layout, tmp_path / "out").exit_code == 0
    found = detect_features(tmp_path / "out" / WHERE[layout])
    assert found.layout.name == layout
    assert list(found.files) == ["a", "b.c", "empty"]
    before = detect_features(folder)
    for slide_id in found.files:
        with (
            before.open(slide_id, FeatureHints()) as one,
            found.open(slide_id, HINTS[layout]) as two,
        ):
            np.testing.assert_array_equal(two.features[:], one.features[:])
            assert one.coords_l0 is not None
            assert two.coords_l0 is not None
            np.testing.assert_array_equal(two.coords_l0, one.coords_l0)
            assert two.patch_size_l0 == one.patch_size_l0
            facts = two.facts
            assert (facts.encoder, facts.dim, facts.patch_px, facts.mpp) == ("net", 5, 16, 1.0)


def test_clam_gets_the_same_features_as_tensors(folder: Path, tmp_path: Path) -> None:
    export(folder, "clam", tmp_path / "out")
    found = detect_features(tmp_path / "out" / "pt_files")
    assert found.layout.name == "clam-pt"
    with found.open("b.c", FeatureHints()) as slide:
        np.testing.assert_array_equal(slide.features[:], draw(7).astype("f2").astype("f4"))


def test_other_programs_open_them_for_writing(folder: Path, tmp_path: Path) -> None:
    export(folder, "trident", tmp_path / "out")
    with h5py.File(tmp_path / "out" / "features_net" / "a.h5", "r+") as h5:
        assert h5["features"].dtype == np.float32
        assert h5["coords"].attrs["patch_size_level0"] == 16
        h5.attrs["mine"] = 1


@pytest.mark.parametrize("count", [0, 1, 300])
def test_a_tensor_is_read_back_and_the_same_bytes_come_again(tmp_path: Path, count: int) -> None:
    values = draw(count)
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    publish_tensor(one, values)
    publish_tensor(two, values)
    (found,) = read_torch(one).tensors.values()
    np.testing.assert_array_equal(found, values)
    assert one.read_bytes() == two.read_bytes()


# -- faults ----------------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder of features without coordinates."""
    (tmp_path / "bare").mkdir()
    np.savez(tmp_path / "bare" / "s.npz", features=draw(3))
    return tmp_path / "bare"


def test_features_without_places_fail_with_the_reason(bare: Path, tmp_path: Path) -> None:
    words = ["export-features", str(bare), "--layout", "trident", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 4
    outcome = json.loads(done.stdout.splitlines()[0])
    assert outcome["status"] == "failed"
    assert "does not say where its patches lie" in outcome["message"]
    assert not list((tmp_path / "out").rglob("*.h5"))
