"""ONNX files are encoders: what they take and give is found in them, and never guessed."""

from __future__ import annotations

import builtins
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from support.nn_tools import random_patches
from support.onnx_files import (
    DIM,
    IMAGENET,
    draw_weights,
    save,
    save_encoder,
    save_tokens,
    value,
    weigh,
)

from milpath.errors import StoredFileError, UsageError
from milpath.nn.encoder_choice import EncoderRequest, choose_encoder
from milpath.nn.encoders import onnx as encoders
from milpath.nn.encoders.onnx import open_onnx_encoder, reload_onnx_encoder
from milpath.nn.encoders.referred import find_referred
from milpath.nn.onnx_input import OnnxOptions

PX = 32
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
NONE = OnnxOptions()


def expect(patches: NDArray[np.uint8], mean: Any = MEAN, std: Any = STD) -> NDArray[np.float64]:
    """Return what the network of `save_encoder` gives."""
    scaled = (patches / 255 - mean) / std
    both = np.concatenate([scaled.mean(axis=(1, 2)), scaled.max(axis=(1, 2))], axis=1)
    return both @ draw_weights(6, DIM)


def refusal(path: Path, options: OnnxOptions = NONE) -> str:
    with pytest.raises(UsageError) as caught:
        open_onnx_encoder(path, options)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path.parent) not in text
    return text


# -- what it takes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        *(
            ("n", 3, PX, PX),
            ("n", PX, PX, 3),
            (None, 3, None, None),
            (7, 3, PX, PX),
            (1, PX, PX, 3),
        ),
        *(("n", 3, "h", "w"), ("n", "h", PX, 3)),
    ],
)
@pytest.mark.parametrize("pooled_axes", [False, True])
def test_features_are_those_of_the_scaled_patches_in_any_layout(
    tmp_path: Path, shape: tuple[Any, ...], pooled_axes: bool
) -> None:
    path = save_encoder(tmp_path / "a.onnx", shape=shape, pooled_axes=pooled_axes)
    encoder = open_onnx_encoder(path, OnnxOptions(patch_px=PX))
    patches = random_patches(9, PX)
    np.testing.assert_allclose(encoder.embed(patches), expect(patches), rtol=1e-4, atol=1e-4)


def test_a_network_that_takes_uint8_gets_the_pixels_and_needs_no_scaling(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "a.onnx", dtype="uint8", metadata={})
    encoder = open_onnx_encoder(path, NONE)
    patches = random_patches(3, PX)
    plain = expect(patches, 0, 1 / 255)
    np.testing.assert_allclose(encoder.embed(patches), plain, rtol=1e-4)
    assert (encoder.spec.mean, encoder.spec.std) == (None, None)
    half = (0.5, 0.5, 0.5)
    assert "scales them itself" in refusal(path, OnnxOptions(mean=half, std=half))


def test_a_network_that_takes_float16_is_given_it(tmp_path: Path) -> None:
    encoder = open_onnx_encoder(save_encoder(tmp_path / "a.onnx", dtype="float16"), NONE)
    patches = random_patches(3, PX)
    np.testing.assert_allclose(encoder.embed(patches), expect(patches), atol=0.05)


def test_float16_weights_are_stated_as_the_precision_of_the_network(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["patches"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["means", "wide"], ["features"]),
    ]
    weights = [weigh("w", draw_weights(3, DIM).astype(np.float16))]
    path = save(tmp_path / "a.onnx", nodes, weights=weights)
    assert open_onnx_encoder(path, NONE).spec.compute == "float16"


