from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, cast

import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_export import export_onnx, operators, run_onnx
from reference_segment_anything import load_segment_anything, randomise, relative_error
from torch import Tensor, nn

from samclip.errors import ExportError
from samclip.export.graphs import GraphSpec, export_graph
from samclip.export.models import attention
from samclip.export.models.attention import (
    LOWERINGS,
    Lowering,
    RelPosAttention,
    distinct_lowerings,
    one_hot_places,
    relative_index,
    set_attention_lowering,
)
from samclip.export.models.text_tower import TextAttention, TextTowerConfig
from samclip.export.models.tiny_vit import WindowAttention
from samclip.runtime.assets import packaged_bundles

# Windows of SAM, non-square ones, a line, and global grids of 256, 512 and 1024 px.
SIZES = [(14, 14), (5, 9), (9, 5), (1, 7), (16, 16), (32, 32), (64, 64)]


def random_attention(size: tuple[int, int]) -> RelPosAttention:
    module = RelPosAttention(32, 2, size)
    randomise(module)
    return module


def by_definition(module: RelPosAttention, x: Tensor) -> Tensor:
    """The docstring's formula, one query and key at a time."""
    (height, width), heads = module.input_size, module.num_heads
    places = list(itertools.product(range(height), range(width)))
    q, k, v = module.qkv(x).reshape(len(places), 3, heads, -1).permute(1, 2, 0, 3)
    scores = torch.empty(heads, len(places), len(places))
    for (a, (i, j)), (b, (m, n)) in itertools.product(enumerate(places), repeat=2):
        relative = module.rel_pos_h[i - m + height - 1] + module.rel_pos_w[j - n + width - 1]
        scores[:, a, b] = (q[:, a] * k[:, b]).sum(-1) / q.shape[-1] ** 0.5 + q[:, a] @ relative
    attended = (scores.softmax(-1) @ v).transpose(0, 1).reshape(x.shape)
    return cast(Tensor, module.proj(attended))


