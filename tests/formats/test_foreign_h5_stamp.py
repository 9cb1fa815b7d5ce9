"""The layout of STAMP gives what was written by all its versions, and refuses what is not right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from milpath.errors import StoredFileError, UsageError
from milpath.formats.foreign import detect_features
from milpath.formats.foreign.stamp import StampLayout
from milpath.formats.foreign.values import FeatureHints, SlideFeatures
from tests.support.foreign_h5_stamp import (
    SLIDE_MPP,
    write_feats,
    write_stamp,
    write_stamp_1,
    write_stamp_2_0,
)
from tests.support.foreign_tensors import Drawn, draw_features

LAYOUT = StampLayout()


@pytest.fixture
def drawn() -> Drawn:
    return draw_features(30, 5, "float16")


def _open(path: Path, **hints: Any) -> SlideFeatures:
    return LAYOUT.open(path, FeatureHints(**hints))


@pytest.mark.parametrize("write", [write_stamp, write_stamp_2_0])
def test_gives_features_in_the_order_of_the_file_and_pixels_of_the_slide(
    tmp_path: Path, drawn: Drawn, write: Any
) -> None:
    path = write(tmp_path, "one", drawn)
    assert detect_features(tmp_path).files == {"one": path}
    with _open(path, slide_mpp=SLIDE_MPP, patch_px=256) as slide:
        assert slide.slide_id == "one"
        assert slide.features.dtype == np.float16
        np.testing.assert_array_equal(slide.features[0:30], drawn.features)
        np.testing.assert_array_equal(slide.features[np.array([9, 2])], drawn.features[[9, 2]])
        np.testing.assert_array_equal(slide.coords_l0, drawn.coords)
        assert slide.patch_size_l0 == 512.0
        facts = slide.facts
        assert (facts.encoder, facts.patch_px, facts.mpp, facts.tool) == ("net", 256, 0.5, "STAMP")


def test_micrometres_are_rounded_to_the_nearest_pixel(tmp_path: Path, drawn: Drawn) -> None:
    coords = np.array([[0.0, 0.74], [0.76, 100.2]], np.float32)
    path = write_stamp(tmp_path, "one", draw_features(2))
    with h5py.File(path, "a") as h5:
        h5["coords"][...] = coords
    with _open(path, slide_mpp=0.5) as slide:
        np.testing.assert_array_equal(slide.coords_l0, [[0, 1], [2, 200]])


def test_without_the_slide_coordinates_are_not_known(tmp_path: Path, drawn: Drawn) -> None:
    with _open(write_stamp(tmp_path, "one", drawn)) as slide:
        assert (slide.coords_l0, slide.patch_size_l0) == (None, None)
        assert (slide.facts.patch_px, slide.facts.mpp) == (256, 0.5)


def test_version_2_0_does_not_say_the_pixels_of_a_tile(tmp_path: Path, drawn: Drawn) -> None:
    path = write_stamp_2_0(tmp_path, "one", drawn)
    with _open(path, slide_mpp=SLIDE_MPP) as slide:
        assert (slide.facts.patch_px, slide.facts.mpp, slide.patch_size_l0) == (None, None, 512.0)
    with pytest.raises(StoredFileError, match="µm per pixel"):
        _open(path, patch_px=256, mpp=1.0)


def test_features_without_coordinates_are_features(tmp_path: Path, drawn: Drawn) -> None:
    path = write_stamp(tmp_path, "one", drawn)
    with h5py.File(path, "a") as h5:
        del h5["coords"]
        h5.move("feats", "patch_embeddings")
    assert LAYOUT.find(tmp_path) == {"one": path}
    with _open(path, slide_mpp=SLIDE_MPP) as slide:
        assert (len(slide), slide.coords_l0) == (30, None)


@pytest.mark.parametrize(
    ("extractor", "name"),
    [
        ("h-optimus-0", "h-optimus-0"),
        ("virchow2-1a2b3c4d", "virchow2"),
        ("STAMP-extract-001_01-10-2023_some-net-7c998680", "some-net"),
        ("STAMP-extract-1.0.3_net_b", "net_b"),
        ("", None),
    ],
)
def test_an_encoder_has_its_name_without_version_and_digest(
    tmp_path: Path, drawn: Drawn, extractor: str, name: str | None
) -> None:
    with _open(write_stamp(tmp_path, "one", drawn, extractor=extractor)) as slide:
        assert slide.facts.encoder == name


# -- version 1 -------------------------------------------------------------------------------------


def _place(columns: int = 5, rows: int = 4) -> NDArray[np.int64]:
    """Return column and row of tiles, row by row, with gaps."""
    every = [(column, row) for row in range(rows) for column in range(columns)]
    return np.array([each for at, each in enumerate(every) if at % 3], np.int64)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("info", [{}, {"microns": 512, "patch_size": 224}, {"patch_size": 112}])
def test_version_1_counted_in_pixels_of_tiles(
    tmp_path: Path, info: dict[str, Any], transposed: bool
) -> None:
    places = _place()
    features = draw_features(len(places), 5, "float16").features
    stored = places[:, ::-1] if transposed else places  # as for slides from its cache
    path = write_stamp_1(tmp_path, "one", features, stored, **info)
    edge_um, edge_px = info.get("microns", 256), info.get("patch_size", 224)
    with _open(path, slide_mpp=0.5) as slide:
        np.testing.assert_array_equal(slide.features[0 : len(places)], features)
        np.testing.assert_array_equal(slide.coords_l0, places * edge_um * 2)
        assert slide.patch_size_l0 == edge_um * 2
        assert slide.facts.encoder == "some-net"
        assert (slide.facts.patch_px, slide.facts.mpp) == (edge_px, edge_um / edge_px)


def test_what_the_user_says_stands_in_for_what_version_1_did_by_default(tmp_path: Path) -> None:
    places = _place()
    path = write_stamp_1(tmp_path, "one", draw_features(len(places)).features, places)
    with _open(path, slide_mpp=0.5, mpp=0.5) as slide:
        np.testing.assert_array_equal(slide.coords_l0, places * 224)


def test_only_version_1_is_known_to_transpose(tmp_path: Path) -> None:
    places = _place()[:, ::-1]
    features = draw_features(len(places)).features
    path = write_feats(tmp_path, "one", features, places * 224, {"extractor": "net"})
    with _open(path, slide_mpp=0.5) as slide:
        np.testing.assert_array_equal(slide.coords_l0, places * 512)


def test_coordinates_without_a_unit_that_are_no_tiles_are_refused(
    tmp_path: Path, drawn: Drawn
) -> None:
    path = write_feats(tmp_path, "one", drawn.features, drawn.coords, {})
    with pytest.raises(StoredFileError, match="have no unit, and are not multiples of 224 px"):
        _open(path, slide_mpp=0.5)


def test_an_info_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    places = _place()
    path = write_stamp_1(tmp_path, "one", draw_features(len(places)).features, places, a=1)
    (tmp_path / "info.json").write_text("{")
    with pytest.raises(StoredFileError, match=r"info\.json: cannot be read as JSON"):
        _open(path)


# -- folders ---------------------------------------------------------------------------------------


def test_files_may_lie_in_folders_as_the_slides_did(tmp_path: Path, drawn: Drawn) -> None:
    run = tmp_path / "net-49b04e14"
    paths = {each: write_stamp(run / "site" / each, each, drawn) for each in ("b", "a")}
    for folder in (tmp_path, run):
        assert detect_features(folder).files == paths
        assert [*detect_features(folder).files] == ["a", "b"]


def test_features_of_two_encoders_are_refused_with_their_folders(
    tmp_path: Path, drawn: Drawn
) -> None:
    for name in ("net", "other"):
        write_stamp(tmp_path / name, "one", drawn)
    with pytest.raises(UsageError, match=r"of one twice, in net/one\.h5 and in other/one\.h5"):
        detect_features(tmp_path)


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attrs", "kind"),
    [
        ({"feat_type": "slide"}, "slide"),
        ({"feat_type": "patient"}, "patient"),
        ({"feat_type": None, "encoder": "titan"}, "slide or patient"),
    ],
)
def test_one_vector_of_a_slide_or_patient_is_refused(
    tmp_path: Path, drawn: Drawn, attrs: dict[str, Any], kind: str
) -> None:
    path = write_feats(tmp_path, "one", np.zeros((1, 5), np.float32), None, attrs)
    assert detect_features(tmp_path).layout.name == "stamp"
    with pytest.raises(StoredFileError, match=f"holds one vector of a {kind}, expected one of"):
        _open(path)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"unit": "px"}, "'unit' is px, expected um"),
        ({"coords": np.zeros((29, 2), np.float32)}, r"shape \(29, 2\), expected numbers of"),
        ({"coords": np.zeros((30, 3), np.float32)}, r"shape \(30, 3\), expected numbers of"),
        ({"coords": np.full((30, 2), np.nan, np.float32)}, "not all finite"),
        ({"coords": np.full((30, 2), 2e6, np.float32)}, "cannot be µm"),
        ({"feats": np.zeros((30, 5), np.int64)}, "int64"),
        ({"feats": np.zeros(30, np.float32)}, "one vector a slide, expected one a patch"),
    ],
)
def test_what_cannot_be_right_is_refused(
    tmp_path: Path, drawn: Drawn, change: dict[str, Any], fact: str
) -> None:
    path = write_stamp(tmp_path, "one", drawn)
    with h5py.File(path, "a") as h5:
        for name, value in change.items():
            if name == "unit":
                h5.attrs[name] = value
                continue
            del h5[name]
            h5[name] = value
    with pytest.raises(StoredFileError, match=fact):
        _open(path, slide_mpp=SLIDE_MPP)


@pytest.mark.parametrize(
    ("hints", "fact"),
    [
        ({"encoder": "other"}, "encoder is net, but other was given"),
        ({"patch_px": 224}, "patch size is 256, but 224 was given"),
        ({"mpp": 0.25}, "µm per pixel is 0.5, but 0.25 was given"),
    ],
)
def test_hints_that_contradict_the_file_are_refused(
    tmp_path: Path, drawn: Drawn, hints: dict[str, Any], fact: str
) -> None:
    with pytest.raises(StoredFileError, match=fact):
        _open(write_stamp(tmp_path, "one", drawn), **hints)
