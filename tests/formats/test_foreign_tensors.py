"""Layouts of tensors and arrays give what was written, and refuse what cannot be right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milpath.errors import StoredFileError
from milpath.formats.foreign.clam_pt import ClamTensorLayout
from milpath.formats.foreign.numpy import NumpyLayout
from milpath.formats.foreign.slideflow import SlideflowLayout
from milpath.formats.foreign.torch import TorchLayout
from milpath.formats.foreign.torchmil import TorchmilLayout
from milpath.formats.foreign.values import FeatureHints, Layout, SlideFeatures
from tests.support import foreign_tensors as write
from tests.support.foreign_tensors import Drawn, draw_features, tensor, write_torch


@dataclass(frozen=True)
class Case:
    """A layout, and how its files are written."""

    layout: Layout
    write: Callable[[Path, str, Drawn], Path]


CASES = {
    "slideflow": Case(SlideflowLayout(), write.write_slideflow),
    "clam-pt": Case(ClamTensorLayout(), write.write_clam_pt),
    "torch": Case(TorchLayout(), write.write_plain_torch),
    "npz": Case(NumpyLayout(), write.write_npz),
    "npy": Case(NumpyLayout(), write.write_npy),
    "torchmil": Case(TorchmilLayout(), write.write_torchmil),
    "torchmil h5": Case(TorchmilLayout(), write.write_torchmil_h5),
}
HINTS = FeatureHints(encoder="net", mpp=0.5, patch_px=256, slide_mpp=0.25)


def read(case: Case, folder: Path, hints: FeatureHints = HINTS) -> SlideFeatures:
    (path,) = case.layout.find(folder).values()
    return case.layout.open(path, hints)


@pytest.mark.parametrize("name", CASES)
def test_all_slides_of_a_folder_are_found_and_an_empty_folder_has_none(
    tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    assert case.layout.find(tmp_path) == {}
    assert case.layout.find(tmp_path / "absent") == {}
    for at, slide_id in enumerate(["b", "a", "a.b_1"]):
        case.write(tmp_path, slide_id, draw_features(seed=at))
    found = case.layout.find(tmp_path)
    assert list(found) == ["a", "a.b_1", "b"]
    assert all(path.is_file() for path in found.values())


def _break_type(drawn: Drawn) -> None:
    drawn.features = drawn.features.astype(np.int32)


def _break_axes(drawn: Drawn) -> None:
    drawn.features = drawn.features.reshape(-1)


def _break_nan(drawn: Drawn) -> None:
    drawn.features[3, 1] = np.nan


def _break_size(drawn: Drawn) -> None:
    drawn.features = drawn.features.astype(np.float64) * 1e300


def _break_length(drawn: Drawn) -> None:
    drawn.coords = drawn.coords[1:]


def _break_coords(drawn: Drawn) -> None:
    drawn.coords = drawn.coords + 0.25  # type: ignore[assignment]


def _break_range(drawn: Drawn) -> None:
    drawn.coords[0, 0] = 1 << 40


FAULTS: dict[str, tuple[Callable[[Drawn], None], str]] = {
    "whole numbers": (_break_type, "features are int32 of shape"),
    "one axis": (_break_axes, "expected floating-point numbers of shape"),
    "not a number": (_break_nan, "not all finite"),
    "too large": (_break_size, "not all finite"),
    "lengths": (_break_length, "coordinates of 6 patches, but features of 7"),
    "between pixels": (_break_coords, "not whole pixels"),
    "too far": (_break_range, "not whole pixels"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["torch", "npz", "npy", "torchmil", "torchmil h5"])
def test_what_cannot_be_right_is_refused_in_one_line(tmp_path: Path, name: str, fault: str) -> None:
    (change, fact), case, drawn = FAULTS[fault], CASES[name], draw_features()
    change(drawn)
    case.write(tmp_path, "a", drawn)
    with pytest.raises(StoredFileError, match=fact) as caught:
        read(case, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["slideflow", "clam-pt"])
def test_other_numbers_of_coordinates_than_features_are_refused(tmp_path: Path, name: str) -> None:
    drawn = draw_features()
    drawn.coords = drawn.coords[:-1]
    CASES[name].write(tmp_path, "a", drawn)
    with pytest.raises(StoredFileError, match="coordinates of 6 patches, but features of 7"):
        read(CASES[name], tmp_path)


def test_corners_of_slideflow_need_the_size_of_a_tile(tmp_path: Path) -> None:
    write.write_slideflow(tmp_path, "a", draw_features())
    assert read(CASES["slideflow"], tmp_path, FeatureHints()).coords_l0 is None


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": NaN', "\udc80"])
def test_a_damaged_configuration_of_slideflow_is_refused(tmp_path: Path, text: str) -> None:
    write.write_slideflow(tmp_path, "a", draw_features())
    data = text.encode("utf-8", "surrogateescape")
    (tmp_path / "bags_config.json").write_bytes(data)
    with pytest.raises(StoredFileError, match=r"bags_config\.json: cannot be read as JSON"):
        read(CASES["slideflow"], tmp_path)


@pytest.mark.parametrize("edge", ["20x", None, True, -1, 0])
def test_a_magnification_of_slideflow_is_no_size(tmp_path: Path, edge: Any) -> None:
    write.write_slideflow(tmp_path, "a", draw_features())
    config = tmp_path / "bags_config.json"
    config.write_text(config.read_text().replace("128.0", str(edge).lower().join(['"', '"'])))
    assert read(CASES["slideflow"], tmp_path, FeatureHints()).facts.mpp is None


def test_clam_without_its_coordinates_has_none(tmp_path: Path) -> None:
    write.write_clam_pt(tmp_path, "a", draw_features())
    (tmp_path / "h5_files" / "a.h5").unlink()
    assert read(CASES["clam-pt"], tmp_path).coords_l0 is not None
    (tmp_path / "patches" / "a.h5").unlink()
    assert read(CASES["clam-pt"], tmp_path).coords_l0 is None
    assert list(ClamTensorLayout().find(tmp_path / "pt_files")) == ["a"]


def test_a_tensor_alone_and_one_with_a_leading_axis_are_features(tmp_path: Path) -> None:
    drawn = draw_features()
    for array in (drawn.features, drawn.features[None], drawn.features.astype(np.float64)):
        write_torch(tmp_path / "a.pt", tensor(array))
        made = read(CASES["torch"], tmp_path)
        np.testing.assert_array_equal(made.features, drawn.features)
        assert made.features.dtype == np.float32
        assert made.coords_l0 is None


def test_several_arrays_of_unknown_names_are_refused_by_their_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.ones((2, 2)), two=np.ones((2, 2)))
    with pytest.raises(StoredFileError, match="holds 'one', 'two'; expected one array of features"):
        read(CASES["npz"], tmp_path)


def test_a_slide_with_two_files_of_arrays_is_refused(tmp_path: Path) -> None:
    for written in (write.write_npz, write.write_npy):
        written(tmp_path, "a", draw_features())
    with pytest.raises(StoredFileError, match=r"has both an \.npy and an \.npz file"):
        NumpyLayout().find(tmp_path)