@torch.no_grad()
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_equals_the_definition(lowering: Lowering) -> None:
    module = random_attention((3, 5))
    module.lowering = lowering
    x = torch.randn(1, 3, 5, 32)
    assert relative_error(module(x), by_definition(module, x)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_equals_segment_anything(size: tuple[int, int], mobile_sam_reference: Path) -> None:
    module = random_attention(size)
    original = load_segment_anything(mobile_sam_reference).image_encoder.Attention(
        32, 2, use_rel_pos=True, input_size=size
    )
    original.load_state_dict(module.state_dict())
    x = torch.randn(2 if size[0] < 32 else 1, *size, 32)
    expected = original(x)
    for lowering in LOWERINGS:
        set_attention_lowering(module, lowering)
        assert relative_error(module(x), expected) < 1e-5, lowering


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_chunks_cover_every_row(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = random_attention((7, 4))
    x = torch.randn(2, 7, 4, 32)
    expected = module(x)
    module.lowering = "chunk"
    monkeypatch.setattr(attention, "MAX_CHUNK_SCORES", rows * 2 * 4 * 28)
    calls: list[int] = []
    fused = nn.functional.scaled_dot_product_attention

    def spy(q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(q.shape[2])
        return fused(q, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    assert relative_error(module(x), expected) < 1e-5
    assert sum(calls) == 28
    assert max(calls) == rows * 4


def test_a_single_row_beyond_the_bound_is_still_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = random_attention((3, 4))
    module.lowering = "chunk"
    monkeypatch.setattr(attention, "MAX_CHUNK_SCORES", 1)
    assert module(torch.randn(1, 3, 4, 32)).shape == (1, 3, 4, 32)


def test_sam_takes_thirteen_chunks_or_four_wide_ones_of_the_same_height() -> None:
    layer = RelPosAttention(768, 12, (64, 64))
    assert [layer.chunks(form) for form in ("bias", "chunk", "wide")] == [1, 13, 4]
    windows = RelPosAttention(768, 12, (14, 14))
    assert windows.chunks("chunk") == windows.chunks("wide") == 1


def test_wide_is_left_out_where_it_is_the_same_graph() -> None:
    small, large = RelPosAttention(32, 2, (14, 14)), RelPosAttention(768, 12, (64, 64))
    forms: tuple[Lowering, ...] = ("chunk", "wide", "bias")
    assert distinct_lowerings(nn.Sequential(small, large), forms) == forms
    assert distinct_lowerings(small, forms) == ("chunk", "bias")
    assert distinct_lowerings(small, ("wide",)) == ("wide",)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_gradients_reach_every_parameter(lowering: Lowering) -> None:
    module = random_attention((4, 3))
    module.lowering = lowering
    module(torch.randn(1, 4, 3, 32)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_state_holds_parameters_only() -> None:
    names = {"qkv.weight", "qkv.bias", "proj.weight", "proj.bias", "rel_pos_h", "rel_pos_w"}
    assert set(RelPosAttention(32, 2, (4, 3)).state_dict()) == names


def test_set_attention_lowering() -> None:
    model = nn.Sequential(random_attention((2, 2)), nn.Sequential(random_attention((3, 3))))
    set_attention_lowering(model, "fold")
    found = [m.lowering for m in model.modules() if isinstance(m, RelPosAttention)]
    assert found == ["fold", "fold"]
    with pytest.raises(ExportError, match=r"'flash'; use bias, fold, chunk, wide, fused"):
        set_attention_lowering(model, cast(Lowering, "flash"))


def test_constants() -> None:
    assert relative_index(3).tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    assert one_hot_places(2, 3)[4].tolist() == [0, 1, 0, 1, 0]  # row 1, column 1


@torch.no_grad()
@pytest.mark.parametrize(
    ("lowering", "opset"),
    [("bias", 18), ("fold", 20), ("chunk", 20), ("wide", 20), ("fused", 23)],
)
def test_export(lowering: Lowering, opset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MAX_CHUNK_SCORES", 2 * 2 * 4 * 24)  # three chunks of two rows
    monkeypatch.setattr(attention, "MAX_WIDE_CHUNK_SCORES", 5 * 2 * 4 * 24)  # two of three
    module = random_attention((6, 4))
    module.lowering = lowering
    x = torch.randn(2, 6, 4, 32)
    graph = export_onnx(module, (x,), ["x"], ["y"], opset)
    assert relative_error(run_onnx(graph, x=x)[0], module(x)) < 1e-5
    found = operators(graph)
    pieces = {"chunk": 3, "wide": 2}.get(lowering, 1)
    assert found["Attention" if opset >= 23 else "Softmax"] == pieces
    integer_maths = {"Range", "Sub", "Div", "Cast", "Shape", "OneHot", "GatherND", "Einsum"}
    assert not integer_maths & set(found)


@pytest.mark.parametrize(
    ("kind", "lowering"),  # other attentions have one form of the three
    [
        ("vit", "bias"),
        ("vit", "fold"),
        ("vit", "chunk"),
        ("clip_text", "bias"),
        ("tiny_vit", "bias"),
    ],
)
def test_graphs_scale_queries_alone_and_have_linear_layers_of_three_axes(
    kind: str, lowering: Lowering
) -> None:
    """Some versions of TensorRT compute the other forms wrongly."""
    modules: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {
        "vit": (random_attention((7, 4)), {"x": torch.randn(1, 7, 4, 32)}),
        "clip_text": (
            TextAttention(TextTowerConfig(width=32, heads=2, layers=1, embed_dim=16)),
            {"x": torch.randn(2, 77, 32), "mask": torch.zeros(77, 77)},
        ),
        "tiny_vit": (WindowAttention(32, 2, 3), {"x": torch.randn(4, 9, 32)}),
    }
    module, inputs = modules[kind]
    set_attention_lowering(module, lowering)
    model = ir.to_proto(export_graph(GraphSpec("g", module, inputs, ("y",), {})))
    graph = onnx.shape_inference.infer_shapes(model).graph
    shaped = (*graph.value_info, *graph.input)
    ranks = {info.name: len(info.type.tensor_type.shape.dim) for info in shaped}
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    linear = [ranks[node.input[0]] for node in products if node.input[1] in matrices]
    assert linear == [3, 3]
    assert check_keys(graph) >= 1


@pytest.mark.parametrize(("name", "blocks"), [("encoder", 10), ("text_encoder", 6)])
def test_the_packaged_graphs_scale_queries_alone(name: str, blocks: int) -> None:
    model = onnx.load(
        packaged_bundles() / "samclip-tiny" / f"{name}.onnx", load_external_data=False
    )
    assert check_keys(model.graph) >= blocks


def check_keys(graph: onnx.GraphProto) -> int:
    """Check that no keys are scaled, and count the softmaxes over products with keys."""
    maker = {name: node for node in graph.node for name in node.output}
    count = 0
    for node in graph.node:
        if node.op_type != "Softmax":
            continue
        while node is not None and node.op_type != "MatMul":
            node = maker.get(node.input[0])  # noqa: PLW2901 - the product of queries and keys
        if node is None:
            continue
        keys = node.input[1]
        while keys in maker and maker[keys].op_type in {"Transpose", "Reshape", "Concat"}:
            keys = maker[keys].input[0]
        if keys in maker and any(name.endswith("_scale") for name in maker[keys].input):
            continue  # a table that is stored in INT8: no keys, but names
        assert keys not in maker or maker[keys].op_type != "Mul"
        count += 1
    return count
