"""Runs of slide2vec hold features, and the tiles of hs2p beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from milpath.errors import StoredFileError, UsageError
from milpath.formats.foreign import detect_features
from milpath.formats.foreign.values import FeatureHints, SlideFeatures
from tests.support.foreign_h5 import write_old_slide2vec, write_slide2vec
from tests.support.foreign_tensors import draw_features, write_npy


def read(folder: Path) -> SlideFeatures:
    return detect_features(folder).open("a", FeatureHints())


@pytest.mark.parametrize("inside", ["", "tile_embeddings"])
def test_a_run_or_its_folder_of_features_is_given(tmp_path: Path, inside: str) -> None:
    drawn = draw_features()
    write_slide2vec(tmp_path, "a", drawn)
    made = read(tmp_path / inside)
    np.testing.assert_array_equal(made.coords_l0, drawn.coords)
    assert made.size_l0 == (60_000, 60_000)


@pytest.mark.parametrize("inside", ["", "features"])
def test_a_run_of_version_2_or_its_folder_of_features_is_given(tmp_path: Path, inside: str) -> None:
    drawn = draw_features()
    write_old_slide2vec(tmp_path, "a", drawn)
    made = read(tmp_path / inside)
    np.testing.assert_array_equal(made.coords_l0, drawn.coords)
    assert (made.facts.patch_px, made.patch_size_l0) == (256, 512)


def test_the_tiles_of_a_class_of_an_annotation_lie_in_a_folder_of_its_name(tmp_path: Path) -> None:
    drawn = draw_features()
    write_slide2vec(tmp_path, "a", drawn)
    for name in ("tile_embeddings", "tiles"):
        files = list((tmp_path / name).iterdir())
        (tmp_path / name / "tumor").mkdir()
        for path in files:
            path.rename(path.parent / "tumor" / path.name)
    made = read(tmp_path)
    np.testing.assert_array_equal(made.coords_l0, drawn.coords)
    made = read(tmp_path / "tile_embeddings" / "tumor")
    np.testing.assert_array_equal(made.coords_l0, drawn.coords)


def test_without_the_tiles_there_are_no_coordinates(tmp_path: Path) -> None:
    write_slide2vec(tmp_path, "a", draw_features())
    for path in (tmp_path / "tiles").iterdir():
        path.unlink()
    made = read(tmp_path)
    assert (made.coords_l0, made.size_l0, made.patch_size_l0) == (None, None, 512)


def test_a_slide_without_its_json_file_is_read_with_less(tmp_path: Path) -> None:
    for slide_id in ("a", "b"):
        write_slide2vec(tmp_path, slide_id, draw_features())
    (tmp_path / "tile_embeddings" / "a.meta.json").unlink()
    facts = read(tmp_path).facts
    assert (facts.encoder, facts.patch_px, facts.mpp) == (None, None, None)


def test_embeddings_of_something_else_than_tiles_are_refused(tmp_path: Path) -> None:
    path = write_slide2vec(tmp_path, "a", draw_features()).with_name("a.meta.json")
    path.write_text(json.dumps({"artifact_type": "hierarchical_embeddings"}))
    with pytest.raises(StoredFileError, match="holds hierarchical_embeddings, expected tile_emb"):
        read(tmp_path)


def test_a_slide_in_two_formats_is_refused(tmp_path: Path) -> None:
    for suffix in (".pt", ".npz"):
        write_slide2vec(tmp_path, "a", draw_features(), suffix)
    with pytest.raises(UsageError, match=r"has both a \.pt and an \.npz file"):
        detect_features(tmp_path)


def test_tables_without_x_and_y_are_refused(tmp_path: Path) -> None:
    write_slide2vec(tmp_path, "a", draw_features())
    np.savez(tmp_path / "tiles" / "a.coordinates.npz", x=np.zeros(7))
    with pytest.raises(StoredFileError, match="holds no x and y of tiles"):
        read(tmp_path)


def test_the_tiles_of_hs2p_are_no_features(tmp_path: Path) -> None:
    write_slide2vec(tmp_path, "a", draw_features())
    with pytest.raises(UsageError, match="no known layout"):
        detect_features(tmp_path / "tiles")


def test_features_in_a_folder_of_that_name_without_tiles_are_of_no_tool(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    write_npy(tmp_path / "features", "a", draw_features())
    assert detect_features(tmp_path / "features").layout.name == "numpy"
