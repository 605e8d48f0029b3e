"""Graphs of one architecture are walked side by side, whatever moves the values in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from samclip.errors import CheckpointError
from samclip.export.rebuilding.alignment import align
from samclip.export.rebuilding.coded_weights import FIRST, CodedWeights

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
BIAS = np.ones(3, np.float32)


def graph(nodes: Sequence[Any], **constants: NDArray[Any]) -> ir.Graph:
    """A graph from x, 2x4, to y; types and shapes are those that ONNX infers."""
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return ir.serde.deserialize_model(model).graph


def linear(**constants: NDArray[Any]) -> ir.Graph:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    return graph(nodes, **constants)


def coded(array: NDArray[np.float32], start: int) -> NDArray[np.float32]:
    codes = np.arange(FIRST + start, FIRST + start + array.size, dtype=np.uint32)
    return codes.view(np.float32).reshape(array.shape)


TEMPLATE = {"w": coded(WEIGHT, 0), "b": coded(BIAS, 12)}


def is_weight(array: NDArray[Any]) -> bool:
    return array.dtype == np.float32 and bool((array > 1e12).all())


def found(given: ir.Graph, template: ir.Graph | None = None) -> dict[str, NDArray[Any]]:
    pairs = align(template or linear(**TEMPLATE), given, is_weight)
    return {"b" if pair.template.ndim == 1 else "w": pair.given for pair in pairs}


def test_constants_at_the_same_places_belong_together() -> None:
    pairs = found(linear(w=WEIGHT, b=BIAS))
    np.testing.assert_array_equal(pairs["w"], WEIGHT)
    np.testing.assert_array_equal(pairs["b"], BIAS)


def test_moves_and_plain_factors_are_passed_over() -> None:
    """Another version transposes the weight in the graph, and scales and reshapes the input."""
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["same"]),
        helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["same", "turned"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    shape = np.array([2, 4])
    pairs = found(graph(nodes, w=WEIGHT.T.copy(), b=BIAS, half=np.float32(0.5), shape=shape))
    np.testing.assert_array_equal(pairs["w"], WEIGHT)


def test_a_sum_that_was_left_out_had_zeros() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    np.testing.assert_array_equal(found(graph(nodes, w=WEIGHT))["b"], np.zeros(3))


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Gemm", ["x", "w"], ["m"]),
        helper.make_node("Conv", ["x", "w"], ["m"]),
        helper.make_node("MatMul", ["w", "x"], ["m"]),
    ],
)
def test_another_architecture_is_refused(node: Any) -> None:
    given = graph([node, helper.make_node("Add", ["m", "b"], ["y"])], w=WEIGHT, b=BIAS)
    with pytest.raises(CheckpointError, match="the model has MatMul"):
        found(given)


def test_weights_are_found_number_by_number() -> None:
    """Joined and transposed by the exporter, repeated, computed; and what no graph reads is 0."""
    import torch

    model = torch.nn.Module()
    model.a = torch.nn.Parameter(torch.zeros(2, 3))
    model.b = torch.nn.Parameter(torch.zeros(3))
    model.unread = torch.nn.Parameter(torch.zeros(5))
    model.clip_head = torch.nn.Module()
    model.clip_head.level_bias = torch.nn.Parameter(torch.zeros(2))
    with torch.no_grad():
        codes = CodedWeights(model)
    a, b = (model.state_dict()[key].numpy().copy() for key in ("a", "b"))
    shares = model.clip_head.level_bias.detach().softmax(0).numpy()
    template = {"joined": np.concatenate([a.T, b[:, None]], axis=1), "twice": np.tile(b, 2)}
    expected = {"a": np.arange(6).reshape(2, 3), "b": np.array([7, 8, 9])}
    given = {
        "joined": np.concatenate([expected["a"].T, expected["b"][:, None]], axis=1),
        "twice": np.tile(expected["b"], 2),
    }
    from samclip.export.rebuilding.alignment import ConstantPair

    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    codes.expect(graph(nodes, **template), model)
    with pytest.raises(CheckpointError, match="do not show the weights"):
        codes.state()
    for name, values in given.items():
        codes.take(ConstantPair(name, template[name], values.astype(np.float32)))
    codes.take(ConstantPair("shares", shares[:, None], np.float32([[0.25], [0.75]])))
    state = codes.state()
    for key, values in expected.items():
        np.testing.assert_array_equal(state[key].numpy(), values)
    assert not state["unread"].any()
    torch.testing.assert_close(
        state["clip_head.level_bias"].softmax(0), torch.tensor([0.25, 0.75]), rtol=1e-6, atol=0
    )
    with pytest.raises(CheckpointError, match="several values"):
        codes.take(ConstantPair("twice", template["twice"], np.arange(6, dtype=np.float32)))