@pytest.mark.parametrize(
    ("inputs", "fact"),
    [
        ([], "0 inputs (none)"),
        ([value("a", ["n", 3, 32, 32]), value("b", ["n"])], "2 inputs (a, b)"),
        ([value("a", ["n", 3, 32])], "expected patches"),
        ([value("a", None)], "unstated shape"),
        ([value("a", ["n", 4, 32, 32])], "three colours"),
        ([value("a", ["n", 1, 32, 32])], "three colours"),
        ([value("a", ["n", 3, 32, 48])], "square"),
        ([value("a", ["n", 3, 5000, 5000])], "expected 1 to 4096"),
        ([value("a", [5000, 3, 32, 32])], "at most 1024 patches"),
        ([value("a", ["n", None, None, None])], "does not say where the colours are"),
        ([value("a", ["n", 3, 3, 3])], "does not say where the colours are"),
        ([helper.make_tensor_value_info("a", TensorProto.STRING, ["n", 3, 32, 32])], "string"),
        ([helper.make_tensor_value_info("a", TensorProto.INT64, ["n", 3, 32, 32])], "int64"),
        ([helper.make_tensor_value_info("a", TensorProto.BFLOAT16, ["n", 3, 8, 8])], "bfloat16"),
        ([helper.make_tensor_sequence_value_info("a", TensorProto.FLOAT, None)], "no tensor"),
    ],
)
def test_a_network_that_does_not_take_patches_is_refused(
    tmp_path: Path, inputs: list[onnx.ValueInfoProto], fact: str
) -> None:
    nodes = [helper.make_node("Constant", [], ["features"], value_float=1.0)]
    assert fact in refusal(save(tmp_path / "a.onnx", nodes, inputs=inputs))


def test_the_patch_size_is_asked_for_where_any_is_taken(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "a.onnx", shape=("n", 3, "h", "w"))
    assert "give --patch-size" in refusal(path)
    assert open_onnx_encoder(path, OnnxOptions(patch_px=48)).spec.patch_px == 48
    stated = IMAGENET | {"milpath.patch_px": "16"}
    path = save_encoder(path, shape=("n", 3, "h", "w"), metadata=stated)
    assert open_onnx_encoder(path, NONE).spec.patch_px == 16
    assert "was made for patches of 16 px, not of 32 px" in refusal(path, OnnxOptions(patch_px=PX))
    other = OnnxOptions(patch_px=PX, allow_other=True)
    assert open_onnx_encoder(path, other).spec.patch_px == PX


def test_the_resolution_is_that_of_the_file_or_is_asked_for(tmp_path: Path) -> None:
    path = str(save_encoder(tmp_path / "a.onnx"))
    with pytest.raises(UsageError, match="give --mpp"):
        choose_encoder(EncoderRequest(path))
    assert choose_encoder(EncoderRequest(path, mpp=0.7)).spec.mpp == 0.7
    save_encoder(tmp_path / "a.onnx", metadata=IMAGENET | {"milpath.mpp": "0.5"})
    assert choose_encoder(EncoderRequest(path)).spec.mpp == 0.5
    with pytest.raises(UsageError, match=r"made for patches of 32 px at 0.5 .* not of 32 px at 1"):
        choose_encoder(EncoderRequest(path, mpp=1.0))
    other = choose_encoder(EncoderRequest(path, mpp=1.0, allow_other=True))
    assert other.spec.mpp == 1.0
    assert find_referred(other.spec, tmp_path).spec == other.spec
    with pytest.raises(UsageError, match=r"is the ONNX file a.onnx, .* give it with --weights"):
        find_referred(other.spec)
    with pytest.raises(UsageError, match="leave --weights out"):
        choose_encoder(EncoderRequest(path, weights="w.h5"))


@pytest.mark.parametrize("metadata", [{}, {"milpath.patch_px": "48"}])
def test_another_patch_size_than_the_network_takes_is_refused(
    tmp_path: Path, metadata: dict[str, str]
) -> None:
    path = save_encoder(tmp_path / "a.onnx", metadata=IMAGENET | metadata)
    options = NONE if metadata else OnnxOptions(patch_px=48)
    assert ("metadata say" if metadata else "leave --patch-size out") in refusal(path, options)


