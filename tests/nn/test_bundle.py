"""A bundle comes back as it was, and a damaged one is refused before it can do harm."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from support.nn_tools import make_bundle, make_member, member_file, random_patches, raw_tile
from support.untrusted.tamper import edited, tamper

from milpath import store
from milpath.errors import StoredFileError
from milpath.formats.model_spec import BundleSpec, EncoderSpec, read_bundle_spec
from milpath.nn.bundle import (
    assemble_bundle,
    load_bundle,
    load_encoder,
    load_weights,
    save_bundle,
    save_encoder,
    save_weights,
)
from milpath.nn.encoders import SMALL, build_encoder, fingerprint_weights
from milpath.nn.encoders.encoder import NetworkEncoder
from milpath.nn.mil import Member, build_evidence


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good bundle of two members; not to be changed."""
    path = tmp_path_factory.mktemp("good")
    make_bundle(path, members=2)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "model.json"
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


def refuse(folder: Path, complaint: str) -> None:
    with pytest.raises(StoredFileError, match=complaint) as caught:
        load_bundle(folder)
    assert "\n" not in str(caught.value)


# -- round trip ----------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False], ids=["pixels", "features"])
def test_a_loaded_bundle_predicts_the_same_bits(own: bool, tmp_path: Path) -> None:
    members = [make_member(side=16 if own else None) for _ in range(2)]
    record = EncoderSpec(name=SMALL, patch_px=16, dim=128, weights="trained")
    frozen = None if own else NetworkEncoder(build_encoder(SMALL, 16), record)
    spec = {
        "class_names": ("a", "b"),
        "mode": "pixels" if own else "features",
        "encoder": record,
        "head": {"projection_dim": 12, "attention_dim": 8},
        "tile": raw_tile(16),
        "background": "bright",
    }
    save_bundle(tmp_path, assemble_bundle(spec, members, frozen))
    loaded = load_bundle(tmp_path)
    assert (loaded.encoder is None) == own
    assert all((member.encoder is None) != own for member in loaded.members)
    patches = random_patches(5)
    before, after = patches, patches
    if frozen is not None and loaded.encoder is not None:
        before, after = frozen.embed(patches), loaded.encoder.embed(patches)
    before = build_evidence(before.shape[1:], members).predict_on_batch(before)
    after = build_evidence(after.shape[1:], loaded.members).predict_on_batch(after)
    for one, other in zip(before, after, strict=True):
        assert (one == other).all()


def test_a_spec_is_read_as_it_was_written(folder: Path) -> None:
    spec = read_bundle_spec(folder)
    assert load_bundle(folder).spec == spec
    assert BundleSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.members == 2
    assert spec.class_names == ("normal", "tumour")
    assert spec.tile == raw_tile(16)


def test_the_fingerprint_is_that_of_architecture_and_weights(tmp_path: Path) -> None:
    def print_of(name: str, **options: Any) -> str:
        return make_bundle(tmp_path / name, **options).spec.fingerprint

    first = print_of("first")
    assert print_of("same") == first
    others = [
        print_of("seed", seed=1),
        print_of("members", members=2),
        print_of("names", classes=("a", "b")),
        print_of("background", background="dark"),
    ]
    assert len({first, *others}) == 5


def test_a_changed_weight_changes_the_fingerprint(folder: Path) -> None:
    bundle = load_bundle(folder)
    bias = bundle.members[1].head.classifier.bias
    bias.assign(bias.numpy() + np.float32(1e-3))
    given = bundle.spec.model_dump(exclude={"members", "fingerprint", "has_space"})
    changed = assemble_bundle(given, bundle.members, None)
    assert changed.spec.fingerprint != bundle.spec.fingerprint


def test_an_encoder_saved_beside_its_features_is_loaded_unchanged(tmp_path: Path) -> None:
    encoder = build_encoder(SMALL, 32)
    digest = fingerprint_weights(encoder)
    spec = EncoderSpec(name=SMALL, patch_px=32, dim=128, weights="random", mpp=1, digest=digest)
    save_encoder(tmp_path, NetworkEncoder(encoder, spec))
    again = load_encoder(tmp_path)
    assert isinstance(again, NetworkEncoder)
    assert again.spec == spec
    assert fingerprint_weights(again.network) == digest


