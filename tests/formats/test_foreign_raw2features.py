"""Exports of raw2features resemble files of TRIDENT and STAMP, and are read as what they are."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from milpath.errors import StoredFileError, UsageError
from milpath.formats.foreign import detect_features
from milpath.formats.foreign.values import FeatureHints
from tests.support.foreign_h5 import write_raw2features, write_raw2features_stamp, write_trident
from tests.support.foreign_tensors import draw_features


def test_the_size_of_a_patch_is_not_taken_from_that_at_level_0(tmp_path: Path) -> None:
    write_raw2features(tmp_path, "a", draw_features())
    folder = detect_features(tmp_path)
    with folder.open("a", FeatureHints()) as made:
        assert (made.facts.patch_px, made.patch_size_l0) == (None, 512)
        assert made.facts.tool == "raw2features"
    with pytest.raises(StoredFileError, match="about 256, but 512 was given"):
        folder.open("a", FeatureHints(patch_px=512))
    for near in (255, 256, 257):
        with folder.open("a", FeatureHints(patch_px=near)) as made:
            assert made.facts.patch_px == near


def test_a_magnification_of_one_decimal_states_the_resolution_unless_it_is_small(
    tmp_path: Path,
) -> None:
    for magnification, mpp in ((20.0, 0.5), (37.9, 10 / 37.9), (2.5, None)):
        path = write_raw2features(tmp_path, "a", draw_features())
        with h5py.File(path, "r+") as h5:
            h5["coords"].attrs["target_magnification"] = magnification
        with detect_features(tmp_path).open("a", FeatureHints()) as made:
            assert made.facts.mpp == mpp


def test_files_of_trident_are_not_taken_for_exports(tmp_path: Path) -> None:
    path = write_trident(tmp_path, "a", draw_features())
    with h5py.File(path, "r+") as h5:
        h5["coords"].attrs["patch_size"] = 512
    assert detect_features(tmp_path).layout.name == "trident"


@pytest.mark.parametrize("write", [write_raw2features, write_raw2features_stamp])
def test_the_name_of_the_encoder_is_no_part_of_the_slides(tmp_path: Path, write: object) -> None:
    assert callable(write)
    for slide_id in ("S-1.a.net", "S-2.net"):
        write(tmp_path, slide_id, draw_features())
    folder = detect_features(tmp_path)
    assert list(folder.files) == ["S-1.a", "S-2"]
    with folder.open("S-1.a", FeatureHints()) as made:
        assert made.slide_id == "S-1.a"


def test_files_of_several_encoders_in_one_folder_are_refused(tmp_path: Path) -> None:
    for encoder in ("net", "uni"):
        drawn = draw_features()
        drawn.encoder = encoder
        write_raw2features(tmp_path, f"a.{encoder}", drawn)
    with pytest.raises(UsageError, match=r"files of several encoders \(net, uni\)"):
        detect_features(tmp_path)


def test_an_export_below_a_folder_is_not_taken_for_stamps(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "inside").mkdir(exist_ok=True)
        write_raw2features_stamp(tmp_path / "inside", f"{name}.net", draw_features())
    found = detect_features(tmp_path)
    assert (found.layout.name, list(found.files)) == ("raw2features", ["a", "b"])
