import numpy as np
import onnx
import onnx_ir as ir
import pytest
import quick_rewriting
import torch
from onnxscript.rewriter.pattern import SimplePatternMatcher
from torch import nn

from samclip.errors import ExportError
from samclip.export.graph_files import externalise
from samclip.export.graphs import MAX_OPSET, MIN_OPSET, GraphSpec, export_graph
from samclip.export.models.text_tower import TextTower, TextTowerConfig
from samclip.export.options import DEFAULT_OPSET
from samclip.export.text_part import text_encoder_spec
from samclip.runtime.bundles.weights import parse_weights


class Scaled(nn.Module):
    """A linear layer, a norm, and a large constant that every variant shares."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(32, 32)
        self.norm = nn.LayerNorm(32)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(nn.functional.gelu(self.linear(x))) * self.factor + torch.arange(
            32.0
        ).repeat(32, 1).mean(0)


def _spec(factor: float = 2.0) -> GraphSpec:
    return GraphSpec("g", Scaled(factor), {"x": torch.rand(3, 32)}, ("y",), {"x": {0: "rows"}})


@pytest.mark.parametrize("opset", [MIN_OPSET, DEFAULT_OPSET, MAX_OPSET])
def test_exports_with_names_dynamic_axes_and_whole_layer_norm(opset: int) -> None:
    model = export_graph(_spec(), opset)
    assert model.opset_imports[""] == opset
    assert [str(d) for d in model.graph.inputs[0].shape or ()] == ["rows", "32"]
    assert (model.graph.inputs[0].name, model.graph.outputs[0].name) == ("x", "y")
    operators = [node.op_type for node in model.graph]
    assert operators.count("LayerNormalization") == 1


def test_no_trace_of_the_exporting_machine_is_left() -> None:
    data = ir.to_proto(export_graph(_spec())).SerializeToString()
    for trace in (b"site-packages", b".py", b"stack_trace", b"/home", b"pkg.torch"):
        assert trace not in data


@pytest.mark.parametrize("opset", [MIN_OPSET - 1, MAX_OPSET + 1])
def test_refuses_opsets_beyond_the_range(opset: int) -> None:
    with pytest.raises(ExportError, match=str(MIN_OPSET)):
        export_graph(_spec(), opset)


def test_what_torch_cannot_export_is_a_typed_error() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(ExportError, match="branchy"):
        export_graph(GraphSpec("branchy", Branches(), {"x": torch.rand(2)}, ("y",)))


def test_variants_share_one_weights_file() -> None:
    models = {"a.onnx": export_graph(_spec(2.0)), "b.onnx": export_graph(_spec(3.0))}
    expected = {
        value.const_value.nbytes: value.const_value.numpy()  # type: ignore[union-attr]
        for value in models["a.onnx"].graph.initializers.values()
        if value.const_value is not None and value.const_value.nbytes >= 1024
    }
    graphs, weights = externalise(models, "w.safetensors")
    tensors = parse_weights(weights)
    assert len(tensors) == len(expected) >= 1
    assert all(np.array_equal(tensor, expected[tensor.nbytes]) for tensor in tensors.values())
    assert len(graphs["a.onnx"]) < 10_000 < len(weights) * 10
    names = []
    for data in graphs.values():
        proto = ir.serde.deserialize_model(onnx.load_from_string(data))
        names.append({v.name for v in proto.graph.initializers.values() if v.name in tensors})
    assert names[0] == names[1] == set(tensors)


def test_equal_constants_inside_one_graph_are_stored_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.arange(400.0))
            self.b = nn.Parameter(torch.arange(400.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.a + self.b

    model = export_graph(GraphSpec("twice", Twice(), {"x": torch.rand(400)}, ("y",)))
    _, weights = externalise({"t.onnx": model}, "w.safetensors")
    assert len(parse_weights(weights)) == 1


class Named(nn.Module):
    """A parameter `part.weight` of a given value, the same name in every variant."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.part = nn.Linear(32, 32, bias=False)
        nn.init.constant_(self.part.weight, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.part.weight


def test_one_name_with_other_content_is_kept_apart() -> None:
    models = {
        f"{value}.onnx": export_graph(
            GraphSpec("named", Named(value), {"x": torch.rand(32, 32)}, ("y",))
        )
        for value in (1.0, 2.0)
    }
    graphs, weights = externalise(models, "w.safetensors")
    tensors = parse_weights(weights)
    assert sorted(float(tensor[0, 0]) for tensor in tensors.values()) == [1.0, 2.0]
    for file, data in graphs.items():
        (name,) = {i.name for i in onnx.load_from_string(data).graph.initializer} & set(tensors)
        assert float(tensors[name][0, 0]) == float(file.removesuffix(".onnx"))


def test_the_quick_rewriter_of_these_tests_changes_no_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    tower = TextTower(TextTowerConfig(32, 2, 1, 16, vocab_size=600, quick_gelu=True)).eval()
    spec = text_encoder_spec(tower)
    quick_rewriting.install()
    quick = ir.to_proto(export_graph(spec)).SerializeToString(deterministic=True)
    monkeypatch.setattr(SimplePatternMatcher, "match", quick_rewriting.MATCH)
    assert ir.to_proto(export_graph(spec)).SerializeToString(deterministic=True) == quick
