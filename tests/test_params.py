"""Parameters hold only what can be meant, and cannot be changed behind anyone's back."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from milpath.params import (
    CodecParams,
    GridParams,
    HeadParams,
    Params,
    TileParams,
    TissueParams,
    TrainParams,
)
from milpath.store import fingerprint

KINDS = pytest.mark.parametrize(
    "kind", [TissueParams, GridParams, CodecParams, TileParams, HeadParams, TrainParams]
)


@KINDS
def test_defaults_are_valid_and_survive_json(kind: type[Params]) -> None:
    one = kind()
    assert kind.model_validate_json(one.model_dump_json()) == one
    assert kind.model_validate(one.model_dump()) == one


@KINDS
def test_unknown_names_are_refused(kind: type[Params]) -> None:
    with pytest.raises(ValidationError, match="shape"):
        kind(**{"shape": "round"})


@KINDS
def test_a_value_cannot_be_changed(kind: type[Params]) -> None:
    name = next(iter(kind.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(kind(), name, getattr(kind(), name))


def test_a_whole_number_means_the_same_as_its_float() -> None:
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
def test_a_value_out_of_range_is_refused_by_name(
    kind: type[Params], name: str, value: object
) -> None:
    with pytest.raises(ValidationError, match=name):
        kind(**{name: value})


@pytest.mark.parametrize("patch_px", [16, 100, 256])
def test_overlap_leaves_a_stride_of_a_sixteenth(patch_px: int) -> None:
    most = patch_px * 15 // 16
    assert GridParams(patch_px=patch_px, overlap_px=most).overlap_px == most
    with pytest.raises(ValidationError, match=f"leaves no stride.*give at most {most}"):
        GridParams(patch_px=patch_px, overlap_px=most + 1)
