"""The layout of TRIDENT gives what was written, and refuses what cannot be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from milpath.errors import StoredFileError, UsageError
from milpath.formats.foreign import detect_features
from milpath.formats.foreign.trident import TridentLayout
from milpath.formats.foreign.values import FeatureHints, SlideFeatures
from tests.support.foreign_h5_trident import describe_coords, draw_empty, write_trident
from tests.support.foreign_tensors import Drawn, draw_features

LAYOUT = TridentLayout()
JOB = "20x_256px_0px_overlap"


@pytest.fixture
def drawn() -> Drawn:
    return draw_features(30, 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / JOB / "features_net"


def _open(path: Path, **hints: Any) -> SlideFeatures:
    return LAYOUT.open(path, FeatureHints(**hints))


@pytest.mark.parametrize("kind", [int, float, np.float32, lambda value: np.bytes_(str(value)), str])
def test_gives_features_coordinates_and_sizes_whatever_the_type_of_the_attributes(
    folder: Path, drawn: Drawn, kind: Any
) -> None:
    path = write_trident(folder, "one", drawn, attrs=describe_coords(drawn, kind))
    assert LAYOUT.find(folder) == {"one": path}
    with _open(path) as slide:
        assert slide.slide_id == "one"
        np.testing.assert_array_equal(slide.features[0:30], drawn.features)
        np.testing.assert_array_equal(slide.features[np.array([7, 3])], drawn.features[[7, 3]])
        np.testing.assert_array_equal(slide.coords_l0, drawn.coords)
        assert (slide.patch_size_l0, slide.facts.patch_px) == (512.0, 256)
        assert slide.size_l0 == (60_000, 55_000)
        assert (slide.facts.encoder, slide.facts.dim, slide.facts.tool) == ("net", 5, "TRIDENT")


def test_magnification_gives_no_mpp_but_the_slide_does(folder: Path, drawn: Drawn) -> None:
    path = write_trident(folder, "one", drawn)
    with _open(path) as slide:
        assert slide.facts.mpp is None
    with _open(path, slide_mpp=0.23) as slide:
        assert slide.facts.mpp == pytest.approx(0.46)
    with _open(path, slide_mpp=0.23, mpp=0.5) as slide:
        assert slide.facts.mpp == 0.5  # what the user says is compared with the slide elsewhere


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_leading_axis_of_one_is_dropped(folder: Path, drawn: Drawn, dtype: str) -> None:
    stored = drawn.features[None].astype(dtype)
    path = write_trident(folder, "one", drawn, features=stored)
    with _open(path) as slide:
        assert len(slide) == 30
        assert slide.features.dtype == np.float16 if dtype == "float16" else np.float32
        np.testing.assert_allclose(slide.features[4:9], stored[0, 4:9], rtol=1e-6)
        np.testing.assert_allclose(slide.features[np.array([9, 2])], stored[0, [9, 2]], rtol=1e-6)


@pytest.mark.parametrize("shape", [(0,), (0, 5)])
def test_a_slide_without_tissue_has_no_patches(
    folder: Path, drawn: Drawn, shape: tuple[int, ...]
) -> None:
    empty = draw_empty(drawn)
    path = write_trident(folder, "one", empty, features=np.zeros(shape, np.float32))
    with _open(path) as slide:
        assert len(slide) == 0
        assert slide.coords_l0 is not None
        assert slide.coords_l0.shape == (0, 2)


def test_the_first_file_may_be_of_a_slide_without_tissue_or_attributes(
    folder: Path, drawn: Drawn
) -> None:
    write_trident(folder, "a", draw_empty(drawn), attrs={})
    write_trident(folder, "b", drawn)
    assert [*LAYOUT.find(folder)] == ["a", "b"]


def test_the_folder_names_the_encoder_if_the_file_does_not(folder: Path, drawn: Drawn) -> None:
    for encoder in (None, "None"):
        with _open(write_trident(folder, "one", drawn, encoder=encoder)) as slide:
            assert slide.facts.encoder == "net"


def test_coordinates_that_came_from_clam_state_the_size_as_clam_does(
    folder: Path, drawn: Drawn
) -> None:
    attrs = {"patch_size": 256, "patch_level": 1, "downsample": np.array([2.001, 2.0])}
    path = write_trident(folder, "one", drawn, attrs=attrs | {"custom_downsample": 2})
    assert detect_features(folder).layout.name == "trident"
    with _open(path) as slide:
        assert (slide.facts.patch_px, slide.patch_size_l0) == (256, pytest.approx(1024.512))


# -- folders ---------------------------------------------------------------------------------------


def test_a_job_with_one_folder_of_features_is_as_that_folder(folder: Path, drawn: Drawn) -> None:
    path = write_trident(folder, "one", drawn)
    (folder.parent / "patches").mkdir()
    for given in (folder, folder.parent, folder.parent.parent):
        assert detect_features(given).files == {"one": path}


def test_a_job_with_several_encoders_is_refused_with_their_folders(
    folder: Path, drawn: Drawn
) -> None:
    write_trident(folder, "one", drawn)
    write_trident(folder.with_name("features_other"), "one", drawn)
    with pytest.raises(UsageError, match="give one of them: features_net or features_other"):
        detect_features(folder.parent)
    with pytest.raises(UsageError, match=f"{JOB}/features_net or {JOB}/features_other"):
        detect_features(folder.parent.parent)


def test_files_of_milpath_are_of_no_other_layout(folder: Path, drawn: Drawn) -> None:
    path = write_trident(folder, "one", drawn)
    with h5py.File(path, "a") as h5:
        h5.attrs["milpath_kind"] = "features"
    assert LAYOUT.find(folder) == {}


# -- faults ----------------------------------------------------------------------------------------


def test_embeddings_of_slides_are_refused_with_the_reason(tmp_path: Path, drawn: Drawn) -> None:
    folder = tmp_path / "slide_features_net"
    path = write_trident(folder, "one", drawn, features=np.zeros(5, np.float32), encoder=None)
    assert LAYOUT.find(folder) == {"one": path}
    with pytest.raises(StoredFileError, match="one vector a slide, expected one a patch"):
        _open(path)


@pytest.mark.parametrize(
    ("hints", "fact"),
    [
        ({"encoder": "other"}, "encoder is net, but other was given"),
        ({"patch_px": 224}, "patch size is 256, but 224 was given"),
        ({"mpp": 0.25}, "µm per pixel is 0.5, but 0.25 was given"),
    ],
)
def test_hints_that_contradict_the_file_are_refused(
    folder: Path, drawn: Drawn, hints: dict[str, Any], fact: str
) -> None:
    path = write_trident(folder, "one", drawn, attrs=describe_coords(drawn, mpp=0.5))
    with pytest.raises(StoredFileError, match=fact):
        _open(path, **hints)


@pytest.mark.parametrize("size", [0, -512, float("nan"), "None", "large"])
def test_a_size_that_is_none_is_not_taken_for_one(folder: Path, drawn: Drawn, size: Any) -> None:
    attrs = describe_coords(drawn, patch_size_level0=size, level0_width="None")
    with _open(write_trident(folder, "one", drawn, attrs=attrs), slide_mpp=0.25) as slide:
        assert (slide.patch_size_l0, slide.facts.mpp, slide.size_l0) == (None, None, None)


@pytest.mark.parametrize(
    ("features", "fact"),
    [
        (np.zeros((29, 5), np.float32), "coordinates of 30 patches, but features of 29"),
        (np.zeros((30, 5), np.int32), "int32"),
        (np.zeros((2, 30, 5), np.float32), "shape"),
    ],
)
def test_features_that_cannot_be_right_are_refused(
    folder: Path, drawn: Drawn, features: Any, fact: str
) -> None:
    with pytest.raises(StoredFileError, match=fact):
        _open(write_trident(folder, "one", drawn, features=features))


def test_features_that_are_not_finite_are_refused_when_read(folder: Path, drawn: Drawn) -> None:
    drawn.features[11, 2] = np.nan
    with _open(write_trident(folder, "one", drawn)) as slide:
        slide.features[0:11]
        with pytest.raises(StoredFileError, match="not all finite"):
            slide.features[11:12]
