"""An encoder is what the user asked for, or the reason why there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.nn_tools import make_bundle

from milpath.errors import StoredFileError, UsageError
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.embed import name_folder
from milpath.nn.encoder_choice import EncoderRequest, choose_encoder
from milpath.nn.encoders import fingerprint_weights
from milpath.nn.encoders.encoder import NetworkEncoder

MOBILE = EncoderRequest("MobileNetV2", "random", patch_px=32, mpp=1.0, seed=1)


def network_of(request: EncoderRequest) -> NetworkEncoder:
    encoder = choose_encoder(request)
    assert isinstance(encoder, NetworkEncoder)
    return encoder


def test_a_network_is_chosen_by_name_for_the_size_of_the_patches() -> None:
    encoder = network_of(MOBILE)
    digest = fingerprint_weights(encoder.network)
    assert encoder.spec == EncoderSpec(
        name="mobilenetv2", patch_px=32, dim=1280, weights="random", mpp=1.0, digest=digest
    )
    assert name_folder(encoder.spec) == f"mobilenetv2-{digest[:8]}"
    assert encoder.network.input_shape == (None, 32, 32, 3)
    assert network_of(MOBILE).spec.digest == digest
    assert network_of(replace(MOBILE, seed=2)).spec.digest != digest


def test_the_encoder_of_a_model_folder_is_used(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model")
    px = bundle.spec.encoder.patch_px
    encoder = network_of(EncoderRequest(str(tmp_path / "model"), patch_px=px))
    own = bundle.members[0].encoder
    assert own is not None
    assert fingerprint_weights(encoder.network) == fingerprint_weights(own)
    known = {"mpp": 1.0, "digest": fingerprint_weights(own)}
    assert encoder.spec == bundle.spec.encoder.model_copy(update=known)


def test_a_model_folder_of_another_patch_size_raises(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model")
    px = bundle.spec.encoder.patch_px + 16
    with pytest.raises(UsageError, match="tile again with --patch-size"):
        choose_encoder(EncoderRequest(str(tmp_path / "model"), patch_px=px, in_bags=True))


def test_the_name_of_the_small_cnn_raises() -> None:
    with pytest.raises(UsageError, match="the small CNN is trained with its model; give the mod"):
        choose_encoder(EncoderRequest("small", "random"))


def test_an_unknown_name_raises() -> None:
    with pytest.raises(UsageError, match="there is no encoder 'medium'"):
        choose_encoder(EncoderRequest("medium", "random"))


def test_a_folder_that_is_not_a_model_raises(tmp_path: Path) -> None:
    with pytest.raises(StoredFileError, match="not a model folder"):
        choose_encoder(EncoderRequest(str(tmp_path)))
