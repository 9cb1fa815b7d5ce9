"""Small ONNX networks that the tests draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None]
IMAGENET = {"milpath.mean": "0.485,0.456,0.406", "milpath.std": "0.229,0.224,0.225"}
DIM = 5
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def draw_weights(*shape: int) -> NDArray[np.float32]:
    """Draw weights, the same each time."""
    return np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    weights: Sequence[onnx.TensorProto] = (),
    metadata: dict[str, str] | None = None,
    domains: Sequence[str] = (),
) -> Path:
    """Write a network from "patches" (n, 3, 32, 32) to "features" (n, 5), unless stated."""
    graph = helper.make_graph(
        nodes,
        "drawn",
        [value("patches", ["n", 3, 32, 32])] if inputs is None else inputs,
        [value("features", ["n", DIM])] if outputs is None else outputs,
        weights,
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(each, 1) for each in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    helper.set_model_props(model, IMAGENET if metadata is None else metadata)
    path.write_bytes(model.SerializeToString())
    return path


def value(name: str, shape: Shape | None, dtype: str = "float32") -> onnx.ValueInfoProto:
    """Describe an input or output."""
    return helper.make_tensor_value_info(name, TYPES[dtype], shape)


def weigh(name: str, values: NDArray[np.generic]) -> onnx.TensorProto:
    """Store weights."""
    return numpy_helper.from_array(values, name)


def save_encoder(
    path: Path,
    *,
    shape: Shape = ("n", 3, 32, 32),
    dtype: str = "float32",
    metadata: dict[str, str] | None = None,
    pooled_axes: bool = False,
) -> Path:
    """Write an encoder: the mean and the maximum of each colour, times a matrix (6, 5).

    Parameters
    ----------
    shape, dtype : of its input; the colours are where the shape has a 3
    pooled_axes : give (n, 5, 1, 1) instead of (n, 5)
    """
    axes = [1, 2] if shape[3] == 3 else [2, 3]
    nodes = [
        helper.make_node("Cast", ["patches"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["means"], axes=axes, keepdims=0),
        helper.make_node("ReduceMax", ["numbers"], ["peaks"], axes=axes, keepdims=0),
        helper.make_node("Concat", ["means", "peaks"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "matrix"], ["vectors"]),
        helper.make_node("Unsqueeze", ["vectors", "axes"], ["features"])
        if pooled_axes
        else helper.make_node("Identity", ["vectors"], ["features"]),
    ]
    weights = [weigh("matrix", draw_weights(6, DIM)), weigh("axes", np.array([2, 3], np.int64))]
    ends = [shape[0], DIM, 1, 1] if pooled_axes else [shape[0], DIM]
    return save(
        path,
        nodes,
        inputs=[value("patches", shape, dtype)],
        outputs=[value("features", ends)],
        weights=weights if pooled_axes else weights[:1],
        metadata=metadata,
    )


def save_tokens(
    path: Path, *, side: int = 4, others: int = 1, pooled: bool = False, px: int = 32
) -> Path:
    """Write an encoder that gives `others` tokens and then those of a grid, (n, T, 3).

    The tokens of the grid are the means of its cells; the others are zeros. With `pooled` it also
    gives "pooled" (n, 3), the mean of the patch.
    """
    cell = px // side
    nodes = [
        helper.make_node(
            "AveragePool", ["patches"], ["cells"], kernel_shape=[cell, cell], strides=[cell, cell]
        ),
        helper.make_node("Reshape", ["cells", "shape"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["grid"], perm=[0, 2, 1]),
        helper.make_node("Slice", ["grid", "start", "stop", "axis"], ["first"]),
        helper.make_node("Sub", ["first", "first"], ["zeros"]),
        helper.make_node("Concat", ["zeros", "grid"], ["tokens"], axis=1),
        helper.make_node("ReduceMean", ["patches"], ["pooled"], axes=[2, 3], keepdims=0),
    ]
    weights = [
        weigh("shape", np.array([0, 3, side * side], np.int64)),
        weigh("start", np.array([0], np.int64)),
        weigh("stop", np.array([others], np.int64)),
        weigh("axis", np.array([1], np.int64)),
    ]
    outputs = [value("tokens", ["n", None, 3]), value("pooled", ["n", 3])]
    return save(
        path,
        nodes if pooled else nodes[:-1],
        inputs=[value("patches", ["n", 3, px, px])],
        outputs=outputs if pooled else outputs[:1],
        weights=weights,
    )
