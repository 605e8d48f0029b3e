"""The rules for FP32: the nodes that they match, and the option that adds rules."""

from __future__ import annotations

import numpy as np
import pytest
from half_graphs import hand_made, vit
from onnx import helper

from samclip.errors import ExportError
from samclip.export.precision.keep import (
    DEFAULT_KEEP,
    KeepList,
    KeepRule,
    parse_keep,
    residual_sums,
)
from samclip.export.precision.op_types import typed_copy


def test_default_keeps_sums_norms_softmax_and_the_mask_decoder() -> None:
    names = DEFAULT_KEEP.nodes("encoder", vit())
    kept = [node.op_type for node in vit().graph if node.name in names]
    assert sorted(set(kept)) == ["Add", "LayerNormalization", "Softmax"]
    # Two blocks: two sums, two norms, one softmax each; two norms in the neck.
    assert [kept.count(op) for op in ("Add", "LayerNormalization", "Softmax")] == [4, 6, 2]
    assert DEFAULT_KEEP.keeps_all("mask_decoder")
    assert not DEFAULT_KEEP.keeps_all("encoder")
    assert len(DEFAULT_KEEP.nodes("mask_decoder", vit())) == len(list(vit().graph))


def test_residual_sums_are_those_of_an_activation_and_what_is_computed_from_it() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="a"),
        helper.make_node("Add", ["a", "w"], ["bias"], name="bias"),
        helper.make_node("Reshape", ["a", "shape"], ["same"], name="same"),
        helper.make_node("Add", ["bias", "same"], ["sum"], name="residual_sum"),
        helper.make_node("Tanh", ["x"], ["other"], name="other"),
        helper.make_node("Add", ["other", "sum"], ["y"], name="two_branches"),
    ]
    weights = {"w": np.ones((4, 8), np.float32), "shape": np.asarray([4, 8])}
    graph = hand_made(nodes, weights).graph
    assert {node.name for node in residual_sums(graph)} == {"residual_sum"}


def test_a_mask_that_every_layer_adds_is_not_a_residual() -> None:
    """The next layer's scores are computed from it too, but it is broadcast over them."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["mask"], keepdims=1),
        helper.make_node("Add", ["x", "mask"], ["one"], name="one"),
        helper.make_node("Tanh", ["one"], ["scores"]),
        helper.make_node("Add", ["scores", "mask"], ["two"], name="two"),
        helper.make_node("Add", ["two", "scores"], ["y"], name="sum"),
    ]
    model = typed_copy(hand_made(nodes, {"axes": np.asarray([1])}))
    assert {node.name for node in residual_sums(model.graph)} == {"sum"}


def test_rules_name_operators_and_nodes_by_pattern() -> None:
    first = next(node.name for node in vit().graph if node.op_type == "Conv")
    assert parse_keep([f"encoder:{first}"]).nodes("encoder", vit()) == {first}
    assert parse_keep(["enc*:Soft*"]).nodes("encoder", vit()) == {
        node.name for node in vit().graph if node.op_type == "Softmax"
    }
    assert parse_keep(["clip_head"]).nodes("encoder", vit()) == frozenset()


def test_lists_add_up() -> None:
    both = DEFAULT_KEEP | parse_keep(["encoder:Conv", "mask_decoder"])
    assert both.rules == (*DEFAULT_KEEP.rules, KeepRule("encoder", "Conv"))


def test_rules_that_match_nothing_are_listed() -> None:
    keep = parse_keep(["encoder:Sofmax", "encoder:Softmax"])
    assert keep.unmatched({"encoder": [vit()]}) == (KeepRule("encoder", "Sofmax"),)


@pytest.mark.parametrize("text", ["", "encoderr", "Softmax", "encoder:", ":Softmax", "decoder:x"])
def test_a_text_without_a_graph_is_refused(text: str) -> None:
    with pytest.raises(ExportError, match="--keep-fp32"):
        parse_keep([text])


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(ExportError, match="'mask_decoder'"):
        parse_keep(["mask_decodr"])


def test_nodes_without_names_get_unique_ones() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="Neg_1"),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    model = hand_made(nodes)
    assert len(KeepList((KeepRule("*", "Neg"),)).nodes("g", model)) == 2
    assert len({node.name for node in model.graph}) == 3
