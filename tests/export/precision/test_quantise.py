"""Q/DQ graphs: their quantised layers, their forms and their results."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from int8_graphs import cosine, photo_feeds, run, small_network
from onnx import helper
from small_graphs import small_graph

from samclip.errors import ExportError
from samclip.export.precision.calibration import Calibration, Range, calibrate
from samclip.export.precision.quantise import Form, make_scale, quantise, round_channels

FORMS: tuple[Form, ...] = ("symmetric", "unsigned")
LAYERS = ("stem", "dw", "pw", "fc1", "fc2", "head")


@pytest.fixture(scope="module")
def network() -> ir.Model:
    return small_network()


@pytest.fixture(scope="module")
def known(network: ir.Model) -> Calibration:
    return calibrate(network, photo_feeds(8))


def producers(model: ir.Model) -> dict[str, ir.Node]:
    return {str(node.name): node for node in model.graph}


@pytest.mark.parametrize("form", FORMS)
def test_results_stay_close(network: ir.Model, known: Calibration, form: Form) -> None:
    feed = photo_feeds(1, seed=9)[0]
    exact, rounded = run(network, feed), run(quantise(network, known, form=form), feed)
    for name, limit in {"features": 0.999, "logits": 0.99, "embedding": 0.98}.items():
        assert limit < cosine(exact[name], rounded[name]) < 1, name


@pytest.mark.parametrize("form", FORMS)
def test_layers_alone_are_quantised(network: ir.Model, known: Calibration, form: Form) -> None:
    model = quantise(network, known, form=form)
    assert {n.removesuffix(".int8") for n in model.graph.initializers if n.endswith("int8")} == {
        *(name for name in LAYERS if form == "unsigned" or name != "dw")
    }
    for node in model.graph:
        made = [x.producer() for x in node.inputs if x is not None]
        kinds = [None if p is None else p.op_type for p in made]
        if node.attributes.get_int("group", 1) > 1 and form == "symmetric":
            assert "DequantizeLinear" not in kinds  # TensorRT gains nothing by depthwise ones
        elif node.op_type in {"Conv", "MatMul"} and node.inputs[1].name != "names":  # type: ignore[union-attr]
            assert kinds[:2] == ["DequantizeLinear"] * 2, node.name
        elif node.op_type in {"LayerNormalization", "Softmax", "ReduceMean"}:
            assert "DequantizeLinear" not in kinds
    assert "head.weight" not in model.graph.initializers
    assert "dw.bias" in model.graph.initializers


def test_symmetric_is_what_tensorrt_takes(network: ir.Model, known: Calibration) -> None:
    model = quantise(network, known)
    for node in model.graph:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            zero = node.inputs[2]
            assert zero is not None and zero.const_value is not None
            assert zero.const_value.dtype == ir.DataType.INT8
            assert not zero.const_value.numpy().any()
    assert "Gemm" not in {node.op_type for node in model.graph}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_sums_see_what_was_accumulated(network: ir.Model, known: Calibration) -> None:
    graph = quantise(network, known).graph
    add = next(n for n in graph if n.outputs[0].name == "f")
    assert [str(x.name) for x in add.inputs if x is not None] == ["b", "e"]


def optimised(model: ir.Model, folder: Path, level: str = "ORT_ENABLE_ALL") -> onnx.GraphProto:
    """A graph as ONNX Runtime runs it."""
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(folder / "optimised.onnx")
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    settings.log_severity_level = 4
    data = ir.to_proto(model).SerializeToString()
    onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    return onnx.load(settings.optimized_model_filepath).graph


def test_onnx_runtime_computes_with_integers(
    network: ir.Model, known: Calibration, tmp_path: Path
) -> None:
    graph = optimised(quantise(network, known, form="unsigned"), tmp_path)
    count = Counter(node.op_type for node in graph.node)
    assert count["QLinearConv"] == 3
    assert count["MatMulIntegerToFloat"] == 2
    assert count["Clip"] == count["Conv"] == 0


@pytest.mark.parametrize("skipped", ["stem", "dw", "pw"])
def test_onnx_runtime_leaves_skipped_convolutions_alone(
    network: ir.Model, known: Calibration, tmp_path: Path, skipped: str
) -> None:
    """It rounds convolutions between Q/DQ pairs on its own, with one scale for all channels."""
    model = quantise(network, known, frozenset({skipped}), "unsigned")
    graph = optimised(model, tmp_path, "ORT_ENABLE_BASIC")
    assert f"{skipped}.weight" in {node.input[1] for node in graph.node if node.op_type == "Conv"}
    feed = photo_feeds(1, seed=9)[0]
    assert cosine(run(model, feed)["features"], run(network, feed)["features"]) > 0.999


def test_what_is_skipped_stays(network: ir.Model, known: Calibration) -> None:
    model = quantise(network, known, frozenset({"fc1", "first"}))  # a layer, and a node
    assert {"constant", "stem.weight"} <= set(model.graph.initializers)
    assert {"fc1.int8", "stem.int8"}.isdisjoint(model.graph.initializers)
    feed = photo_feeds(1)[0]
    everything = quantise(network, known, frozenset(LAYERS))
    for name, expected in run(network, feed).items():
        np.testing.assert_array_equal(run(everything, feed)[name], expected)


def test_the_original_is_left_alone(network: ir.Model, known: Calibration) -> None:
    before = ir.to_proto(network).SerializeToString(deterministic=True)
    quantise(network, known, form="unsigned")
    assert ir.to_proto(network).SerializeToString(deterministic=True) == before


def test_a_layer_without_a_range_is_refused(network: ir.Model) -> None:
    nothing = Calibration(method="minmax", photos=1, inputs={}, outputs={})
    with pytest.raises(ExportError, match="knows nothing of 5 layers"):
        quantise(network, nothing)


def test_a_broken_weight_is_refused(known: Calibration) -> None:
    model = small_network()
    tensor = model.graph.initializers["pw.weight"].const_value
    assert tensor is not None
    broken = np.full(tensor.shape.numpy(), np.inf, np.float32)
    model.graph.initializers["pw.weight"].const_value = ir.tensor(broken, name="pw.weight")
    with pytest.raises(ExportError, match="pw is not finite"):
        quantise(model, known)


def test_channels_round_to_half_a_step() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 5, 3, 3)).astype(np.float32)
    weight[3] = 0
    values, scales = round_channels(weight, axis=0)
    back = values * scales[:, None, None, None]
    assert values.dtype == np.int8 and np.abs(values).max() == 127
    assert (np.abs(back - weight) <= scales[:, None, None, None] / 2 * 1.0001).all()
    assert not back[3].any()


@pytest.mark.parametrize(
    ("span", "form", "step", "zero"),
    [
        (Range(-2, 1), "symmetric", 2 / 127, 0),
        (Range(0, 0), "symmetric", 1, 0),
        (Range(0, 6), "unsigned", 6 / 255, 0),
        (Range(-3, 6), "unsigned", 9 / 255, 85),
        (Range(2, 6), "unsigned", 6 / 255, 0),  # 0 stays representable: convolutions pad with it
        (Range(-6, -2), "unsigned", 6 / 255, 255),
        (Range(0, 0), "unsigned", 1, 0),
    ],
)
def test_scales(span: Range, form: Form, step: float, zero: int) -> None:
    scale = make_scale(span, form)
    assert scale.step == pytest.approx(step)
    assert scale.zero == zero
    assert scale.zero.dtype == (np.int8 if form == "symmetric" else np.uint8)


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_keeps_its_name_without_a_bias(form: Form) -> None:
    """A Gemm becomes a Transpose and a MatMul: its parameter still names its range."""
    weight = np.random.default_rng(5).standard_normal((24, 32), np.float32)
    nodes = [helper.make_node("Gemm", ["x", "taught.context.weight"], ["y"], "node_3", transB=1)]
    model = small_graph(
        "g", nodes, {"x": (4, 32)}, {"y": (4, 24)}, {"taught.context.weight": weight}
    )
    spans = {"taught.context": Range(-4, 4)}
    known = Calibration(method="minmax", photos=1, inputs=spans, outputs=spans)
    made = quantise(model, known, form=form)
    assert "QuantizeLinear" in {node.op_type for node in made.graph}
    feed = {"x": np.random.default_rng(6).uniform(-4, 4, (4, 32)).astype(np.float32)}
    assert cosine(run(made, feed)["y"], run(model, feed)["y"]) > 0.999