@pytest.mark.parametrize("mode", ["pixels", "features"])
def test_the_encoder_of_a_bundle_is_loaded_without_the_head(mode: Any, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, members=2, mode=mode)
    shared = bundle.encoder
    expected = bundle.members[0].encoder if shared is None else shared.network
    encoder = load_encoder(tmp_path)
    assert expected is not None
    assert isinstance(encoder, NetworkEncoder)
    assert fingerprint_weights(encoder.network) == fingerprint_weights(expected)
    known = {"digest": fingerprint_weights(expected), "mpp": bundle.spec.tile.grid.mpp}
    assert encoder.spec == bundle.spec.encoder.model_copy(update=known)


@pytest.mark.slow
def test_integer_and_scalar_weights_are_loaded_unchanged(tmp_path: Path) -> None:
    encoder = build_encoder("efficientnetb0", 32)
    assert {str(w.dtype) for w in encoder.weights} == {"float32", "int64"}
    assert () in {tuple(w.shape) for w in encoder.weights}
    save_weights(tmp_path / "w.h5", [encoder])
    again = build_encoder("efficientnetb0", 32)
    load_weights(tmp_path / "w.h5", [again])
    assert fingerprint_weights(again) == fingerprint_weights(encoder)


# -- damaged weights -----------------------------------------------------------------------------


def test_a_missing_weight_raises(copy: Path) -> None:
    with edited(member_file(copy, 1)) as h5:
        del h5["00007"]
    refuse(copy, r"member-1-\w+\.h5: '00007' is missing")


def test_an_extra_weight_raises(copy: Path) -> None:
    with edited(member_file(copy)) as h5:
        h5[f"{len(h5):05d}"] = np.zeros(3, np.float32)
    refuse(copy, r"member-0-\w+\.h5: it contains more weights than the model has")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (np.zeros((5, 5, 3, 17), np.float32), r"has shape \(5, 5, 3, 17\), expected"),
        (np.zeros((5, 5, 3, 16), np.float64), "is float64, expected float32"),
    ],
)
def test_a_weight_of_another_shape_or_kind_raises(
    copy: Path, values: np.ndarray[Any, Any], complaint: str
) -> None:
    with edited(member_file(copy)) as h5:
        del h5["00000"]
        h5["00000"] = values
    refuse(copy, complaint)


def test_a_weight_that_declares_a_huge_shape_raises(copy: Path) -> None:
    tamper(member_file(copy), lambda index: index["datasets"]["00000"].update(shape=[1 << 40]))
    refuse(copy, r"member-0-\w+\.h5: .*'00000' declares more bytes than the file holds")


def test_a_truncated_weights_file_raises(copy: Path) -> None:
    file = member_file(copy)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refuse(copy, r"member-0-\w+\.h5: not a weights file, or damaged")


def test_a_missing_weights_file_raises(copy: Path) -> None:
    member_file(copy, 1).unlink()
    refuse(copy, r"member-1-\w+\.h5: there is no such weights file")


def test_weights_of_another_model_raise(copy: Path, tmp_path: Path) -> None:
    """As an interrupted second training into the same folder would leave them."""
    make_bundle(tmp_path / "other", members=2, seed=5)
    shutil.copy(member_file(tmp_path / "other"), member_file(copy))
    refuse(copy, r"member-0-\w+\.h5: its weights are not of the model that model\.json describes")


# -- a damaged record ----------------------------------------------------------------------------


def test_a_folder_without_a_record_raises(tmp_path: Path) -> None:
    refuse(tmp_path, r"not a model folder \(it has no model\.json\); train one")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 3}'])
