"""Files of every format since the second are read by this version, with the numbers they had."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.untrusted.tamper import edited

from milpath.errors import StoredFileError
from milpath.formats.bag import Bag
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.prediction import read_prediction
from milpath.formats.verify import check_files
from milpath.nn.bundle import load_bundle
from milpath.nn.predict_features import predict_features, prepare_for_features
from milpath.store.writing import FORMAT_VERSION, READABLE

DATA = Path(__file__).resolve().parents[1] / "data"
BAGS = sorted(DATA.glob("format-*/bag.h5"))
COORDS = [[0, 0], [32, 0], [64, 0], [0, 32], [64, 32]]
MEANS = [124.919, 125.062, 128.781, 128.863, 127.001]
"""Of the pixels of each patch."""
FIRST_FEATURES = [-2.5059, -0.8579, -0.1901, 1.5166, 0.1608, 1.4014]
PROBS = {
    2: [0.4805019, 0.5194981],
    3: [0.9633486, 0.0366514],
}
ATTENTION = {
    2: [0.3001088, 0.2125410, 0.0793692, 0.2138753, 0.1941056],
    3: [0.1889512, 0.1779810, 0.2465111, 0.0853556, 0.3012011],
}


def number_of(path: Path) -> int:
    return int(path.parent.name.removeprefix("format-"))


def test_every_format_that_is_read_has_its_files() -> None:
    assert [number_of(path) for path in BAGS] == list(range(READABLE[0], READABLE[-1] + 1))
    assert READABLE[-1] == FORMAT_VERSION
    assert all(found.state == "ok" for found in check_files(DATA))
    assert sum(path.stat().st_size for path in DATA.rglob("*")) < 200_000


@pytest.mark.parametrize("path", BAGS, ids=number_of)
def test_a_bag_has_its_patches(path: Path) -> None:
    with Bag(path) as bag:
        assert (bag.slide.slide_id, bag.slide.mpp_x, bag.grid.patch_size_l0) == ("drawn", 0.5, 32)
        np.testing.assert_array_equal(bag.grid.coords, COORDS)
        assert (bag.grid.places, bag.header.background) == ("grid", "bright")
        means = bag.read_patches(np.arange(5)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, MEANS, atol=0.01)


@pytest.mark.parametrize("path", BAGS, ids=number_of)
def test_a_prediction_has_its_probabilities(path: Path) -> None:
    found = read_prediction(path.with_name("drawn.prediction.h5"))
    np.testing.assert_allclose(found.probs, PROBS[number_of(path)], atol=1e-6)
    np.testing.assert_allclose(found.attention, ATTENTION[number_of(path)], atol=1e-6)
    np.testing.assert_array_equal(found.grid.coords, COORDS)
    assert (found.status, found.class_names) == ("ok", ("normal", "tumour"))


def test_features_have_their_numbers() -> None:
    path = DATA / "format-3" / "features.h5"
    with MilpathLayout().open(path, FeatureHints()) as found:
        assert found.verified
        np.testing.assert_allclose(found.features[:1][0], FIRST_FEATURES, atol=1e-3)
        assert found.features.shape == (5, 6)
        assert found.coords_l0 is not None
        np.testing.assert_array_equal(found.coords_l0, COORDS)
        assert (found.facts.encoder, found.facts.mpp, found.facts.patch_px) == ("drawn", 1.0, 16)


def test_a_model_gives_its_prediction_from_its_features() -> None:
    folder = DATA / "format-3"
    model = prepare_for_features(load_bundle(folder / "model"))
    path = folder / "features.h5"
    with MilpathLayout().open(path, FeatureHints()) as features:
        found = predict_features(model, path, features)
    np.testing.assert_allclose(found.probs, PROBS[3], atol=1e-6)
    np.testing.assert_allclose(found.attention, ATTENTION[3], atol=1e-6)
    assert found.distance == pytest.approx(1.8984580, abs=1e-5)
    stored = read_prediction(folder / "drawn.prediction.h5")
    np.testing.assert_allclose(found.probs, stored.probs, atol=1e-6)


@pytest.mark.parametrize(("number", "remedy"), [(1, "make this bag again"), (4, "update milpath")])
def test_a_format_that_is_not_read_says_what_to_do(
    tmp_path: Path, number: int, remedy: str
) -> None:
    path = Path(shutil.copy(DATA / "format-3" / "bag.h5", tmp_path / "bag.h5"))
    with edited(path) as h5:
        h5.attrs["milpath_format"] = number
    with pytest.raises(StoredFileError, match=f"has format {number}; .*; {remedy}"), Bag(path):
        pass
