"""A head is trained on features of one encoder, made alike, or the reason why not is told."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from support.nn_tools import features_spec, make_cohort, make_features, raw_tile

from milpath.cohort.cohort import Cohort, SlideEntry
from milpath.errors import StoredFileError, UsageError
from milpath.formats.foreign import detect_features
from milpath.formats.foreign.values import FeatureHints
from milpath.formats.layout import encoder_folder
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bundle import save_encoder
from milpath.nn.encoders import SMALL, build_encoder, fingerprint_weights
from milpath.nn.encoders.encoder import NetworkEncoder
from milpath.nn.featureset import gather_features
from milpath.nn.train import load_frozen

LABELS = ("b", "a", "b", "10", "9")


def draw(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Features of five slides, b0 to b4, of 1 to 5 patches."""
    for number in range(5):
        make_features(tmp_path, f"b{number}", draw(number + 1, number))
    return tmp_path


def numpy_features(folder: Path, count: int = 5) -> Path:
    """Features of the same slides in files that say nothing of themselves."""
    for number in range(count):
        np.savez(folder / f"b{number}.npz", features=draw(number + 1, number))
    return folder


# -- what is gathered ------------------------------------------------------------------------------


def test_the_features_of_every_slide_are_recorded_with_its_label(folder: Path) -> None:
    found = gather_features(make_cohort(folder, LABELS), detect_features(folder))
    assert [bag.slide_id for bag in found.bags] == [f"b{number}" for number in range(5)]
    assert [bag.size for bag in found.bags] == [1, 2, 3, 4, 5]
    names = found.cohort.class_names
    assert [names[bag.label] for bag in found.bags] == list(LABELS)
    assert (found.tile, found.background, found.patch_px) == (raw_tile(16), "bright", 16)
    assert found.encoder == features_spec(4).model_copy(update={"precision": "float16"})
    half = draw(3, 2).astype(np.float16)
    np.testing.assert_array_equal(found.bags[2].read(np.array([0, 2])), half[[0, 2]])


def test_slides_without_patches_are_left_out_and_named(folder: Path) -> None:
    make_features(folder, "b1", np.zeros((0, 4)))
    found = gather_features(make_cohort(folder, ("a", "a", "b", "b", "b")), detect_features(folder))
    assert found.excluded == ("b1",)
    assert [entry.slide_id for entry in found.cohort.entries] == ["b0", "b2", "b3", "b4"]


def test_what_the_files_do_not_say_is_taken_from_the_user(tmp_path: Path) -> None:
    hints = FeatureHints(encoder="net", mpp=0.5, patch_px=224)
    folder = detect_features(numpy_features(tmp_path))
    found = gather_features(make_cohort(tmp_path, LABELS), folder, hints)
    assert found.encoder == EncoderSpec(
        name="net", patch_px=224, dim=4, mpp=0.5, tool="NumPy", precision="float32"
    )
    assert (found.tile.grid.mpp, found.tile.grid.patch_px) == (0.5, 224)
    assert found.background is None


def test_features_without_checksums_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hints = FeatureHints(encoder="net", mpp=0.5, patch_px=224)
    folder = detect_features(numpy_features(tmp_path))
    gather_features(make_cohort(tmp_path, LABELS), folder, hints)
    assert [each for each in caplog.messages if "no checksums" in each] == [
        "made: the features of 5 of 5 slides have no checksums of milpath, so that damage to them "
        "goes unnoticed"
    ]


# -- what is refused -------------------------------------------------------------------------------


def test_what_nobody_says_is_asked_for(tmp_path: Path) -> None:
    folder = detect_features(numpy_features(tmp_path))
    with pytest.raises(
        UsageError,
        match=r"b0\.npz: this numpy file does not say the encoder \(--encoder-name\), nor the µm "
        r"per pixel of a patch \(--mpp\); give what you know",
    ):
        gather_features(make_cohort(tmp_path, LABELS), folder, FeatureHints(patch_px=256))


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        (features_spec(4, "other"), "encoder made and other"),
        (features_spec(4, digest="new"), "weights code and new"),
        (features_spec(5), "dimension 4 and 5"),
        (features_spec(4).model_copy(update={"variant": "cls"}), None),
    ],
)
def test_features_of_two_encoders_raise(
    folder: Path, encoder: EncoderSpec, words: str | None
) -> None:
    make_features(folder, "b3", np.random.default_rng(0).normal(size=(4, encoder.dim)), encoder)
    cohort, found = make_cohort(folder, LABELS), detect_features(folder)
    if words is None:  # not known of both
        gather_features(cohort, found)
        return
    with pytest.raises(UsageError, match=f"'b0' and 'b3' are not of one kind \\({words}\\)"):
        gather_features(cohort, found)