def test_a_text_that_is_not_a_record_raises(copy: Path, text: str) -> None:
    (copy / "model.json").write_text(text)
    refuse(copy, r"model\.json: .*not a model of this milpath")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"note": 1}, "note is not a known name"),
        ({"members": 3}, r"member-2-\w+\.h5: there is no such weights file"),
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"members": 10**9}, "members must be at most 1000"),
        ({"mode": "both"}, "mode must be one of pixels, features, got both"),
        ({"mode": "features"}, r"encoder-\w+\.h5: there is no such weights file"),
        ({"class_names": ["a", "a"]}, "class_names must be short, different names"),
        ({"class_names": ["a", "\x1b[2J"]}, "class_names must be .* without control characters"),
        ({"class_names": ["a"]}, "class_names must have at least 2 items"),
        ({"class_names": ["a", "b", "c"]}, r"has shape \(128, 2\), expected \(128, 3\)"),
        ({"fingerprint": "../0"}, "fingerprint does not have the expected form"),
        ({"fingerprint": "0" * 32}, r"member-0-0{8}\.h5: there is no such weights file"),
        ({"head": {"attention_dim": 9}}, r"has shape \(128, 8\), expected \(128, 9\)"),
        ({"head": {"attention_dim": 10**10}}, "head.attention_dim must be at most 8192"),
        ({"head": {"projection_dim": 10**10}}, "head.projection_dim must be at most 8192"),
    ],
)
def test_an_edited_record_raises(copy: Path, change: dict[str, Any], complaint: str) -> None:
    edit(copy, lambda record: record.update(change))
    refuse(copy, complaint)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"dim": 64}, "gives 128 features per patch, model.json says 64"),
        ({"dim": 10**9}, "encoder.dim must be at most 65536"),
        ({"name": "medium"}, "there is no encoder 'medium'"),
        ({"patch_px": 32}, "encoder expects patches of 32 px, but slides are tiled to 16"),
        ({"patch_px": 10**6}, "encoder.patch_px must be at most 4096"),
    ],
)
def test_an_edited_encoder_raises(copy: Path, change: dict[str, Any], complaint: str) -> None:
    edit(copy, lambda record: record["encoder"].update(change))
    refuse(copy, complaint)


def test_a_record_of_a_network_of_8_gb_raises_before_it_takes_memory(copy: Path) -> None:
    edit(copy, lambda record: record["encoder"].update(name="centred", patch_px=4096))
    edit(copy, lambda record: record["tile"]["grid"].update(patch_px=4096))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(copy, r"has shape \(3, 3, 64, 128\), expected \(16777216, 128\)")
    keras.layers.Dense(1)(keras.Input((1,)))  # Keras makes what weights it still owes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (1 << 20)


def test_a_record_of_a_huge_network_raises(copy: Path) -> None:
    (copy / "model.json").write_text("[" + " " * (1 << 21) + "]")
    refuse(copy, r"model\.json: too large for the description of a model")


def test_saving_leaves_no_half_written_files(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == [
        member_file(folder, 0).name,
        member_file(folder, 1).name,
        "model.json",
    ]


def test_a_model_stays_complete_until_its_replacement_is(
    copy: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = read_bundle_spec(folder)
    publish = store.publishing.publish
    for last in ("member-1", "model.json"):

        def stop(path: Path, *args: Any, last: str = last) -> Any:
            if path.name.startswith(last):
                raise KeyboardInterrupt
            return publish(path, *args)

        monkeypatch.setattr(store.writing, "publish", stop)
        monkeypatch.setattr(store.publishing, "publish", stop)
        with pytest.raises(KeyboardInterrupt):
            make_bundle(copy, members=2, seed=1)
        monkeypatch.undo()
        assert load_bundle(copy).spec == old
    new = make_bundle(copy, members=1, seed=1).spec
    assert new.fingerprint != old.fingerprint
    assert sorted(path.name for path in copy.iterdir()) == [member_file(copy).name, "model.json"]


def test_weights_are_saved_in_order_with_their_names(folder: Path) -> None:
    member = Member(load_bundle(folder).members[0].head)
    with h5py.File(member_file(folder)) as h5:
        names = [h5[key].attrs["path"] for key in sorted(h5)]
    assert names[0] == "conv1/kernel"
    assert names[-len(member.head.weights) :] == [w.path for w in member.head.weights]
    assert keras.backend.backend() == "tensorflow"
