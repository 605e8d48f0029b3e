"""The count of single operators against their formulas, and of what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from samclip.benchmarks.roofline.count import GraphWork, count
from samclip.benchmarks.roofline.read_graph import read_graph
from samclip.errors import CountError

RNG = np.random.default_rng(0)


def weight(*shape: int, dtype: str = "float32") -> np.ndarray:
    return (RNG.standard_normal(shape) * 20).astype(dtype)


def graph(
    nodes: list[Any],
    inputs: Mapping[str, tuple[int | str, ...]],
    weights: Mapping[str, np.ndarray] | None = None,
    outputs: tuple[str, ...] = ("y",),
    **options: Any,
) -> bytes:
    """A model as bytes; inputs called `q...` are uint8, all others float32."""
    types = {"q": TensorProto.UINT8}
    model = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, types.get(n[0], 1), s) for n, s in inputs.items()],
        [helper.make_value_info(name, helper.make_tensor_type_proto(1, None)) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", options.get("opset", 20))]
    opsets.append(helper.make_opsetid("com.microsoft", 1))
    return helper.make_model(model, opset_imports=opsets, ir_version=10).SerializeToString()


def work_of(*arguments: Any, sizes: Mapping[str, int] | None = None, **options: Any) -> GraphWork:
    return count(read_graph(graph(*arguments, **options), "small", sizes))


def node(operator: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(), output.split(), **attributes)


def test_a_linear_layer() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b")]
    work = work_of(nodes, {"x": (2, 5, 8)}, {"w": weight(8, 16), "b": weight(16)})
    assert work.macs == 2 * 5 * 8 * 16
    assert work.parameters == 8 * 16 + 16
    assert work.weight_bytes == 4 * (8 * 16 + 16)
    x, y = 4 * 2 * 5 * 8, 4 * 2 * 5 * 16
    assert work.io_bytes == x + y
    assert work.activation_bytes == (x + y) + (y + y)  # MatMul, then Add
    assert [(o.operator, o.nodes, o.macs) for o in work.operators] == [
        ("MatMul", 1, work.macs),
        ("Add", 1, 0),
    ]


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_a_convolution_and_its_groups(groups: int) -> None:
    nodes = [node("Conv", "x w", group=groups, strides=[2, 2], pads=[1, 1, 1, 1])]
    work = work_of(nodes, {"x": (1, 8, 10, 10)}, {"w": weight(16, 8 // groups, 3, 3)})
    assert work.macs == 5 * 5 * 16 * (8 // groups) * 9


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution(groups: int) -> None:
    nodes = [node("ConvTranspose", "x w", group=groups, strides=[2, 2])]
    work = work_of(nodes, {"x": (1, 8, 5, 6)}, {"w": weight(8, 16 // groups, 2, 2)})
    assert work.macs == 5 * 6 * 8 * (16 // groups) * 4


@pytest.mark.parametrize(("transposed", "shape"), [(0, (6, 8)), (1, (8, 6))])
def test_gemm(transposed: int, shape: tuple[int, int]) -> None:
    work = work_of([node("Gemm", "x w", transA=transposed)], {"x": shape}, {"w": weight(8, 3)})
    assert work.macs == 6 * 8 * 3


def test_roi_align_reads_its_map_once_whatever_the_regions() -> None:
    weights = {"boxes": weight(3, 4), "batch": np.zeros(3, np.int64)}
    attributes = {"output_height": 5, "output_width": 5, "spatial_scale": 0.25}
    nodes = [node("RoiAlign", "x boxes batch", **attributes)]
    work = work_of(nodes, {"x": (1, 8, 32, 32)}, weights)
    assert work.macs == 0
    assert work.parameters == 3 * 4  # here a constant; in a model an input
    assert work.activation_bytes == 4 * (8 * 32 * 32 + 3 * 8 * 5 * 5)
    assert [entry.operator for entry in work.operators] == ["RoiAlign"]


def test_einsum() -> None:
    nodes = [node("Einsum", "x z", equation="bhwc,hkc->bhwk")]
    work = work_of(nodes, {"x": (2, 3, 4, 5), "z": (3, 7, 5)})
    assert work.macs == 2 * 3 * 4 * 5 * 7


@pytest.mark.parametrize("equation", ["...ij,...jk->...ik", "ii,ij->j"])
def test_an_einsum_of_another_form_is_refused(equation: str) -> None:
    with pytest.raises(CountError, match="Export it as MatMul"):
        work_of([node("Einsum", "x z", equation=equation)], {"x": (3, 3), "z": (3, 3)})


def test_attention_of_opset_23() -> None:
    apart = {"x": (2, 6, 10, 4), "k": (2, 3, 12, 4), "v": (2, 3, 12, 5)}  # grouped queries
    expected = 2 * 6 * 10 * 12 * (4 + 5)
    assert work_of([node("Attention", "x k v")], apart, opset=23).macs == expected
    flat = {"x": (2, 10, 24), "k": (2, 12, 12), "v": (2, 12, 15)}
    heads = {"q_num_heads": 6, "kv_num_heads": 3}
    assert work_of([node("Attention", "x k v", **heads)], flat, opset=23).macs == expected


def test_attention_of_onnx_runtime() -> None:
    nodes = [node("MultiHeadAttention", "x k v", num_heads=6, domain="com.microsoft")]
    work = work_of(nodes, {"x": (2, 10, 24), "k": (2, 12, 24), "v": (2, 12, 30)})
    assert work.macs == 2 * 6 * 10 * 12 * (4 + 5)


def test_products_of_quantised_values_are_int8() -> None:
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "w t", "v"),
        node("Transpose", "v", "vt"),
        node("MatMul", "d vt"),
    ]
    weights = {
        "s": np.array(0.1, np.float32),
        "z": np.array(128, np.uint8),
        "w": weight(16, 8, dtype="int8"),
        "t": np.array(0.02, np.float32),
    }
    work = work_of(nodes, {"x": (5, 8)}, weights)
    assert work.by_arithmetic() == {"int8": 5 * 8 * 16}
    assert work.parameters == 16 * 8
    product = next(entry for entry in work.operators if entry.operator == "MatMul")
    assert product.activation_bytes == 5 * 8 + 4 * 5 * 16  # 8-bit in, float32 out
    assert product.weight_bytes == 16 * 8


def test_integer_operators_are_int8() -> None:
    integer = work_of(
        [node("MatMulInteger", "q w")], {"q": (5, 8)}, {"w": weight(8, 3, dtype="int8")}
    )
    assert integer.by_arithmetic() == {"int8": 5 * 8 * 3}
    scale, zero = np.array(0.1, np.float32), np.array(0, np.uint8)
    weights = {"s": scale, "z": zero, "w": weight(4, 2, 3, 3, dtype="uint8")}
    work = work_of([node("QLinearConv", "q s z w s z s z")], {"q": (1, 2, 8, 8)}, weights)
    assert work.by_arithmetic() == {"int8": 6 * 6 * 4 * 2 * 9}
    assert work.parameters == 4 * 2 * 9


def test_a_quantised_weight_alone_computes_in_float() -> None:
    nodes = [node("DequantizeLinear", "w t", "v"), node("MatMul", "x v")]
    weights = {"w": weight(8, 3, dtype="int8"), "t": np.array(0.02, np.float32)}
    work = work_of(nodes, {"x": (5, 8)}, weights)
    assert work.by_arithmetic() == {"float32": 5 * 8 * 3}
    assert work.weight_bytes == 8 * 3


def test_weights_stored_rounded_are_expanded_once() -> None:
    nodes = [
        node("Cast", "w", "c", to=TensorProto.FLOAT),
        node("Mul", "c s", "v"),
        node("MatMul", "x v"),
    ]
    weights = {"w": weight(8, 3, dtype="int8"), "s": weight(1, 3)}
    work = work_of(nodes, {"x": (5, 8)}, weights)
    assert work.parameters == 8 * 3
    assert work.weight_bytes == 4 * 8 * 3
    assert [entry.operator for entry in work.operators] == ["MatMul"]


def test_a_looked_up_table_moves_its_rows_alone() -> None:
    rows = np.array([3, 5], np.int64)
    nodes = [node("Gather", "table rows", "r"), node("Mul", "r x")]
    work = work_of(nodes, {"x": (2, 7)}, {"table": weight(100, 7), "rows": rows})
    assert work.parameters == 700
    assert work.weight_bytes == 4 * 2 * 7  # looked up on loading
    gathered = work_of([node("Gather", "x rows")], {"x": (100, 7)}, {"rows": rows})
    assert gathered.activation_bytes == 2 * 4 * 2 * 7


def test_views_and_shapes_move_nothing() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s one", "n"),
        node("Concat", "n minus", "to", axis=0),
        node("Reshape", "x to", "r"),
        node("Unsqueeze", "r one"),
    ]
    weights = {"one": np.array([1], np.int64), "minus": np.array([-1], np.int64)}
    read = read_graph(graph(nodes, {"x": ("batch", 6)}, weights), "small", {"batch": 4})
    assert read.tensors["y"].shape == (6, 1, 4)
    work = count(read)
    assert work.operators == ()
    assert work.least_bytes == 2 * 4 * 24


def test_parameters_that_repeat_or_mask_are_not_counted_twice() -> None:
    table = weight(7, 5)  # relative places -3..3
    places = np.arange(4)[:, None] - np.arange(4) + 3
    weights = {
        "t": np.ascontiguousarray(table[places].transpose(0, 2, 1)),
        "m": np.eye(4, dtype="f4"),
    }
    nodes = [node("MatMul", "x t", "h"), node("Add", "h m")]
    assert work_of(nodes, {"x": (4, 4, 5)}, weights).parameters == 7 * 5


def test_what_is_not_known_is_refused() -> None:
    lstm = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=3)
    weights = {"w": weight(1, 12, 4), "r": weight(1, 12, 3)}
    with pytest.raises(CountError, match="the operator LSTM"):
        work_of([lstm], {"x": (2, 1, 4)}, weights)
    with pytest.raises(CountError, match=r"com\.microsoft\.FusedMatMul"):
        work_of([node("FusedMatMul", "x z", domain="com.microsoft")], {"x": (3, 3), "z": (3, 3)})
    with pytest.raises(CountError, match="depends on the data"):
        work_of([node("NonZero", "x")], {"x": (3, 3)})
    with pytest.raises(CountError, match="'batch'"):
        work_of([node("Relu", "x")], {"x": ("batch", 3)})
    with pytest.raises(CountError, match="not an ONNX model"):
        read_graph(b"\xff\xff", "broken")
