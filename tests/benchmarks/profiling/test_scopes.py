"""Scopes of a graph as exports write it, with weights that were rounded, transposed and renamed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from samclip.benchmarks.profiling.scopes import Scopes, common, computes, names_behind
from samclip.engines.graphs.parsed import parse_model
from samclip.engines.profile import NodeTime

STORED = {
    "stem.weight": (4, 3, 1, 1), "stem.bias": (4,),
    "constant.7f": (4, 4), "constant.7f_scale": (4,),
    "blocks.0.norm.weight": (4,), "blocks.0.norm.bias": (4,),
    "blocks.0.attn.qkv.bias": (4,),
    "blocks.0.attn.proj.weight": (4, 4), "blocks.0.attn.proj.bias": (4,),
    "head.weight": (4, 4), "scale": (1,),
}  # fmt: skip
# What each node is, by the node's name: operator, inputs, outputs, the modules that it belongs to.
NODES = {
    "w": ("Cast", "constant.7f", "w_float", None),
    "ws": ("Mul", "w_float constant.7f_scale", "w_real", None),
    "p": ("Transpose", "blocks.0.attn.proj.weight", "p_turned", None),
    "conv": ("Conv", "x stem.weight stem.bias", "conv_out", "stem"),
    "relu6": ("Relu", "conv_out", "relu_out", "stem"),
    "flat": ("Reshape", "relu_out shape", "flat_out", ""),
    "norm": ("LayerNormalization", "flat_out blocks.0.norm.weight blocks.0.norm.bias", "norm_out",
             "blocks.0/norm"),
    "qkv": ("MatMul", "norm_out w_real", "qkv_out", "blocks.0/attn/qkv"),
    "qkv_bias": ("Add", "qkv_out blocks.0.attn.qkv.bias", "qkv_sum", "blocks.0/attn/qkv"),
    "softmax": ("Softmax", "qkv_sum", "softmax_out", "blocks.0/attn"),
    "proj": ("Gemm", "softmax_out p_turned blocks.0.attn.proj.bias", "proj_out",
             "blocks.0/attn/proj"),
    "sum": ("Add", "proj_out flat_out", "sum_out", ""),
    "scaled": ("Mul", "sum_out scale", "scaled_out", ""),
    "head": ("MatMul", "scaled_out head.weight", "y", "head"),
}  # fmt: skip


@pytest.fixture(scope="module")
def scopes() -> Scopes:
    nodes = [
        helper.make_node(operator, inputs.split(), [output], name=name)
        for name, (operator, inputs, output, _) in NODES.items()
    ]
    stored = [
        numpy_helper.from_array(
            np.ones(dims, np.int8 if name == "constant.7f" else np.float32), name
        )
        for name, dims in STORED.items()
    ]
    stored.append(numpy_helper.from_array(np.array([4, 4], np.int64), "shape"))
    ports = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)]
        for name, dims in (("x", [1, 3, 2, 2]), ("y", [4, 4]))
    ]
    graph = helper.make_graph(nodes, "made", *ports, stored)
    opsets = [helper.make_opsetid("", 20)]
    return Scopes(parse_model(helper.make_model(graph, opset_imports=opsets).SerializeToString()))


def test_each_node_belongs_to_its_modules(scopes: Scopes) -> None:
    found = {}
    for name, (operator, *_) in NODES.items():
        originals = scopes.originals(NodeTime(name, operator, 0.0))
        found[name] = "/".join(scopes.scope(originals)) if originals else None
    assert found == {name: scope for name, (*_, scope) in NODES.items()}


@pytest.mark.parametrize(
    ("node", "expected", "scope"),
    [
        (NodeTime("relu_out_nchwc", "Conv", 0.0), ["Relu", "Conv"], ("stem",)),
        (NodeTime("conv_out_nchwc", "Conv", 0.0), ["Conv"], ("stem",)),
        (NodeTime("qkv/MatMulAddFusion", "Gemm", 0.0), ["MatMul"], ("blocks.0", "attn", "qkv")),
        (NodeTime("fused proj", "FusedGemm", 0.0), ["Gemm"], ("blocks.0", "attn", "proj")),
        (NodeTime("head_token_12", "MatMul", 0.0), ["MatMul"], ("head",)),
        # A norm is not fused with the product before it, though its only input comes from there.
        (NodeTime("softmax", "Softmax", 0.0), ["Softmax"], ("blocks.0", "attn")),
        (NodeTime("ReorderOutput_token_5", "ReorderOutput", 0.0), [], ()),
        # OpenVINO lists what a node was made from.
        (NodeTime("qkv_bias", "FullyConnected", 0.0, originals=("qkv", "qkv_bias", "Reshape_77")),
         ["MatMul", "Add"], ("blocks.0", "attn", "qkv")),
        (NodeTime("qkv_bias", "FullyConnected", 0.0, originals=("qkv_bias",)),
         ["Add", "MatMul"], ("blocks.0", "attn", "qkv")),
    ],
    ids=lambda value: value.name if isinstance(value, NodeTime) else "",
)  # fmt: skip
def test_nodes_of_libraries_are_found_behind_their_names(
    node: NodeTime, expected: list[str], scope: tuple[str, ...], scopes: Scopes
) -> None:
    originals = scopes.originals(node)
    assert [one.operator for one in originals] == expected
    assert scopes.scope(originals) == scope
    assert all(computes(node, one) for one in originals[-1:])


def test_a_node_that_reorders_a_product_does_not_compute_it(scopes: Scopes) -> None:
    node = NodeTime("conv/WithoutBiases_acdb_abcd_relu6", "Reorder", 0.0)
    (conv,) = scopes.originals(node)
    assert conv.operator == "Conv"
    assert not computes(node, conv)


def test_marks_come_off_one_by_one() -> None:
    assert list(names_behind("fused a_b/Fusion/_token_3")) == [
        "fused a_b/Fusion/_token_3", "a_b"
    ]  # fmt: skip
    assert list(names_behind("x_nchwc_token_4")) == ["x_nchwc_token_4", "x_nchwc", "x"]


def test_what_scopes_have_in_common() -> None:
    assert common([("a", "b", "c"), ("a", "b"), ("a", "b", "d")]) == ("a", "b")
    assert common([("a",), ("b",)]) == common([]) == ()
    assert common([("a", "b")]) == ("a", "b")
