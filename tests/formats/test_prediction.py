"""Contributions and bias of a prediction sum to its logits, and a file preserves them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.drawing import FACTS, grid_of
from support.untrusted.tamper import edited

from milpath.errors import StoredFileError
from milpath.formats.prediction import Prediction, read_prediction, write_prediction
from milpath.formats.scores import format_probability


def predict(patches: int = 9, members: int = 3, classes: int = 3, seed: int = 0) -> Prediction:
    rng = np.random.default_rng(seed)
    attention = rng.random((members, patches))
    return Prediction(
        slide=FACTS,
        grid=grid_of(patches),
        status="ok" if patches else "no_tissue",
        class_names=tuple("äbcdef"[:classes]),
        member_attention=attention / attention.sum(axis=1, keepdims=True),
        member_contributions=rng.normal(size=(members, patches, classes)),
        member_bias=rng.normal(size=(members, classes)),
        model="abc",
    )


def written(folder: Path, prediction: Prediction) -> Path:
    path = folder / "s.prediction.h5"
    write_prediction(path, prediction)
    return path


# -- properties ------------------------------------------------------------------------------------

shapes = st.fixed_dictionaries(
    {
        "patches": st.integers(1, 30),
        "members": st.integers(1, 4),
        "classes": st.integers(2, 5),
        "seed": st.integers(0, 99),
    }
)


@given(shape=shapes)
def test_contributions_and_bias_sum_to_the_logits(shape: dict[str, int]) -> None:
    one = predict(**shape)
    each = one.member_contributions.sum(axis=1) + one.member_bias
    assert np.allclose(one.member_logits, each, rtol=0, atol=1e-12)
    assert np.allclose(one.contributions.sum(axis=0) + one.bias, one.logits, rtol=0, atol=1e-12)


@given(shape=shapes)
def test_probs_are_the_softmax_of_the_mean_logits(shape: dict[str, int]) -> None:
    one = predict(**shape)
    shares = np.exp(one.member_logits.mean(axis=0))
    assert one.probs == pytest.approx(shares / shares.sum(), abs=1e-12)
    assert one.member_probs.sum(axis=1) == pytest.approx(1)
    assert one.predicted == one.class_names[int(np.argmax(shares))]


@given(shape=shapes)
def test_mean_attention_sums_to_one(shape: dict[str, int]) -> None:
    one = predict(**shape)
    assert one.attention.sum() == pytest.approx(1)
    assert 1 - 1e-9 <= one.effective_patches <= shape["patches"] + 1e-9


@pytest.mark.parametrize("patches", [0, 1, 9])
def test_a_prediction_is_read_back_unchanged(tmp_path: Path, patches: int) -> None:
    one = replace(predict(patches), in_training=patches == 1)
    two = read_prediction(written(tmp_path, one))
    for field in fields(Prediction):
        if field.name != "grid":
            assert np.array_equal(getattr(one, field.name), getattr(two, field.name)), field.name
    for name, value in vars(one.grid).items():
        assert np.array_equal(value, getattr(two.grid, name)), name
    assert np.array_equal(one.probs, two.probs, equal_nan=True)


# -- examples --------------------------------------------------------------------------------------


def test_the_spread_is_zero_for_one_member_and_positive_for_several() -> None:
    assert (predict(members=1).spread == 0).all()
    assert (predict(members=3).spread > 0).all()


def test_the_effective_number_of_patches_is_all_for_even_attention_and_one_for_a_peak() -> None:
    one = predict(8, members=1)
    assert replace(one, member_attention=np.full((1, 8), 1 / 8)).effective_patches == 8
    assert replace(one, member_attention=np.eye(8)[:1]).effective_patches == 1


def test_a_prediction_warns_of_a_training_slide_and_of_one_far_from_the_training_set() -> None:
    one = predict(9)
    assert one.warnings == replace(one, distance=1.2).warnings == ()
    (far,) = replace(one, distance=1.3).warnings
    assert far.startswith("unlike the training slides, 1.30 times as far")
    assert replace(one, in_training=True).warnings == ("the model was trained on this slide",)


def test_a_distance_that_cannot_be_one_raises(tmp_path: Path) -> None:
    path = written(tmp_path, replace(predict(9), distance=0.5))
    assert read_prediction(path).distance == 0.5
    with edited(path) as h5:
        h5.attrs["distance"] = -1.0
    with pytest.raises(StoredFileError, match="'distance' is not a distance"):
        read_prediction(path)


def test_a_prediction_without_tissue_has_no_class_and_nan_probabilities() -> None:
    one = predict(0)
    assert one.predicted is None
    assert np.isnan(one.probs).all()
    assert np.isnan(one.logits).all()
    assert one.probs.shape == (3,)
    assert one.effective_patches == 0


# -- invalid files ---------------------------------------------------------------------------------


def _put(name: str, data: Any) -> Callable[[h5py.File], None]:
    def change(h5: h5py.File) -> None:
        del h5[name]
        h5[name] = data

    return change


def _set(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(h5: h5py.File) -> None:
        h5.attrs[name] = value

    return change


FAULTS: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "names": (_set("class_names", "{}"), "'class_names' is not a list of names"),
    "names_json": (_set("class_names", "a,b"), "'class_names' is not JSON"),
    "names_numbers": (_set("class_names", "[1, 2, 3]"), "'class_names' is not a list of names"),
    "names_few": (_set("class_names", '["a"]'), "'member_bias' has shape"),
    "status": (_set("status", "no_tissue"), "'status' is 'no_tissue' with 9 patches"),
    "attention": (_put("member_attention", np.ones((3, 8))), "'member_attention' has shape"),
    "contributions": (
        _put("member_contributions", np.ones((3, 9, 2))),
        "'member_contributions' has shape",
    ),
    "dtype": (_put("member_bias", np.ones((3, 3), np.float32)), "is float32, expected float64"),
    "nan": (
        _put("member_contributions", np.full((3, 9, 3), np.nan)),
        "cannot be the output of a model",
    ),
    "attention_inf": (
        _put("member_attention", np.full((3, 9), np.inf)),
        "cannot be the output of a model",
    ),
    "attention_sum": (_put("member_attention", np.ones((3, 9))), "cannot be the output of a model"),
    "attention_below": (
        _put("member_attention", np.array([[2, -1, 0, 0, 0, 0, 0, 0, 0]] * 3, float)),
        "cannot be the output of a model",
    ),
    "unreadable": (_set("unreadable", "many"), "'unreadable' is not a number of patches"),
    "names_twice": (_set("class_names", '["a", "a", "b"]'), "'class_names' is not a list of names"),
    "coords": (_put("coords", np.full((9, 2), 10**6)), "'coords' lie outside"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_prediction_with_inconsistent_contents_raises(tmp_path: Path, fault: str) -> None:
    change, text = FAULTS[fault]
    path = written(tmp_path, predict())
    with edited(path) as h5:
        change(h5)
    with pytest.raises(StoredFileError, match=rf"^s\.prediction\.h5: .*{text}"):
        read_prediction(path)


def test_an_ensemble_without_members_raises(tmp_path: Path) -> None:
    path = written(tmp_path, predict())
    with edited(path) as h5:
        _put("member_bias", np.ones((0, 3)))(h5)
        _put("member_attention", np.ones((0, 9)))(h5)
        _put("member_contributions", np.ones((0, 9, 3)))(h5)
    with pytest.raises(StoredFileError, match="cannot be the output of a model"):
        read_prediction(path)


def test_reading_a_bag_as_a_prediction_raises(drawn_bag: Path) -> None:
    with pytest.raises(StoredFileError, match="expected a prediction file, this is a bag file"):
        read_prediction(drawn_bag)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9998, ">0.99"), (1.0, "1.00"), (0.0, "0.00"), (0.0004, "<0.01"), (0.5, "0.50")],
)
def test_only_a_certain_probability_reads_as_0_or_1(value: float, text: str) -> None:
    assert format_probability(value) == text
