"""Encoders are built by name, take raw pixels, and are known by their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from support.nn_tools import keras_saves, random_patches

from milpath.errors import StoredFileError, UsageError
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.encoders import (
    CENTRED,
    OWN_ENCODERS,
    SMALL,
    applications,
    build_encoder,
    fingerprint_weights,
    list_applications,
    rebuild_encoder,
)


def builders() -> set[str]:
    public = {name: getattr(keras.applications, name) for name in dir(keras.applications)}
    return {name for name, thing in public.items() if name[0].isupper() and callable(thing)}


# -- our own -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN_ENCODERS)
@pytest.mark.parametrize("side", [16, 27, 64, 256])
def test_own_cnns_give_128_features_for_patches_of_any_size(name: str, side: int) -> None:
    encoder = build_encoder(name, side)
    assert encoder.input_shape == (None, side, side, 3)
    embeddings = encoder.predict_on_batch(random_patches(2, side))
    assert embeddings.shape == (2, 128)
    assert np.isfinite(embeddings).all()


def test_the_seed_decides_the_weights() -> None:
    digests = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        digests.append(fingerprint_weights(build_encoder(SMALL, 32)))
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_any_changed_weight_changes_the_fingerprint() -> None:
    encoder = build_encoder(SMALL, 32)
    seen = {fingerprint_weights(encoder)}
    for weight in encoder.weights:
        values = weight.numpy()
        values.flat[-1] = np.nextafter(values.flat[-1], np.float32(9))
        weight.assign(values)
        seen.add(fingerprint_weights(encoder))
    assert len(seen) == len(encoder.weights) + 1


def test_the_small_cnn_rescales_pixels_to_minus_one_to_one() -> None:
    rescale = build_encoder(SMALL, 16).get_layer("rescale")
    assert np.asarray(rescale(np.array([0.0, 127.5, 255.0]))) == pytest.approx([-1, 0, 1])


def test_the_centred_cnn_takes_grey_pictures() -> None:
    encoder = OWN_ENCODERS[CENTRED]((28, 28, 1))
    assert encoder.predict_on_batch(random_patches(2, 28)[..., :1]).shape == (2, 128)


def test_only_the_centred_cnn_depends_on_position() -> None:
    picture = np.zeros((1, 256, 256, 3), np.uint8)  # the border is out of the square's reach
    picture[0, 112:128, 112:128] = 255
    moved = np.roll(picture, 16, axis=(1, 2))
    for name, tells in ((SMALL, False), (CENTRED, True)):
        keras.utils.set_random_seed(0)
        encoder = build_encoder(name, 256)
        one, other = (encoder.predict_on_batch(each) for each in (picture, moved))
        assert (np.abs(one - other).max() > 1e-4) == tells


# -- those of Keras ------------------------------------------------------------------------------


def test_every_network_of_keras_applications_is_listed() -> None:
    found = list_applications()
    assert set(found) == {name.lower() for name in builders()}
    assert len(found) >= 38
    assert all(callable(build) and callable(prepare) for build, prepare in found.values())


@pytest.mark.parametrize(
    ("name", "family", "dim"), [("MobileNetV2", "mobilenet_v2", 1280), ("VGG16", "vgg16", 512)]
)
def test_a_network_of_keras_includes_its_own_preprocessing(
    name: str, family: str, dim: int
) -> None:
    patches = random_patches(3, 32)
    encoder = build_encoder(name, 32)
    assert encoder.name == name.lower()
    bare = getattr(keras.applications, name)(
        include_top=False, weights=None, pooling="avg", input_shape=(32, 32, 3)
    )
    bare.set_weights(encoder.get_weights())
    prepare = getattr(keras.applications, family).preprocess_input
    prepared = prepare(patches.astype(np.float32).copy())
    assert np.abs(prepared - patches).max() > 50  # it does something
    embeddings = encoder.predict_on_batch(patches)
    assert embeddings.shape == (3, dim)
    assert embeddings == pytest.approx(bare.predict_on_batch(prepared), rel=1e-3, abs=1e-5)


def test_a_network_with_its_preprocessing_inside_is_built_as_well() -> None:
    encoder = build_encoder("mobilenetv3small", 32)
    assert encoder.predict_on_batch(random_patches(1, 32)).shape == (1, 576)


@keras_saves
def test_weights_come_from_a_file(tmp_path: Path) -> None:
    bare = keras.applications.MobileNetV2(
        include_top=False, weights=None, pooling="avg", input_shape=(32, 32, 3)
    )
    file = tmp_path / "net.weights.h5"
    bare.save_weights(file)
    encoder = build_encoder("mobilenetv2", 32, str(file))
    assert fingerprint_weights(encoder) == fingerprint_weights(bare)


# -- faults --------------------------------------------------------------------------------------


def test_an_unknown_encoder_raises_and_the_nearest_are_named() -> None:
    with pytest.raises(UsageError, match=r"no encoder 'resnet5'; did you mean resnet50, "):
        build_encoder("resnet5", 32)


def test_a_missing_weights_file_raises() -> None:
    with pytest.raises(UsageError, match=r"weights '/nowhere/w\.h5': no such file"):
        build_encoder("mobilenetv2", 32, "/nowhere/w.h5")


def test_a_file_that_holds_no_weights_raises(tmp_path: Path) -> None:
    file = tmp_path / "net.weights.h5"
    file.write_text("no weights")
    with pytest.raises(UsageError, match=r"^weights net\.weights\.h5: is no HDF5 file") as caught:
        build_encoder("mobilenetv2", 32, str(file))
    assert "\n" not in str(caught.value)


def test_patches_too_small_for_a_network_raise() -> None:
    with pytest.raises(UsageError, match=r"encoder mobilenetv2.*at least 32x32"):
        build_encoder("mobilenetv2", 16)


def test_imagenet_without_a_network_raises_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**options: Any) -> keras.Model:
        assert options["weights"] == "imagenet"
        raise Exception("URL fetch failure on https://storage:\nNone -- no name resolution")

    monkeypatch.setattr(
        applications, "list_applications", lambda: {"resnet50": (offline, lambda x: x)}
    )
    with pytest.raises(
        UsageError, match=r"encoder resnet50: the ImageNet weights cannot be downloaded"
    ):
        build_encoder("resnet50", 32, "imagenet")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": "medium"}, "cannot be rebuilt: there is no encoder 'medium'"),
        ({"dim": 64}, "gives 128 features per patch, model.json says 64"),
        ({"name": "mobilenetv2", "patch_px": 16}, "cannot be rebuilt: .*at least 32x32"),
    ],
)
def test_a_record_that_fits_no_encoder_raises(change: dict[str, Any], complaint: str) -> None:
    spec = EncoderSpec(name=SMALL, patch_px=32, dim=128, weights="trained")
    with pytest.raises(StoredFileError, match=complaint):
        rebuild_encoder(spec.model_copy(update=change))
