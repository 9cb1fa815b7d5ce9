"""A bundle's own words are read without the network's libraries, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milpath.errors import StoredFileError
from milpath.formats.model_spec import BundleSpec, EncoderSpec, read_bundle_spec, read_record
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


def test_a_spec_comes_back(tmp_path: Path) -> None:
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
def test_a_spec_that_cannot_be_is_refused_in_one_line_that_names_the_place(
    tmp_path: Path, name: str, value: object
) -> None:
    with pytest.raises(
        StoredFileError, match=rf"model\.json: {name}.*not a model of .*train it again"
    ) as caught:
        read_bundle_spec(stored(tmp_path, **{name: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 5000])
def test_what_is_no_record_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.json").write_bytes(data)
    with pytest.raises(StoredFileError, match=r"model\.json: .*not a model of this milpath"):
        read_bundle_spec(tmp_path)


def test_a_record_is_read_only_when_it_is_small(tmp_path: Path) -> None:
    stored(tmp_path, training={"x": "y" * (1 << 20)})
    with pytest.raises(StoredFileError, match="too large"):
        read_bundle_spec(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoredFileError, match=r"not a model folder .*milpath train"):
        read_bundle_spec(tmp_path)
    with pytest.raises(StoredFileError, match="cannot be read"):
        read_record(EncoderSpec, tmp_path / "none.json")