def test_the_metadata_say_where_colours_are_that_the_shape_does_not(tmp_path: Path) -> None:
    shape = ("n", None, None, 3)
    path = save_encoder(tmp_path / "a.onnx", shape=shape)  # the first axis may be colours, too
    assert open_onnx_encoder(path, OnnxOptions(patch_px=PX)).spec.dim == DIM
    path = save_encoder(path, shape=shape, metadata=IMAGENET | {"milpath.layout": "nhwc"})
    assert open_onnx_encoder(path, OnnxOptions(patch_px=PX)).spec.dim == DIM
    path = save_encoder(path, metadata=IMAGENET | {"milpath.layout": "NHWC"})
    assert "milpath.layout NHWC" in refusal(path)


# -- how patches are scaled ------------------------------------------------------------------------


def test_mean_and_std_are_asked_for_and_never_guessed(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "a.onnx", metadata={})
    assert "give --mean and --std" in refusal(path)
    assert "give --std as" in refusal(path, OnnxOptions(mean=(0, 0, 0)))
    path = save_encoder(path, metadata={"milpath.std": "1,1,1"})
    assert "give --mean as" in refusal(path)


def test_mean_and_std_that_are_given_are_used_and_make_another_encoder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_encoder(tmp_path / "a.onnx")
    half = OnnxOptions(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    one, two = open_onnx_encoder(path, NONE), open_onnx_encoder(path, half)
    assert "mean is (0.5, 0.5, 0.5) as given; its metadata say (0.485" in caplog.text
    patches = random_patches(3, PX)
    np.testing.assert_allclose(two.embed(patches), expect(patches, 0.5, 0.5), rtol=1e-4)
    assert one.spec.digest == two.spec.digest
    assert len(one.spec.compare(two.spec)) == 2


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((123.7, 116.3, 103.5), (0.2, 0.2, 0.2)),
        ((0.5, 0.5, 0.5), (58.4, 57.1, 57.4)),
        ((0.5, 0.5, 0.5), (0.5, 0, 0.5)),
        ((-0.1, 0.5, 0.5), (1, 1, 1)),
        ((float("nan"), 0.5, 0.5), (1, 1, 1)),
    ],
)
def test_numbers_of_another_scale_are_refused(
    tmp_path: Path, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    path = save_encoder(tmp_path / "a.onnx", metadata={})
    assert "scale 0..1" in refusal(path, OnnxOptions(mean=mean, std=std))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(
            ("mean", "0.5"),
            ("mean", "a,b,c"),
            ("std", "1,1,1,1"),
            ("std", "nan,1,1"),
            ("mpp", "-1"),
        ),
        *(("mpp", "0.5 um"), ("mpp", "inf"), ("patch_px", "0"), ("patch_px", "1.5"), ("mpp", "")),
        *(("layout", "HWC"), ("name", "../x"), ("name", ""), ("name", "a\nb"), ("name", "a" * 65)),
    ],
)
def test_metadata_that_are_not_what_their_key_is_for_are_refused(
    tmp_path: Path, key: str, text: str
) -> None:
    metadata = IMAGENET | {f"milpath.{key}": text}
    path = save_encoder(tmp_path / "a.onnx", shape=("n", 3, None, None), metadata=metadata)
    assert f"milpath.{key} = {text[:60]!r}, expected" in refusal(path)


# -- what it gives ---------------------------------------------------------------------------------


def test_tokens_give_the_class_token_or_the_mean_of_the_patches(tmp_path: Path) -> None:
    path = save_tokens(tmp_path / "a.onnx")
    text = refusal(path)
    assert "choose one with --variant: tokens:cls (3 numbers), tokens:mean (3 numbers)" in text
    patches = random_patches(3, PX)
    mean = open_onnx_encoder(path, OnnxOptions(variant="mean"))
    scaled = (patches / 255 - MEAN) / STD
    np.testing.assert_allclose(mean.embed(patches), scaled.mean(axis=(1, 2)), atol=1e-5)
    first = open_onnx_encoder(path, OnnxOptions(variant="tokens:cls"))
    assert not first.embed(patches).any()
    assert (mean.spec.variant, first.spec.variant) == ("tokens:mean", "tokens:cls")


def test_tokens_without_a_class_token_have_no_variant_cls(tmp_path: Path) -> None:
    path = save_tokens(tmp_path / "a.onnx", others=0)
    assert open_onnx_encoder(path, NONE).spec.variant == "tokens:mean"
    assert "no variant 'cls'" in refusal(path, OnnxOptions(variant="cls"))


def test_tokens_that_are_no_grid_of_the_patch_are_refused(tmp_path: Path) -> None:
    path = save_tokens(tmp_path / "a.onnx", side=4, others=9)  # 25 tokens: no grid in 32 px
    assert "gives no vector per patch (tokens float32 (2, 25, 3))" in refusal(path)


def test_one_of_several_outputs_is_chosen_by_its_name(tmp_path: Path) -> None:
    path = save_tokens(tmp_path / "a.onnx", pooled=True)
    assert "pooled (3 numbers)" in refusal(path)
    encoder = open_onnx_encoder(path, OnnxOptions(variant="pooled"))
    patches = random_patches(3, PX)
    scaled = (patches / 255 - MEAN) / STD
    np.testing.assert_allclose(encoder.embed(patches), scaled.mean(axis=(1, 2)), atol=1e-5)
    assert "has no variant 'other'" in refusal(path, OnnxOptions(variant="other"))


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Identity", ["patches"], ["features"])],
        [helper.make_node("ReduceMean", ["patches"], ["features"], keepdims=0)],
        [
            helper.make_node("ReduceMax", ["patches"], ["m"], axes=[2, 3], keepdims=0),
            helper.make_node("ArgMax", ["m"], ["features"], axis=1),
        ],
    ],
    ids=["a map", "one number", "class numbers"],
)
def test_what_is_no_vector_per_patch_is_refused(
    tmp_path: Path, nodes: list[onnx.NodeProto]
) -> None:
    path = save(tmp_path / "a.onnx", nodes, outputs=[onnx.ValueInfoProto(name="features")])
    assert "a.onnx: " in refusal(path)


def test_a_network_that_is_not_the_same_each_time_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["patches"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("RandomNormalLike", ["means"], ["noise"]),
        helper.make_node("Add", ["means", "noise"], ["features"]),
    ]
    path = save(tmp_path / "a.onnx", nodes, outputs=[value("features", ["n", 3])])
    assert "export it for inference" in refusal(path)


def test_numbers_that_are_not_finite_are_never_returned(tmp_path: Path) -> None:
    nodes = [  # of a white patch alone: 0 / 0
        helper.make_node("ReduceMin", ["patches"], ["least"], axes=[2, 3], keepdims=0),
        helper.make_node("Sub", ["least", "white"], ["zeros"]),
        helper.make_node("Div", ["zeros", "zeros"], ["features"]),
    ]
    path = save(
        tmp_path / "a.onnx",
        nodes,
        outputs=[value("features", ["n", 3])],
        weights=[weigh("white", np.ones(1, np.float32))],
        metadata={"milpath.mean": "0,0,0", "milpath.std": "1,1,1"},
    )
    encoder = open_onnx_encoder(path, NONE)
    patches = random_patches(3, PX)
    assert (encoder.embed(patches) == 1).all()
    patches[1] = 255
    with pytest.raises(StoredFileError, match="not finite for 1 of 3 patches"):
        encoder.embed(patches)


# -- which network it is ---------------------------------------------------------------------------


def test_the_digest_is_that_of_the_file_and_its_external_data(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "a.onnx")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    assert open_onnx_encoder(path, NONE).spec.digest == digest
    model = onnx.load_model_from_string(path.read_bytes())
    onnx.save_model(model, path, save_as_external_data=True, location="a.data", size_threshold=0)
    both = hashlib.sha256(path.read_bytes() + (tmp_path / "a.data").read_bytes()).hexdigest()[:32]
    encoder = open_onnx_encoder(path, NONE)
    assert encoder.spec.digest == both
    patches = random_patches(2, PX)
    np.testing.assert_allclose(encoder.embed(patches), expect(patches), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("file", "metadata", "name"),
    [
        ("My Model (v2).onnx", {}, "my-model-v2"),
        ("ü.onnx", {}, "onnx"),
        ("a.onnx", {"milpath.name": "Net.1"}, "Net.1"),
    ],
)
def test_its_name_is_stated_or_that_of_its_file(
    tmp_path: Path, file: str, metadata: dict[str, str], name: str
) -> None:
    stated = IMAGENET | metadata | {"milpath.mpp": "0.25"}
    spec = open_onnx_encoder(save_encoder(tmp_path / file, metadata=stated), NONE).spec
    assert (spec.name, spec.kind, spec.weights, spec.mpp) == (name, "onnx", file, 0.25)


def test_it_is_opened_again_by_its_spec_under_another_name(tmp_path: Path) -> None:
    path = save_tokens(tmp_path / "a.onnx", pooled=True)
    half = (0.5, 0.5, 0.5)
    options = OnnxOptions(variant="mean", mean=half, std=half)
    encoder = open_onnx_encoder(path, options)
    again = reload_onnx_encoder(path.rename(tmp_path / "b.onnx"), encoder.spec)
    assert again.spec == encoder.spec
    patches = random_patches(2, PX)
    assert again.embed(patches).tobytes() == encoder.embed(patches).tobytes()
    other = save_tokens(tmp_path / "a.onnx", pooled=True, side=8)
    with pytest.raises(UsageError, match="not the network of the encoder a; give the file a"):
        reload_onnx_encoder(other, encoder.spec)


# -- onnxruntime -----------------------------------------------------------------------------------


def test_without_onnxruntime_one_line_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def find(name: str, *args: Any, **more: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name=name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", find)
    text = refusal(save_encoder(tmp_path / "a.onnx"))
    assert text.endswith("is not installed; pip install 'milpath[onnx]'")


@pytest.mark.parametrize(
    ("there", "works", "chosen", "used"),
    [
        (["Azure", "CPU"], True, ["CPU"], "CPU"),
        (["Azure", "CUDA", "CPU"], True, ["CUDA", "CPU"], "CUDA"),
        (["CoreML", "CUDA", "CPU"], True, ["CUDA", "CPU"], "CUDA"),
        (["CoreML", "CPU"], True, ["CoreML", "CPU"], "CoreML"),
        (["ROCM", "Tensorrt", "CPU"], True, ["ROCM", "CPU"], "ROCM"),
        (["CUDA", "CPU"], False, ["CUDA", "CPU"], "CPU"),
    ],
)
def test_the_provider_is_chosen_by_what_is_there_and_logged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    there: list[str],
    works: bool,
    chosen: list[str],
    used: str,
) -> None:
    caplog.set_level(logging.INFO)
    asked = []

    class Session:
        def get_providers(self) -> list[str]:
            return [f"{each}ExecutionProvider" for each in (chosen if works else chosen[1:])]

    def open_session(_path: str, providers: list[str]) -> Session:
        asked.append(providers)
        return Session()

    names = [f"{each}ExecutionProvider" for each in there]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(encoders, "open_session", open_session)
    open_onnx_encoder(save_encoder(tmp_path / "a.onnx"), NONE)
    assert asked == [[f"{each}ExecutionProvider" for each in chosen]]
    assert f"a.onnx runs on onnxruntime's {used}ExecutionProvider" in caplog.text
    assert ("cannot use its CUDA" in caplog.text) == (not works)
