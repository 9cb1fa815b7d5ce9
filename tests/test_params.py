"""Parameters have valid values only, and cannot be changed."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from milpath.params import (
    CodecParams,
    GridParams,
    HeadParams,
    Params,
    TileParams,
    TissueParams,
    TrainParams,
    describe_violation,
)
from milpath.store import fingerprint

KINDS = pytest.mark.parametrize(
    "kind", [TissueParams, GridParams, CodecParams, TileParams, HeadParams, TrainParams]
)


@KINDS
def test_defaults_are_valid_and_keep_their_values_in_json(kind: type[Params]) -> None:
    one = kind()
    assert kind.model_validate_json(one.model_dump_json()) == one
    assert kind.model_validate(one.model_dump()) == one


@KINDS
def test_an_unknown_name_raises(kind: type[Params]) -> None:
    with pytest.raises(ValidationError, match="shape"):
        kind(**{"shape": "round"})


@KINDS
def test_changing_a_value_raises(kind: type[Params]) -> None:
    name = next(iter(kind.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(kind(), name, getattr(kind(), name))


def test_a_whole_number_has_the_fingerprint_of_its_float() -> None:
    one, two = GridParams(mpp=1), GridParams(mpp=1.0)
    assert fingerprint(one.model_dump()) == fingerprint(two.model_dump())


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (GridParams, "mpp", 0.04),
        (GridParams, "mpp", 21),
        (GridParams, "mpp", float("nan")),
        (GridParams, "patch_px", 15),
        (GridParams, "patch_px", 4097),
        (GridParams, "patch_px", 64.5),
        (GridParams, "overlap_px", -1),
        (GridParams, "min_tissue", 0),
        (GridParams, "min_tissue", 1.01),
        (TissueParams, "sensitivity", 0),
        (TissueParams, "thumbnail_mpp", 0),
        (TissueParams, "min_area_um2", float("inf")),
        (CodecParams, "codec", "png"),
        (CodecParams, "quality", 101),
        (TrainParams, "test_fraction", 0),
        (TrainParams, "test_fraction", 0.6),
        (TrainParams, "val_fraction", 0.6),
        (TrainParams, "learning_rate", float("inf")),
        (TrainParams, "seed", -1),
        (TrainParams, "members", 0),
        (HeadParams, "dropout", 1.0),
    ],
)
def test_a_value_out_of_range_raises_with_its_name(
    kind: type[Params], name: str, value: object
) -> None:
    with pytest.raises(ValidationError, match=name):
        kind(**{name: value})


@pytest.mark.parametrize("patch_px", [16, 100, 256])
def test_an_overlap_that_leaves_less_than_a_sixteenth_raises(patch_px: int) -> None:
    most = patch_px * 15 // 16
    assert GridParams(patch_px=patch_px, overlap_px=most).overlap_px == most
    with pytest.raises(ValidationError, match=f"leaves no stride.*give at most {most}"):
        GridParams(patch_px=patch_px, overlap_px=most + 1)


class _Example(Params):
    size: int = Field(1, ge=1, le=9)
    share: float = Field(0.5, gt=0, lt=1)
    kind: Literal["jpeg", "raw"] = "jpeg"
    only: Literal[2] = 2
    flag: bool = True
    name: str = Field("ab", pattern="^[ab]+$")
    names: tuple[str, ...] = Field(("a",), min_length=1, max_length=2)
    inner: GridParams = GridParams()
    table: dict[str, int] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("values", "name", "sentence"),
    [
        ({"size": 0}, "size", "must be at least 1, got 0"),
        ({"size": 10}, "size", "must be at most 9, got 10"),
        ({"size": 1.5}, "size", "must be a whole number, got 1.5"),
        ({"size": "many"}, "size", "must be a whole number, got many"),
        ({"size": None}, "size", "must be a whole number, got None"),
        ({"size": "9" * 5000}, "size", f"must be a whole number of fewer digits, got {'9' * 50}"),
        ({"size": 10**5000}, "size", "must be at most 9, got a number of more than 50 digits"),
        ({"share": 0}, "share", "must be more than 0, got 0"),
        ({"share": 1}, "share", "must be less than 1, got 1"),
        ({"share": "half"}, "share", "must be a number, got half"),
        ({"share": float("nan")}, "share", "must be a finite number, got nan"),
        ({"kind": "png"}, "kind", "must be one of jpeg, raw, got png"),
        ({"only": 1}, "only", "must be 2, got 1"),
        ({"flag": "perhaps"}, "flag", "must be true or false, got perhaps"),
        ({"name": 3}, "name", "must be text, got 3"),
        ({"name": "c\n"}, "name", r"does not have the expected form, got c\n"),
        ({"names": ()}, "names", "must have at least 1 items"),
        ({"names": ("a", "b", "c")}, "names", "must have at most 2 items"),
        ({"names": 3}, "names", "must be a list, got 3"),
        ({"table": 3}, "table", "must be a group of named values, got 3"),
        ({"inner": 3}, "inner", "must be a group of named values, got 3"),
        ({"inner": {"mpp": 99}}, "inner.mpp", "must be at most 20, got 99"),
        ({"inner": {"x": 1}}, "inner.x", "is not a known name"),
        ({"evil\x1b": 1}, r"evil\x1b", "is not a known name"),
        (
            {"inner": {"overlap_px": 256}},
            "inner",
            "overlap of 256 px leaves no stride for patches of 256 px; give at most 240",
        ),
    ],
)
def test_a_violation_is_described_in_our_own_words(values: Any, name: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as raised:
        _Example(**values)
    assert describe_violation(raised.value) == (name, sentence)


def test_text_that_is_not_json_is_described_without_a_field() -> None:
    with pytest.raises(ValidationError) as raised:
        _Example.model_validate_json("{")
    name, sentence = describe_violation(raised.value)
    assert name == ""
    assert sentence.startswith("is not valid JSON (")
