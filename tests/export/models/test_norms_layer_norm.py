from __future__ import annotations

import pytest
import torch
from onnx_export import export_onnx, operators, run_onnx
from reference_segment_anything import randomise, relative_error
from torch import Tensor

from samclip.export.models.norms import LayerNorm2d


def written_out(x: Tensor, norm: LayerNorm2d) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + norm.eps)
    return norm.weight[:, None, None] * scaled + norm.bias[:, None, None]


@torch.no_grad()
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_equals_the_arithmetic_written_out(eps: float) -> None:
    norm = LayerNorm2d(12, eps)
    randomise(norm)
    x = 3 + 5 * torch.randn(2, 12, 5, 7)
    assert relative_error(norm(x), written_out(x, norm)) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("opset", [18, 20])
def test_exports_as_one_operator(opset: int) -> None:
    norm = LayerNorm2d(12)
    randomise(norm)
    x = torch.randn(1, 12, 5, 7)
    graph = export_onnx(norm, (x,), ["x"], ["y"], opset)
    assert operators(graph) == {"Transpose": 2, "LayerNormalization": 1}
    assert relative_error(run_onnx(graph, x=x)[0], norm(x)) < 1e-5
