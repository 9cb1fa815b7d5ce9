"""The layout of CLAM gives what was written, and refuses what cannot be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from milpath.errors import StoredFileError
from milpath.formats.foreign import detect_features
from milpath.formats.foreign.clam import ClamLayout
from milpath.formats.foreign.clam_pt import ClamTensorLayout
from milpath.formats.foreign.values import FeatureHints, SlideFeatures
from tests.support.foreign_h5_clam import write_clam_features, write_clam_patches
from tests.support.foreign_tensors import Drawn, draw_features, tensor, write_torch

LAYOUT = ClamLayout()


@pytest.fixture
def drawn() -> Drawn:
    return draw_features(40, 5)


def _open(path: Path, **hints: Any) -> SlideFeatures:
    return LAYOUT.open(path, FeatureHints(**hints))


def test_gives_features_and_coordinates_in_their_order(tmp_path: Path, drawn: Drawn) -> None:
    path = write_clam_features(tmp_path, "one", drawn)
    for folder in (tmp_path, tmp_path / "h5_files"):
        assert LAYOUT.find(folder) == {"one": path}
        assert detect_features(folder).layout.name == "clam"
    with _open(path) as slide:
        assert slide.slide_id == "one"
        np.testing.assert_array_equal(slide.features[0:40], drawn.features)
        np.testing.assert_array_equal(slide.features[np.array([31, 4])], drawn.features[[31, 4]])
        np.testing.assert_array_equal(slide.coords_l0, drawn.coords)
        facts = slide.facts
        assert (facts.encoder, facts.patch_px, facts.mpp, facts.tool) == (None, None, None, "CLAM")
        assert slide.patch_size_l0 is None


def test_patches_may_overlap_and_lie_on_no_lattice(tmp_path: Path, drawn: Drawn) -> None:
    drawn.coords[1] = drawn.coords[0]
    drawn.coords[2] = drawn.coords[0] + (1, 7)
    with _open(write_clam_features(tmp_path, "one", drawn)) as slide:
        np.testing.assert_array_equal(slide.coords_l0, drawn.coords)


@pytest.mark.parametrize("beside", [True, False])
def test_patches_beside_or_above_give_the_size(tmp_path: Path, drawn: Drawn, beside: bool) -> None:
    features = tmp_path if beside else tmp_path / "FEATURES"
    path = write_clam_features(features, "one", drawn)
    write_clam_patches(tmp_path, "one", drawn)
    for layout, file in ((LAYOUT, path), (ClamTensorLayout(), _write_tensor(features, drawn))):
        with layout.open(file, FeatureHints(slide_mpp=0.25)) as slide:
            assert (slide.facts.patch_px, slide.patch_size_l0) == (256, 512.0)
            assert slide.facts.mpp == 0.5


def _write_tensor(folder: Path, drawn: Drawn) -> Path:
    (folder / "pt_files").mkdir()
    return write_torch(folder / "pt_files" / "one.pt", tensor(drawn.features))


@pytest.mark.parametrize(
    ("attrs", "size"),
    [
        ({}, 512.0),
        ({"patch_level": 0, "downsample": np.array([1.0, 1.0])}, 256.0),
        ({"downsample": np.array([4.003, 4.001])}, 256 * 4.003),
        ({"downsample": 2.0, "custom_downsample": 2}, 1024.0),
        ({"patch_size": 128.0}, 256.0),
        ({"downsample": np.array([0.5, 0.5])}, None),
        ({"downsample": "None"}, None),
        ({"custom_downsample": "twice"}, None),
    ],
)
def test_the_size_at_level_0_follows_from_level_and_downsample(
    tmp_path: Path, drawn: Drawn, attrs: dict[str, Any], size: float | None
) -> None:
    path = write_clam_features(tmp_path, "one", drawn)
    write_clam_patches(tmp_path, "one", drawn, **attrs)
    with _open(path) as slide:
        assert slide.patch_size_l0 == size


def test_attributes_of_the_features_file_itself_come_first(tmp_path: Path, drawn: Drawn) -> None:
    path = write_clam_features(tmp_path, "one", drawn)
    write_clam_patches(tmp_path, "one", drawn)
    with h5py.File(path, "a") as h5:
        h5["coords"].attrs.update({"patch_size": 224, "patch_level": 0})
    with _open(path) as slide:
        assert (slide.facts.patch_px, slide.patch_size_l0) == (224, 224.0)


def test_hints_stand_in_for_patches(tmp_path: Path, drawn: Drawn) -> None:
    path = write_clam_features(tmp_path, "one", drawn)
    with _open(path, encoder="net", patch_px=224, mpp=0.5, slide_mpp=0.25) as slide:
        assert (slide.facts.encoder, slide.facts.patch_px, slide.facts.mpp) == ("net", 224, 0.5)
        assert slide.patch_size_l0 == 448.0


def test_the_encoder_may_have_seen_patches_of_another_size(tmp_path: Path, drawn: Drawn) -> None:
    path = write_clam_features(tmp_path, "one", drawn)
    write_clam_patches(tmp_path, "one", drawn)
    with _open(path, patch_px=224, slide_mpp=0.25) as slide:
        assert (slide.facts.patch_px, slide.patch_size_l0) == (224, 512.0)
        assert slide.facts.mpp == pytest.approx(512 * 0.25 / 224)


# -- faults ----------------------------------------------------------------------------------------


def test_patches_of_another_run_are_refused(tmp_path: Path, drawn: Drawn) -> None:
    path = write_clam_features(tmp_path, "one", drawn)
    write_clam_patches(tmp_path, "one", draw_features(39))
    with pytest.raises(StoredFileError, match="39 patches, but there are features of 40"):
        _open(path)


@pytest.mark.parametrize("size", [0, -256, 256.5, "large"])
def test_a_patch_size_that_is_none_is_refused(tmp_path: Path, drawn: Drawn, size: Any) -> None:
    path = write_clam_features(tmp_path, "one", drawn)
    write_clam_patches(tmp_path, "one", drawn, patch_size=size)
    with pytest.raises(StoredFileError, match=f"'patch_size' of 'coords' is {size}"):
        _open(path)


def test_coordinates_of_another_level_are_refused(tmp_path: Path, drawn: Drawn) -> None:
    path = write_clam_features(tmp_path, "one", drawn)
    with h5py.File(write_clam_patches(tmp_path, "one", drawn), "a") as h5:
        h5["imgs"] = np.zeros((40, 1, 1, 3), np.uint8)
        h5["imgs"].attrs["patch_level"] = 1
    with pytest.raises(StoredFileError, match="coordinates are of another level"):
        _open(path)


def test_fewer_coordinates_than_features_are_refused(tmp_path: Path, drawn: Drawn) -> None:
    path = write_clam_features(tmp_path, "one", drawn)
    with h5py.File(path, "a") as h5:
        h5["coords"].resize(39, axis=0)
    with pytest.raises(StoredFileError, match="coordinates of 39 patches, but features of 40"):
        _open(path)
