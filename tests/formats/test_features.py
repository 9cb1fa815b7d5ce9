"""Features have a file of their own, which other programs read too; their bag is not changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.nn_tools import features_spec, make_bag, make_features, random_patches
from support.untrusted.tamper import edited

from milpath.errors import StoredFileError
from milpath.formats.bag import Bag, Origin
from milpath.formats.features import find_features, write_features
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.values import FeatureHints, SlideFeatures
from milpath.formats.foreign.verified import VerifiedLayout

NET = features_spec(5, "net")


@pytest.fixture
def bag_file(tmp_path: Path) -> Path:
    """A bag of seven patches."""
    return make_bag(tmp_path / "bags", "s", random_patches(7))


def embed(bag_file: Path, path: Path, batches: list[Any], encoder: Any = NET) -> Path:
    with Bag(bag_file) as bag:
        write_features(path, bag, batches, encoder)
    return path


def open_file(path: Path) -> SlideFeatures:
    return MilpathLayout().open(path, FeatureHints())


def normal(scale: float = 1, offset: float = 0) -> Any:
    return np.random.default_rng(0).normal(offset, scale, (7, 5)).astype(np.float32)


# -- what is written is read -----------------------------------------------------------------------


def test_features_are_read_back_in_float16_with_all_that_is_known(
    bag_file: Path, tmp_path: Path
) -> None:
    before, features = bag_file.read_bytes(), normal()
    path = embed(bag_file, tmp_path / "net" / "s.h5", [features[:4], features[4:]])
    half = features.astype(np.float16)
    with open_file(path) as found, Bag(bag_file) as bag:
        assert (found.slide_id, len(found), found.verified) == ("s", 7, True)
        assert np.array_equal(found.features[:], half)
        assert np.array_equal(found.features[np.array([4, 1])], half[[4, 1]])
        assert np.array_equal(found.features[2:5], half[2:5])
        assert found.features[:].dtype == np.float16
        assert found.made is not None
        assert (found.made.slide, found.made.header) == (bag.slide, bag.header)
        assert found.made.encoder == NET
        assert np.array_equal(found.made.grid.coords, bag.grid.coords)
        facts = found.facts
        assert (facts.encoder, facts.dim, facts.patch_px, facts.mpp) == ("net", 5, 16, 1.0)
        assert found.coords_l0 is not None
        assert np.array_equal(found.coords_l0, bag.grid.coords)
    assert bag_file.read_bytes() == before


def test_several_encoders_lie_side_by_side(bag_file: Path, tmp_path: Path) -> None:
    one = embed(bag_file, tmp_path / "one" / "s.h5", [np.eye(7, 5)])
    before = one.read_bytes()
    embed(bag_file, tmp_path / "two" / "s.h5", [np.eye(7, 3)], features_spec(3, "two"))
    assert one.read_bytes() == before
    assert set(MilpathLayout().find(tmp_path / "two")) == {"s"}
    assert MilpathLayout().find(bag_file.parent) == {}


def test_the_same_features_give_the_same_bytes(bag_file: Path, tmp_path: Path) -> None:
    one, two = (embed(bag_file, tmp_path / name / "s.h5", [normal()]) for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_plain_h5py_reads_them_in_the_layout_of_trident(bag_file: Path, tmp_path: Path) -> None:
    path = embed(bag_file, tmp_path / "s.h5", [normal()])
    with h5py.File(path) as h5:
        assert set(h5) == {"features", "coords"}
        assert h5["features"].chunks is None
        assert h5["features"].attrs["encoder"] == "net"
        assert h5["coords"].attrs["patch_size_level0"] == 16
        assert h5["coords"].attrs["name"] == "s"
        assert h5["coords"].dtype == np.int64


def test_a_slide_without_tissue_has_no_rows_but_an_encoder(tmp_path: Path) -> None:
    bag_file = make_bag(tmp_path / "bags", "s", random_patches(0))
    with open_file(embed(bag_file, tmp_path / "s.h5", [])) as found:
        assert found.features[:].shape == (0, 5)
        assert found.facts.encoder == "net"


def test_features_that_another_program_opened_are_read_unverified_or_refused_on_request(
    bag_file: Path, tmp_path: Path
) -> None:
    path = embed(bag_file, tmp_path / "s.h5", [normal()])
    with h5py.File(path, "r+"):
        pass
    with open_file(path) as found:
        assert not found.verified
        assert np.array_equal(found.features[:], normal().astype(np.float16))
    with pytest.raises(StoredFileError, match="has no checksums of milpath, and --verified-only"):
        VerifiedLayout(MilpathLayout()).open(path, FeatureHints())


@pytest.mark.parametrize(("scale", "offset"), [(1e-5, 0.0), (1.0, 5000.0), (1e6, 0.0)])
def test_features_that_float16_would_spoil_are_kept_in_float32(
    bag_file: Path, tmp_path: Path, scale: float, offset: float
) -> None:
    features = normal(scale, offset)
    with open_file(embed(bag_file, tmp_path / "s.h5", [features])) as found:
        assert found.features[:].dtype == np.float32
        assert np.array_equal(found.features[:], features)


# -- what is there already -------------------------------------------------------------------------


def test_features_are_kept_while_bag_and_encoder_are_the_same(
    bag_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s.h5"
    with Bag(bag_file) as bag:
        origin = Origin.of_stored(bag.slide, bag.header)
        assert find_features(path, origin, NET).state == "absent"
        embed(bag_file, path, [normal()])
        found = find_features(path, origin, NET)
        assert (found.state, found.value and found.value.header) == ("current", bag.header)
        other = find_features(path, origin, features_spec(5, "net", "new"))
        assert other.reason == "the encoder differs"
        coarse = NET.model_copy(update={"mpp": 2.0})
        assert find_features(path, origin, coarse).reason == (
            "the encoder differs (µm per pixel 1.0 and 2.0)"
        )
        grid = bag.header.params.grid.model_copy(update={"min_tissue": 0.5})
        params = bag.header.params.model_copy(update={"grid": grid})
        other = find_features(path, Origin.of_slide(bag.slide, params), NET)
        assert other.reason.endswith("grid.min_tissue changed from 0.25 to 0.5")
        path.write_bytes(b"damaged")
        assert find_features(path, origin, NET).reason.startswith("the features were damaged")


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 3.0, 5e-11])
def test_features_without_spread_raise_and_nothing_is_written(
    bag_file: Path, tmp_path: Path, value: float
) -> None:
    features = np.full((7, 5), value, np.float32)
    features[0] *= 1.001 if value < 1 else 1
    with pytest.raises(StoredFileError, match="net gives the same features for all 7 patches"):
        embed(bag_file, tmp_path / "s.h5", [features])
    assert [each.name for each in tmp_path.iterdir()] == ["bags"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_raise_and_nothing_is_written(
    bag_file: Path, tmp_path: Path, bad: float
) -> None:
    features = normal()
    features[3, 2] = bad
    with pytest.raises(StoredFileError, match="net gives features that are not finite"):
        embed(bag_file, tmp_path / "s.h5", [features])
    assert [each.name for each in tmp_path.iterdir()] == ["bags"]


def test_features_of_another_number_of_patches_raise(bag_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="6 rows of features for 7 patches"):
        embed(bag_file, tmp_path / "s.h5", [np.eye(6, 5)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_stored_features_that_are_not_finite_raise_when_they_are_read(
    bag_file: Path, tmp_path: Path, value: float
) -> None:
    path = embed(bag_file, tmp_path / "s.h5", [np.eye(7, 5)])
    with edited(path) as h5:
        h5["features"][4, 2] = value
    with open_file(path) as found:
        assert found.features[np.array([0, 3])].shape == (2, 5)
        for rows in (slice(None), np.array([4])):
            with pytest.raises(StoredFileError, match="its features are not all finite"):
                found.features[rows]


@pytest.mark.parametrize(
    ("compute", "remedy"),
    [("float32", "check its weights"), ("float16", "give --precision bfloat16 or float32")],
)
def test_features_that_are_not_finite_raise(compute: Any, remedy: str, tmp_path: Path) -> None:
    spec = features_spec(2).model_copy(update={"compute": compute})
    values = np.array([[1.0, 2.0], [np.inf, 0.0]], np.float32)
    with pytest.raises(StoredFileError, match=f"features that are not finite; {remedy}"):
        make_features(tmp_path, "s", values, encoder=spec)
