"""The layout of a folder of feature files is found, or refused with what the folder holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from milpath.errors import StoredFileError, UsageError
from milpath.formats.foreign import detect_features, h5
from milpath.formats.foreign.values import FeatureHints
from tests.support import foreign_tensors as write
from tests.support.foreign_h5 import write_trident
from tests.support.foreign_tensors import draw_features


def test_a_folder_of_slides_is_opened_by_their_ids(tmp_path: Path) -> None:
    for at, slide_id in enumerate(["b", "a"]):
        write.write_npz(tmp_path, slide_id, draw_features(seed=at))
    folder = detect_features(tmp_path)
    assert (folder.folder, folder.layout.name, list(folder.files)) == (
        tmp_path,
        "numpy",
        ["a", "b"],
    )
    with folder.open("b", FeatureHints()) as made:
        np.testing.assert_array_equal(made.features, draw_features(seed=0).features)
    with pytest.raises(StoredFileError, match=r"^c: .* no features of this slide.* 2 slides"):
        folder.open("c", FeatureHints())


def test_files_that_two_layouts_can_read_are_read_by_the_one_that_knows_more(
    tmp_path: Path,
) -> None:
    write.write_slideflow(tmp_path, "a", draw_features())
    assert detect_features(tmp_path).layout.name == "slideflow"


def test_two_kinds_of_files_are_refused_with_a_sample_of_both(tmp_path: Path) -> None:
    write.write_npz(tmp_path, "a", draw_features())
    write.write_plain_torch(tmp_path, "b", draw_features(seed=1))
    with pytest.raises(UsageError, match=r"layout torch \(such as b.pt\) and .*\(such as a.npz\)"):
        detect_features(tmp_path)


def _write_texts(folder: Path) -> None:
    for name in ("a.csv", "b.csv", "c.csv", "README", ".hidden.pt"):
        (folder / name).write_text("")


def _write_unknown_h5(folder: Path) -> None:
    with h5py.File(folder / "a.h5", "w") as made:
        made["q"] = 1


def _write_damaged_h5(folder: Path) -> None:
    (folder / "a.h5").write_bytes(bytes(100))


def _write_bag(folder: Path) -> None:
    with h5py.File(write_trident(folder, "a", draw_features()), "r+") as made:
        made.attrs["milpath_kind"] = "bag"


def _write_below(folder: Path, name: str = "run") -> None:
    (folder / "20x" / name).mkdir(parents=True)
    (folder / "empty").mkdir(exist_ok=True)
    write.write_npz(folder / "20x" / name, "a", draw_features())


def _write_two_below(folder: Path) -> None:
    _write_below(folder)
    _write_below(folder, "two")


def test_the_only_folder_with_features_below_a_folder_is_meant(tmp_path: Path) -> None:
    _write_below(tmp_path)
    found = detect_features(tmp_path)
    assert (found.folder, list(found.files)) == (tmp_path / "20x" / "run", ["a"])


@pytest.mark.parametrize(
    ("fill", "said"),
    [
        (lambda folder: None, "it holds nothing; layouts read are .*numpy"),
        (_write_texts, "it holds 3 .csv files and 1 other file"),
        (_write_unknown_h5, r"1 .h5 file \(a.h5 has q\)"),
        (_write_damaged_h5, r"1 .h5 file \(a.h5: .*expected an HDF5 file"),
        (_write_bag, "a.h5 is a bag of milpath"),
        (_write_two_below, "holds 2 folders with features, give one of them: 20x/run or 20x/two"),
    ],
)
def test_a_folder_of_no_layout_is_refused_with_what_it_holds(
    tmp_path: Path, fill: Callable[[Path], None], said: str
) -> None:
    fill(tmp_path)
    with pytest.raises(UsageError, match=said) as refused:
        detect_features(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_file_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("")
    with pytest.raises(UsageError, match="is a file; expected the folder"):
        detect_features(tmp_path / "a.h5")
    with pytest.raises(UsageError, match="there is no such folder"):
        detect_features(tmp_path / "b")


def test_a_folder_that_cannot_be_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"cannot be read \(Permission denied\)"):
        detect_features(tmp_path)


def test_a_folder_of_two_kinds_of_hdf5_files_is_refused(tmp_path: Path) -> None:
    for name, features in (("a", "feats"), ("b", "features")):
        with h5py.File(tmp_path / f"{name}.h5", "w") as made:
            made[features], made["coords"] = np.zeros((3, 2), np.float32), np.zeros((3, 2))
    with pytest.raises(UsageError, match=r"a.h5 has coords, feats; b.h5 has coords, features"):
        detect_features(tmp_path)
    (tmp_path / "b.h5").write_bytes(b"torn")
    assert detect_features(tmp_path).layout.name == "stamp"


def test_names_with_control_characters_are_printed_without_them(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a\n.h5", "w") as made:
        made["two\nlines\x1b"] = 1
    with pytest.raises(UsageError, match=r"a\\n.h5 has two\\nlines\\x1b\)"):
        detect_features(tmp_path)


def test_patches_without_features_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as made:
        made["coords"] = np.zeros((3, 2), np.int64)
    with pytest.raises(UsageError, match=r"a\.h5 says where patches lie, and holds no features"):
        detect_features(tmp_path)


def test_two_hdf5_files_of_a_large_folder_are_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    enter = h5.enter_h5
    monkeypatch.setattr(
        h5, "enter_h5", lambda files, path: opened.append(path) or enter(files, path)
    )
    for at in range(50):
        with h5py.File(tmp_path / f"{at}.h5", "w") as made:
            made["q"] = at
    with pytest.raises(UsageError, match=r"50 .h5 files"):
        detect_features(tmp_path)
    assert opened == [tmp_path / "0.h5", tmp_path / "9.h5"]
