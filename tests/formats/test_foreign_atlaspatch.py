"""Files of AtlasPatch hold features of several encoders, of which one is read."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from milpath.errors import StoredFileError
from milpath.formats.foreign import detect_features
from milpath.formats.foreign.values import FeatureHints, SlideFeatures
from tests.support.foreign_h5 import write_atlaspatch
from tests.support.foreign_tensors import draw_features


def read(folder: Path, encoder: str | None = None) -> SlideFeatures:
    return detect_features(folder).open("a", FeatureHints(encoder=encoder))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Features of "net" and of "uni_v2", and those that a killed run has left."""
    with h5py.File(write_atlaspatch(tmp_path, "a", draw_features()), "r+") as h5:
        h5["features/uni_v2"] = draw_features(dim=3, seed=1).features
        h5["features/__tmp_third"] = np.ones((2, 4), np.float32)
    return tmp_path


def test_the_encoder_that_the_user_names_is_read_in_any_case_of_letters(two: Path) -> None:
    with read(two, "UNI_v2") as made:
        expected = draw_features(dim=3, seed=1).features
        np.testing.assert_array_equal(made.features[:], expected)
        assert made.facts.encoder == "uni_v2"


def test_several_encoders_are_refused_by_their_names(two: Path) -> None:
    with pytest.raises(StoredFileError, match=r"several encoders; .*--encoder-name\): net, uni_v2"):
        read(two)
    with pytest.raises(StoredFileError, match=r"other encoders than third; .*: net, uni_v2$"):
        read(two, "third")


def test_patches_without_features_are_refused(tmp_path: Path) -> None:
    with h5py.File(write_atlaspatch(tmp_path, "a", draw_features()), "r+") as h5:
        del h5["features"]
    with pytest.raises(StoredFileError, match="has patches but no features"):
        read(tmp_path)


def test_features_of_a_run_that_was_killed_are_no_encoder(tmp_path: Path) -> None:
    with h5py.File(write_atlaspatch(tmp_path, "a", draw_features()), "r+") as h5:
        h5.move("features/net", "features/__tmp_net")
    with pytest.raises(StoredFileError, match="has patches but no features"):
        read(tmp_path)


def test_without_the_slides_resolution_that_of_the_patches_is_not_known(tmp_path: Path) -> None:
    with h5py.File(write_atlaspatch(tmp_path, "a", draw_features()), "r+") as h5:
        del h5.attrs["mpp"]
    folder = detect_features(tmp_path)
    with folder.open("a", FeatureHints()) as made:
        assert made.facts.mpp is None
    with folder.open("a", FeatureHints(slide_mpp=0.26)) as made:
        assert made.facts.mpp == pytest.approx(0.52)


def test_the_folder_of_a_run_holds_the_files_in_patches(tmp_path: Path) -> None:
    (tmp_path / "patches").mkdir()
    write_atlaspatch(tmp_path / "patches", "a", draw_features())
    assert len(read(tmp_path)) == 7
