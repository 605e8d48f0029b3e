"""Stored weights are expanded exactly as the graph itself does it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.onnxruntime.backend import CPU
from samclip.export.graph_files import pack_graph
from samclip.export.rebuilding.stored_graphs import constant_of, expand_stored
from samclip.export.weight_storage import store_weights
from samclip.runtime.bundles.manifest import Variant, WeightsDtype
from samclip.runtime.bundles.weights import parse_weights

ROWS, WIDTH = 600, 256  # large enough for INT8


def looked_up_and_multiplied() -> ir.Model:
    """y = table[ids] @ weight, both weights large."""
    random = np.random.default_rng(0)
    arrays = {
        "a.table": random.normal(size=(ROWS, WIDTH)).astype(np.float32),
        "a.weight": random.normal(size=(WIDTH, 4 * WIDTH)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["a.table", "ids"], ["rows"], axis=0),
        helper.make_node("MatMul", ["rows", "a.weight"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4 * WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return ir.serde.deserialize_model(model)


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_weights_are_what_the_graph_computes_with(dtype: WeightsDtype) -> None:
    variant = Variant(file="g.onnx", weights="g.safetensors", opset=18, backends=("onnxruntime",))
    stored = store_weights(pack_graph("small", {variant: looked_up_and_multiplied()}), dtype)
    (model,) = stored.models().values()
    kinds = {str(constant_of(v).dtype) for v in model.graph.initializers.values()}  # type: ignore[union-attr]
    assert kinds >= {"float16" if dtype == "fp16" else "int8"}

    expand_stored(model.graph)

    assert [node.op_type for node in model.graph] == ["Gather", "MatMul"]
    ids = np.array([0, 7, ROWS - 1])
    weights = {name: constant_of(value) for name, value in model.graph.initializers.items()}
    table = next(w for w in weights.values() if w is not None and w.shape[0] == ROWS)
    weight = next(w for w in weights.values() if w is not None and w.shape[0] == WIDTH)
    source = GraphSource(
        "small",
        stored.files["g.onnx"],
        parse_weights(stored.files["g.safetensors"]),
        {"g.safetensors": stored.files["g.safetensors"]},
    )
    engine = CPU.load(source, EngineOptions())
    found = engine.run({"ids": ids})["y"].numpy()
    engine.close()
    np.testing.assert_allclose(found, table[ids] @ weight, rtol=1e-5, atol=1e-4)
    original = looked_up_and_multiplied().graph.initializers
    step = np.abs(table).max() / (127 if dtype == "int8" else 2**10)
    assert 0 < np.abs(table - constant_of(original["a.table"])).max() <= step
    onnx.checker.check_model(ir.to_proto(model))
