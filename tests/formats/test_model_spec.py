"""The description of a model is read without Keras, or raises in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.drawing import FACTS

from milpath.errors import StoredFileError
from milpath.formats.model_spec import (
    BundleSpec,
    EncoderSpec,
    mark_slide,
    read_bundle_spec,
    read_record,
)
from milpath.params import HeadParams, TileParams

SPEC = BundleSpec(
    class_names=("böse", "gut"),
    mode="pixels",
    encoder=EncoderSpec(name="small", patch_px=256, dim=32, weights="trained"),
    head=HeadParams(),
    members=2,
    tile=TileParams(),
    background="bright",
    fingerprint="abcdef01" * 4,
    training={"epochs": 3},
)


def stored(folder: Path, **changes: object) -> Path:
    value = json.loads(SPEC.model_dump_json()) | changes
    (folder / "model.json").write_text(json.dumps(value))
    return folder


def test_a_description_is_read_back(tmp_path: Path) -> None:
    assert read_bundle_spec(stored(tmp_path)) == SPEC


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", 1),
        ("class_names", ["one"]),
        ("class_names", "two"),
        ("mode", "dreams"),
        ("members", 0),
        ("encoder", {"name": "x", "patch_px": 1 << 20, "dim": 1, "weights": ""}),
        ("encoder", {"name": "x", "patch_px": 64, "dim": 1 << 40, "weights": ""}),
        ("tile", {"grid": {"mpp": -1}}),
        ("pickled", "gASVCAAAAA=="),
        ("fingerprint", "../other"),
    ],
)
def test_an_invalid_description_raises_one_line_that_names_the_field(
    tmp_path: Path, name: str, value: object
) -> None:
    with pytest.raises(
        StoredFileError, match=rf"model\.json: {name}.*not a model of .*train it again"
    ) as caught:
        read_bundle_spec(stored(tmp_path, **{name: value}))
    message = str(caught.value)
    assert "\n" not in message
    assert not any(word in message for word in ("Input should", "Field required", "Extra inputs"))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 5000])
def test_a_file_that_is_not_a_description_raises(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.json").write_bytes(data)
    with pytest.raises(StoredFileError, match=r"model\.json: .*not a model of this milpath"):
        read_bundle_spec(tmp_path)


def test_a_large_description_raises(tmp_path: Path) -> None:
    stored(tmp_path, training={"x": "y" * (1 << 20)})
    with pytest.raises(StoredFileError, match="too large"):
        read_bundle_spec(tmp_path)


def test_a_folder_without_a_model_raises(tmp_path: Path) -> None:
    with pytest.raises(StoredFileError, match=r"not a model folder .*milpath train"):
        read_bundle_spec(tmp_path)
    with pytest.raises(StoredFileError, match="cannot be read"):
        read_record(EncoderSpec, tmp_path / "none.json")


# -- training slides -----------------------------------------------------------------------------


def test_a_model_recognises_the_slides_it_has_seen_by_their_contents_alone() -> None:
    seen, new = replace(FACTS, quickhash="q1", content_hash="c1"), replace(FACTS, quickhash="q2")
    spec = SPEC.model_copy(update={"seen": (mark_slide(seen),)})
    assert spec.has_seen(replace(seen, slide_id="renamed", mpp_x=0.3))
    assert not spec.has_seen(new)
    assert not spec.has_seen(replace(seen, content_hash="c2"))


def test_a_slide_is_recognised_that_was_seen_before_there_were_hashes_of_contents() -> None:
    old = replace(FACTS, quickhash="q1", content_hash=None)
    spec = SPEC.model_copy(update={"seen": (mark_slide(old),)})
    assert spec.has_seen(replace(old, content_hash="c1"))
