"""Every stored file is verified, and gets its checksums back after another program opened it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.untrusted.hdf5 import KINDS, hdf5_cases, valid_bytes
from support.untrusted.watch import Case

from milpath.errors import StoredFileError
from milpath.formats import verify
from milpath.formats.bag import Bag
from milpath.formats.prediction import read_prediction
from milpath.formats.verify import FileCheck, check_files, restore_checksums


def write(folder: Path, kind: str, *, touched: bool = False) -> Path:
    path = folder / f"{kind}.h5"
    path.write_bytes(valid_bytes(kind))
    if touched:
        with h5py.File(path, "r+"):
            pass
    return path


def states(folder: Path, *, restore: bool = False) -> dict[str, str]:
    return {found.file: found.state for found in check_files(folder, restore=restore)}


# -- laws ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_opened_for_writing_is_read_again_once_its_checksums_are_restored(
    tmp_path: Path, kind: str
) -> None:
    _, read, _ = KINDS[kind]
    path = write(tmp_path, kind, touched=True)
    with pytest.raises(StoredFileError, match="modified outside milpath"):
        read(path)
    assert states(tmp_path) == {path.name: "without checksums"}
    assert states(tmp_path, restore=True) == {path.name: "restored"}
    assert states(tmp_path) == {path.name: "ok"}
    read(path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_restoring_checksums_keeps_every_number_and_attribute(tmp_path: Path) -> None:
    path = write(tmp_path, "bag")
    with Bag(path) as bag:
        before = bag.header, bag.slide, next(bag.iter_patches(9))
    write(tmp_path, "bag", touched=True)
    restore_checksums(path, "bag")
    with Bag(path) as bag:
        assert (bag.header, bag.slide) == before[:2]
        np.testing.assert_array_equal(next(bag.iter_patches(9)), before[2])
    prediction = write(tmp_path, "prediction")
    probs = read_prediction(prediction).probs
    write(tmp_path, "prediction", touched=True)
    restore_checksums(prediction, "prediction")
    np.testing.assert_array_equal(read_prediction(prediction).probs, probs)


@pytest.mark.slow
def test_of_hostile_files_those_that_can_be_read_are_restored_and_the_others_are_wrong(
    tmp_path: Path,
) -> None:
    differ, states = [], Counter[str]()
    for number, case in enumerate(hdf5_cases()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = case.write(folder)
        (found,) = check_files(path, restore=True)
        states[found.state] += 1
        assert found.message.isprintable()
        if is_readable(case, path) != (found.state in ("ok", "restored")):
            differ.append(case.name)
    assert differ == ["bag edited patches noise"]  # it has checksums, so no pixel is decoded
    assert min(states[state] for state in ("ok", "restored", "wrong")) > 2


def is_readable(case: Case, path: Path) -> bool:
    try:
        case.read(path)
    except StoredFileError:
        return False
    return True


def test_every_kind_that_milpath_writes_is_verified() -> None:
    root = Path(verify.__file__).parents[1]
    source = "".join(path.read_text("utf-8") for path in root.rglob("*.py"))
    kinds = set(re.findall(r'publish_h5\(\s*[\w./ ]+,\s*"(\w+)"', source))
    assert kinds == set(verify._READ) == set(KINDS)


# -- real folders ----------------------------------------------------------------------------------


def test_all_folders_below_are_verified_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    write(tmp_path, "prediction")
    write(tmp_path / "b", "bag")
    write(tmp_path / "b" / "c", "weights")
    with h5py.File(tmp_path / "b" / "x.h5", "w") as h5:
        h5["x"] = [1]
    (tmp_path / "notes.txt").write_text("x")
    assert list(check_files(tmp_path)) == [
        FileCheck("prediction.h5", "prediction", "ok"),
        FileCheck("b/bag.h5", "bag", "ok"),
        FileCheck("b/x.h5", "", "of another program"),
        FileCheck("b/c/weights.h5", "weights", "ok"),
    ]


def test_a_model_without_a_file_of_its_weights_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    (found,) = check_files(tmp_path)
    assert (found.kind, found.state) == ("model", "wrong")
    assert found.message


# -- faults ----------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    def write_edited(path: Path) -> None:
        with h5py.File(path, "r+") as h5:
            change(h5)

    return write_edited


def spoil_patches(h5: h5py.File) -> None:
    h5["patches"][:] = 7


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped": (flip, "damaged"),
    "pixels": (edit(spoil_patches), "patch 0 is damaged"),
    "more": (edit(lambda h5: h5.create_group("g").create_dataset("x", data=[1])), "holds more"),
    "list": (edit(lambda h5: h5.attrs.__setitem__("x", [1, 2])), "holds more than a bag does"),
    "older": (edit(lambda h5: h5.attrs.__setitem__("milpath_format", 1)), "is not of format 2"),
    "kind": (
        edit(lambda h5: h5.attrs.__setitem__("milpath_kind", "prediction")),
        "member_bias|class_names",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_with_invalid_contents_is_kept_as_it_is_and_named(
    tmp_path: Path, fault: str
) -> None:
    path = write(tmp_path, "bag")
    change, words = FAULTS[fault]
    change(path)
    before = path.read_bytes()
    (found,) = check_files(tmp_path, restore=True)
    assert found.state == "wrong"
    assert "bag.h5" not in found.message
    assert re.search(words, found.message)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["bag.h5"]


def test_features_that_are_not_finite_are_kept_as_they_are_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, "features")
    with h5py.File(path, "r+") as h5:
        h5["features"][0] = np.nan
    before = path.read_bytes()
    (found,) = check_files(tmp_path, restore=True)
    assert found == FileCheck(
        "features.h5", "features", "wrong", "its features are not all finite; make it again"
    )
    assert path.read_bytes() == before
