"""What every kind of encoder does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import draw_weights, small, write_checkpoint
from support.nn_tools import random_patches
from support.onnx_files import IMAGENET, save_encoder, save_tokens
from support.plugins import MeanColour, offer

from milpath.nn.encoder_choice import EncoderRequest, choose_encoder
from milpath.nn.encoders.encoder import Encoder
from milpath.nn.encoders.published import load_published

Build = Callable[[Path], Encoder]
PX = 32


def build_onnx(folder: Path) -> Encoder:
    return choose_encoder(EncoderRequest(str(save_encoder(folder / "a.onnx")), mpp=1.0))


def build_onnx_of_fixed_batch(folder: Path) -> Encoder:
    path = save_encoder(folder / "a.onnx", shape=(7, PX, PX, 3), dtype="uint8", metadata={})
    return choose_encoder(EncoderRequest(str(path), mpp=1.0))


def build_onnx_of_tokens(folder: Path) -> Encoder:
    return choose_encoder(
        EncoderRequest(str(save_tokens(folder / "a.onnx")), variant="mean", mpp=1.0)
    )


def build_onnx_of_float16(folder: Path) -> Encoder:
    path = save_encoder(folder / "a.onnx", dtype="float16", metadata=IMAGENET)
    return choose_encoder(EncoderRequest(str(path), mpp=1.0))


def build_plugin(folder: Path) -> Encoder:
    offer(folder, "painters", {"mean-colour": MeanColour})
    return choose_encoder(EncoderRequest("mean-colour"))


def build_application(folder: Path) -> Encoder:
    return choose_encoder(EncoderRequest("mobilenetv2", "random", patch_px=PX))


def build_published(folder: Path) -> Encoder:
    encoder = small("uni")
    path = write_checkpoint(folder / "w.safetensors", draw_weights(encoder))
    return load_published(encoder, path, patch_px=PX)


KINDS: dict[str, Build] = {
    "an ONNX file": build_onnx,
    "an ONNX file that takes 7 patches": build_onnx_of_fixed_batch,
    "an ONNX file that gives tokens": build_onnx_of_tokens,
    "an ONNX file that takes float16": build_onnx_of_float16,
    "a package": build_plugin,
    "a network of keras.applications": build_application,
    "a published vision transformer": build_published,
}
"""One line per kind; each builds an encoder of patches of 32 px."""


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Encoder]:
    folder = tmp_path_factory.mktemp("encoder")
    build: Build = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield build(folder)


@pytest.mark.parametrize("count", [0, 1, 65, 130])
def test_any_number_of_patches_gives_finite_float32_features(encoder: Encoder, count: int) -> None:
    features = encoder.embed(random_patches(count, PX))
    assert features.shape == (count, encoder.spec.dim)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_a_row_depends_on_its_own_patch_only(encoder: Encoder) -> None:
    patches = random_patches(66, PX)
    features = encoder.embed(patches)
    order = np.random.default_rng(2).permutation(66)
    scale = np.abs(features).max()
    assert np.abs(features - features.mean(axis=0)).max() > 1e-3 * scale  # they do differ
    np.testing.assert_allclose(encoder.embed(patches[order]), features[order], atol=1e-5 * scale)
    np.testing.assert_allclose(encoder.embed(patches[:1]), features[:1], atol=1e-5 * scale)


def test_the_same_patches_give_the_same_bytes_and_are_left_as_they_are(encoder: Encoder) -> None:
    patches = random_patches(65, PX)
    before = patches.copy()
    assert encoder.embed(patches).tobytes() == encoder.embed(patches).tobytes()
    assert np.array_equal(patches, before)


def test_patches_that_are_a_view_or_read_only_are_taken(encoder: Encoder) -> None:
    patches = random_patches(4, PX)
    view = np.ascontiguousarray(patches.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    view.flags.writeable = False
    assert np.array_equal(encoder.embed(view), encoder.embed(patches))


def test_the_spec_says_which_network_it_is(encoder: Encoder) -> None:
    spec = encoder.spec
    assert spec.patch_px == PX
    assert spec.dim == encoder.embed(random_patches(1, PX)).shape[1]
    assert re.fullmatch(r"[0-9a-f]{32}", spec.digest or "")
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec
