"""ONNX files are checked before onnxruntime allocates what they declare."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.onnx_files import draw_weights, save, save_encoder, value, weigh

from milpath.errors import UsageError
from milpath.store.onnxfile import OnnxDescription, read_onnx
from milpath.store.onnxtrial import TriedOutput, try_onnx
from milpath.store.protobuf import MAX_FIELDS

MATMUL = helper.make_node("MatMul", ["patches", "w"], ["features"])
TERABYTES = 1 << 40


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_onnx(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(path.name)
    return text


def declare(dims: list[int], data: bytes = b"\0" * 8, dtype: int = TensorProto.FLOAT) -> bytes:
    """Return a tensor that declares more than it holds, which onnx itself does not write."""
    tensor = TensorProto(name="w", data_type=dtype, raw_data=data)
    tensor.dims.extend(dims)
    return tensor.SerializeToString()


def parse(data: bytes) -> onnx.TensorProto:
    return TensorProto.FromString(data)


# -- what is found ---------------------------------------------------------------------------------


def test_inputs_outputs_and_metadata_are_those_that_onnx_reads(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "a.onnx", metadata={"milpath.mpp": "0.5", "author": "Ü"})
    found = read_onnx(path)
    assert found.metadata == {"milpath.mpp": "0.5", "author": "Ü"}
    assert [(each.name, each.dtype, each.shape) for each in found.inputs] == [
        ("patches", "float32", (None, 3, 32, 32))
    ]
    assert [(each.name, each.shape) for each in found.outputs] == [("features", (None, 5))]
    assert found.weight_bytes == 6 * 5 * 4
    assert found.external == ()
    assert not found.half


def test_weights_that_are_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.onnx",
        [MATMUL],
        inputs=[value("patches", ["n", 3]), value("w", [3, 5])],
        weights=[weigh("w", draw_weights(3, 5))],
    )
    assert [each.name for each in read_onnx(path).inputs] == ["patches"]


@pytest.mark.parametrize(
    "dtype",
    [
        *("float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32"),
        *("int64", "uint64", "bool"),
    ],
)
@pytest.mark.parametrize("raw", [True, False])
def test_weights_of_every_type_are_counted(tmp_path: Path, dtype: str, raw: bool) -> None:
    values = (np.arange(24).reshape(2, 3, 4) % 2).astype(dtype)
    code = helper.np_dtype_to_tensor_dtype(values.dtype)
    flat = values.tobytes() if raw else values.reshape(-1)
    weights = helper.make_tensor("w", code, values.shape, flat, raw=raw)
    found = read_onnx(save(tmp_path / "a.onnx", [MATMUL], weights=[weights]))
    assert found.weight_bytes == values.nbytes
    assert found.half == (dtype == "float16")


def test_weights_of_four_bits_are_counted(tmp_path: Path) -> None:
    weights = helper.make_tensor("w", TensorProto.INT4, [5], [1, 2, 3, -4, 5])
    assert read_onnx(save(tmp_path / "a.onnx", [MATMUL], weights=[weights])).weight_bytes == 3


# -- external data ---------------------------------------------------------------------------------


def save_external(path: Path, location: str, **more: str) -> Path:
    """Write a network whose 60 bytes of weights are in another file."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 5])
    weights.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, **more}.items():
        weights.external_data.add(key=key, value=text)
    return save(path, [MATMUL], inputs=[value("patches", ["n", 3])], weights=[weights])


@pytest.mark.parametrize("place", [{}, {"offset": "0", "length": "60"}])
def test_weights_beside_the_file_are_found(tmp_path: Path, place: dict[str, str]) -> None:
    (tmp_path / "a.onnx_data").write_bytes(draw_weights(3, 5).tobytes())
    path = save_external(tmp_path / "a.onnx", "a.onnx_data", **place)
    found = read_onnx(path)
    assert [each.name for each in found.external] == ["a.onnx_data"]
    assert found.weight_bytes == 60


@pytest.mark.parametrize(
    "location",
    [
        *("../secret", "x/../../secret", "/etc/hostname", "..\\secret", "C:\\secret", "", "."),
        *("*/_ORT_MEM_ADDR_/*", "missing", "a\nb", "link"),
    ],
)
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(60))
    (folder / "link").symlink_to(tmp_path / "secret")
    assert "its weights are in" in refusal(save_external(folder / "a.onnx", location))


@pytest.mark.parametrize(
    "place",
    [
        *({"offset": "1"}, {"length": "59"}, {"offset": "-4", "length": "60"}, {"length": "x"}),
        *({"offset": "4096", "length": "60"}, {"offset": "1e1"}),
    ],
)
def test_weights_of_another_length_than_declared_are_refused(
    tmp_path: Path, place: dict[str, str]
) -> None:
    (tmp_path / "data").write_bytes(bytes(60))
    assert "other numbers" in refusal(save_external(tmp_path / "a.onnx", "data", **place))


# -- damaged and hostile files ---------------------------------------------------------------------


def test_a_file_cut_short_anywhere_or_with_changed_bytes_is_one_line_or_is_read(
    tmp_path: Path,
) -> None:
    whole = save_encoder(tmp_path / "whole.onnx").read_bytes()
    path = tmp_path / "a.onnx"
    draw = np.random.default_rng(0)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal_or_description(path)
    for _ in range(500):
        data = bytearray(whole)
        for place in draw.integers(0, len(data), 3):
            data[place] = draw.integers(0, 256)
        path.write_bytes(data)
        refusal_or_description(path)


def refusal_or_description(path: Path) -> OnnxDescription | str:
    try:
        return read_onnx(path)
    except UsageError as error:
        text = str(error)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_weights_cut_short_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", [MATMUL], weights=[weigh("w", draw_weights(100, 100))])
    path.write_bytes(path.read_bytes()[:20_000])
    assert "not an ONNX file, or damaged" in refusal(path)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\x89HDF\r\n\x1a\n" + bytes(100), b"PK\x03\x04" + bytes(100), b"\x80" * 100),
        *(
            bytes(1000),
            b"\x08\x09",
            b"\x3a\xff\xff\xff\xff\x0f",
            b"<html>",
            b"\x08\x09\x3a\x00" * 2,
        ),
        *(np.random.default_rng(0).bytes(5000), b"version https://git-lfs.github.com/spec/v1\n"),
    ],
)
def test_what_is_not_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(data)
    assert "not an ONNX file, or damaged" in refusal(path)


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "missing.onnx")
    assert "not a file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "not a file" in refusal(tmp_path / "pipe.onnx")


def test_a_file_of_more_than_2_gib_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 31)
    assert "more than 2 GiB" in refusal(path)


BOMBS = {
    "a matrix": [TERABYTES],
    "an overflowing product": [1 << 32, 1 << 32],
    "a product of 2**64": [1 << 62, 4],
    "a negative length": [-2],
    "many axes": [1] * 17 + [2],
    "a length of 3, of 2 numbers": [3],
    "a length of 1, of 2 numbers": [1],
}


@pytest.mark.parametrize("dims", BOMBS.values(), ids=BOMBS.keys())
def test_weights_that_declare_other_numbers_than_they_hold_are_refused(
    tmp_path: Path, dims: list[int]
) -> None:
    path = save(tmp_path / "a.onnx", [MATMUL], weights=[parse(declare(dims))])
    assert "the weights w" in refusal(path)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, 99])
def test_weights_without_data_are_refused(tmp_path: Path, dtype: int) -> None:
    tensor = TensorProto(name="w", data_type=dtype)
    tensor.dims.extend([TERABYTES])
    assert "the weights w" in refusal(save(tmp_path / "a.onnx", [MATMUL], weights=[tensor]))


def nest(depth: int, node: onnx.NodeProto) -> onnx.NodeProto:
    """Put a node into graphs inside graphs."""
    for _ in range(depth):
        graph = helper.make_graph([node], "inner", [], [value("features", ["n", 5])])
        node = helper.make_node("If", ["c"], ["features"], then_branch=graph, else_branch=graph)
    return node


def constant(dims: list[int]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["w"], value=parse(declare(dims)))


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_constants_of_operators_are_checked_at_any_depth(tmp_path: Path, depth: int) -> None:
    path = save(tmp_path / "a.onnx", [nest(depth, constant([TERABYTES]))])
    assert "the weights w" in refusal(path)
    assert read_onnx(save(path, [nest(depth, constant([2]))])).weight_bytes > 0


def test_deeply_nested_graphs_are_refused(tmp_path: Path) -> None:
    graph = helper.make_graph([MATMUL], "inner", [], [])
    for _ in range(20):
        node = helper.make_node("If", ["c"], ["features"], then_branch=graph)
        graph = helper.make_graph([node], "inner", [], [])
    assert "graphs in graphs" in refusal(save(tmp_path / "a.onnx", list(graph.node)))


def test_sparse_weights_are_refused(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(
        weigh("v", np.ones(1, np.float32)), weigh("i", np.zeros(1, np.int64)), [TERABYTES]
    )
    path = save(tmp_path / "a.onnx", [helper.make_node("Constant", [], ["w"], sparse_value=sparse)])
    assert "sparse" in refusal(path)
    model = onnx.load_model_from_string(save_encoder(path).read_bytes())
    model.graph.sparse_initializer.append(sparse)
    path.write_bytes(model.SerializeToString())
    assert "sparse" in refusal(path)


@pytest.mark.parametrize(
    ("kind", "domain"),
    [("Steal", "evil"), ("Steal", "ai.onnx.evil"), ("EPContext", "com.microsoft")],
)
def test_operators_of_others_and_compiled_ones_are_refused(
    tmp_path: Path, kind: str, domain: str
) -> None:
    node = helper.make_node(kind, ["patches"], ["features"], domain=domain)
    for each in (node, nest(2, node)):
        text = refusal(save(tmp_path / "a.onnx", [each], domains=[domain]))
        assert f"needs the operator {kind}" in text


def test_functions_of_the_file_itself_are_its_operators(tmp_path: Path) -> None:
    function = helper.make_function(
        "mine", "Double", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    node = helper.make_node("Double", ["patches"], ["features"], domain="mine")
    path = save(tmp_path / "a.onnx", [node], domains=["mine"])
    assert "Double" in refusal(path)
    model = onnx.load_model_from_string(path.read_bytes())
    model.functions.append(function)
    path.write_bytes(model.SerializeToString())
    assert read_onnx(path).inputs


def test_a_file_of_very_many_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(struct.pack("BB", 8, 9) * (MAX_FIELDS + 1))
    assert "fields" in refusal(path)


# -- the trial -------------------------------------------------------------------------------------


def attempt(path: Path, px: int = 32) -> TriedOutput:
    return try_onnx(path, read_onnx(path), "float32", (2, 3, px, px))["features"]


def test_a_sound_network_is_described_by_its_trial(tmp_path: Path) -> None:
    found = attempt(save_encoder(tmp_path / "a.onnx"))
    assert found == TriedOutput("float32", (2, 5), finite=True, same=True)


def shape_constant(*dims: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(dims, np.int64), "dims")


def reduce_and_add(extra: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return operators that add the sum of "big" to the features."""
    return [
        *extra,
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("ReduceMean", ["patches"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Add", ["means", "sum"], ["features"]),
    ]


HUNGRY: dict[str, Callable[[], list[onnx.NodeProto]]] = {
    "a constant of 100 GB": lambda: [helper.make_node("ConstantOfShape", ["dims"], ["big"])],
    "an expanded patch": lambda: [
        helper.make_node("ReduceMax", ["patches"], ["one"], keepdims=0),
        helper.make_node("Expand", ["one", "dims"], ["big"]),
    ],
}


@pytest.mark.parametrize("build", HUNGRY.values(), ids=HUNGRY.keys())
@pytest.mark.parametrize("length", [25 * 10**9, 150 * 10**6])
def test_operators_that_need_much_memory_are_refused(
    tmp_path: Path, build: Callable[[], list[onnx.NodeProto]], length: int
) -> None:
    path = save(
        tmp_path / "a.onnx",
        reduce_and_add(build()),
        outputs=[value("features", ["n", 3])],
        weights=[shape_constant(length)],
    )
    with pytest.raises(UsageError, match="needs too much memory"):
        attempt(path)


def test_a_loop_without_end_is_ended(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["state", "state"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            value("state", None),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), value("next", None)],
    )
    nodes = [
        helper.make_node("ReduceMean", ["patches"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Loop", ["", "true", "means"], ["features"], body=body),
    ]
    truth = numpy_helper.from_array(np.array(True), "true")
    path = save(tmp_path / "a.onnx", nodes, outputs=[value("features", ["n", 3])], weights=[truth])
    with pytest.raises(UsageError, match="does not finish"):
        attempt(path)


def test_an_operator_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", [helper.make_node("Nonsense", ["patches"], ["features"])])
    with pytest.raises(UsageError, match="onnxruntime") as caught:
        attempt(path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_network_that_mixes_the_patches_of_a_batch_is_known(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["patches"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("CumSum", ["means", "axis"], ["features"]),
    ]
    axis = numpy_helper.from_array(np.array(0, np.int64), "axis")
    path = save(tmp_path / "a.onnx", nodes, outputs=[value("features", ["n", 3])], weights=[axis])
    assert not attempt(path).same


def test_a_network_in_training_mode_is_known(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["patches"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Dropout", ["means", "ratio", "training"], ["features"]),
    ]
    weights = [
        numpy_helper.from_array(np.array(0.5, np.float32), "ratio"),
        numpy_helper.from_array(np.array(True), "training"),
    ]
    path = save(tmp_path / "a.onnx", nodes, outputs=[value("features", ["n", 3])], weights=weights)
    assert not attempt(path).same


def test_numbers_that_are_not_finite_are_known(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["patches"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Sub", ["means", "means"], ["zeros"]),
        helper.make_node("Div", ["zeros", "zeros"], ["features"]),
    ]
    path = save(tmp_path / "a.onnx", nodes, outputs=[value("features", ["n", 3])])
    assert not attempt(path).finite