def test_features_of_scanners_that_differ_need_the_resolution_they_were_made_for(
    tmp_path: Path,
) -> None:
    rows = []
    for number in range(5):
        with h5py.File(tmp_path / f"b{number}.h5", "w") as h5:
            h5["features"] = draw(number + 1, number)
            h5["features"].attrs["encoder"] = "net"
            h5["coords"] = np.zeros((number + 1, 2), np.int64)
            h5["coords"].attrs.update(patch_size=256, patch_size_level0=512)
        rows.append(SlideEntry(tmp_path / f"b{number}.tif", f"b{number}", LABELS[number], mpp=0.25))
    rows[3] = replace(rows[3], mpp=0.26)
    cohort, folder = Cohort("made", tuple(rows)), detect_features(tmp_path)
    with pytest.raises(UsageError, match=r"0\.5 and 0\.52\); if they were made .* --mpp"):
        gather_features(cohort, folder)
    found = gather_features(cohort, folder, FeatureHints(mpp=0.5))
    assert found.encoder is not None
    assert found.encoder.mpp == 0.5


def test_features_of_patches_of_different_parameters_raise(folder: Path) -> None:
    make_features(folder, "b2", draw(3), tile=raw_tile(16, mpp=2.0))
    with pytest.raises(UsageError, match=r"'b0' and 'b2' have different parameters \(grid\.mpp"):
        gather_features(make_cohort(folder, LABELS), detect_features(folder))


def test_slides_without_features_are_named_and_left_out_on_request(folder: Path) -> None:
    for number in (3, 4):
        (folder / f"b{number}.h5").unlink()
    cohort, found = make_cohort(folder, ("a", "b", "b", "b", "b")), detect_features(folder)
    with pytest.raises(UsageError, match=r"2 slides have no features in .*: b3, b4; check the"):
        gather_features(cohort, found)
    gathered = gather_features(cohort, found, skip_missing=True)
    assert [bag.slide_id for bag in gathered.bags] == ["b0", "b1", "b2"]
    assert gathered.skipped == {"features": ["b3", "b4"]}


def test_one_slide_under_two_cases_raises(folder: Path) -> None:
    (folder / "b2.h5").write_bytes((folder / "b3.h5").read_bytes())
    with pytest.raises(UsageError, match="slides 'b2' and 'b3' are one slide, but have the cases"):
        gather_features(make_cohort(folder, LABELS), detect_features(folder))


def test_the_same_unidentified_features_under_two_cases_raise(tmp_path: Path) -> None:
    numpy_features(tmp_path)
    (tmp_path / "b2.npz").write_bytes((tmp_path / "b3.npz").read_bytes())
    hints = FeatureHints(encoder="net", mpp=0.5, patch_px=224)
    with pytest.raises(UsageError, match="slides 'b2' and 'b3' are one slide"):
        gather_features(make_cohort(tmp_path, LABELS), detect_features(tmp_path), hints)


def test_damaged_features_raise(folder: Path) -> None:
    data = bytearray((folder / "b2.h5").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "b2.h5").write_bytes(data)
    with pytest.raises(StoredFileError, match=r"b2\.h5: "):
        gather_features(make_cohort(folder, LABELS), detect_features(folder))


def test_features_that_hardly_differ_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        values = 1e-5 * draw(number + 1, number)
        np.savez(tmp_path / f"b{number}.npz", features=values)
    hints = FeatureHints(encoder="net", mpp=0.5, patch_px=224)
    with caplog.at_level(logging.WARNING):
        gather_features(make_cohort(tmp_path, LABELS), detect_features(tmp_path), hints)
    assert any("a model cannot learn from them" in each for each in caplog.messages)


# -- the frozen encoder ----------------------------------------------------------------------------


def store_encoder(folder: Path) -> tuple[keras.Model, EncoderSpec]:
    encoder = build_encoder(SMALL, 16)
    digest = fingerprint_weights(encoder)
    spec = EncoderSpec(name=SMALL, patch_px=16, dim=128, weights="random", mpp=1, digest=digest)
    save_encoder(encoder_folder(folder), NetworkEncoder(encoder, spec))
    return encoder, spec


def test_the_encoder_beside_the_features_is_loaded(tmp_path: Path) -> None:
    _, spec = store_encoder(tmp_path)
    found = load_frozen(tmp_path, spec)
    assert found is not None
    assert fingerprint_weights(found.network) == spec.digest


def test_another_encoder_beside_the_features_raises(tmp_path: Path) -> None:
    _, spec = store_encoder(tmp_path)
    with pytest.raises(UsageError, match=r"were made by a different encoder than .*embed again"):
        load_frozen(tmp_path, spec.model_copy(update={"digest": "other"}))


def test_a_damaged_encoder_raises(tmp_path: Path) -> None:
    _, spec = store_encoder(tmp_path)
    (encoder_folder(tmp_path) / "encoder.h5").write_text("damaged")
    with pytest.raises(UsageError, match="the encoder of these features cannot be used: encoder"):
        load_frozen(tmp_path, spec)


def test_a_missing_encoder_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_frozen(tmp_path, features_spec(4)) is None
    assert caplog.messages == [
        "the encoder made is not beside the features, so that the model classifies features of it, "
        "and no slides"
    ]
