"""Graphs in strips against the same graphs whole, on ONNX Runtime."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export import strips
from samclip.export.graphs import GraphSpec, export_graph
from samclip.export.models.efficientnet_lite import LITE0, EfficientNetLite, LiteFeatures
from samclip.export.models.norms import fold_batch_norms
from samclip.export.models.stitched_encoder import Stitch
from samclip.export.models.tiny_vit import MBConv, PatchMerging, TinyVitMlp

TOLERANCE = 2e-6  # of the largest magnitude: convolutions of other heights sum in another order


class Tokens(nn.Module):
    """Maps of a recogniser, stitched, then a perceptron on tokens: all kinds of regions."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = fold_batch_norms(EfficientNetLite(LITE0))
        self.stitch = Stitch(LITE0.channels, 32, 64)
        nn.init.normal_(self.stitch.project.weight)
        self.mlp = TinyVitMlp(32, 128)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features: LiteFeatures = self.backbone(image)
        x = self.stitch(features).permute(0, 2, 3, 1)
        return x + self.mlp(x), features.stride32


class Gated(nn.Module):
    """A gate that depends on the whole map: what reads it cannot be in the map's own region."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 48, 5, padding=2)
        self.block = MBConv(48, 2.0)
        self.merge = PatchMerging(48, 16, 2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        wide = F.relu(self.wide(image))
        gate = wide.mean(dim=(2, 3), keepdim=True)
        gated = wide * torch.sigmoid(gate)
        return self.merge(self.block(gated)), wide[:, :4]


@pytest.mark.parametrize(
    ("module", "height", "width", "large", "least"),
    [
        (Tokens, 128, 96, 2**16, 8),
        (Tokens, 160, 64, 2**17, 3),
        (Gated, 97, 64, 2**17, 1),  # an odd number of rows
        (Gated, 40, 33, 2**16, 1),
    ],
)
def test_strips_compute_the_same(
    module: type[nn.Module],
    height: int,
    width: int,
    large: int,
    least: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strips, "LARGE", large)
    monkeypatch.setattr(strips, "STRIP", large // 4)
    monkeypatch.setattr(strips, "MAX_EXTRA", 0.6)  # the maps here are small
    torch.manual_seed(height)
    model = _exported(module().eval(), height, width)
    whole, kinds = _bytes_of(model), _kinds(model)
    largest = _largest(model)
    assert strips.compute_in_strips(model) >= least
    assert _largest(model) < largest
    image = np.random.default_rng(0).standard_normal((1, 3, height, width), np.float32)
    for ours, expected in zip(_run(_bytes_of(model), image), _run(whole, image), strict=True):
        assert ours.shape == expected.shape
        assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()
    again = ir.from_proto(onnx.load_model_from_string(_bytes_of(model)))
    strips.compute_whole(again)
    assert _kinds(again) == kinds
    for ours, expected in zip(_run(_bytes_of(again), image), _run(whole, image), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_a_graph_of_small_maps_is_left_alone() -> None:
    model = _exported(Gated().eval(), 64, 64)
    nodes = len(list(model.graph))
    assert strips.compute_in_strips(model) == 0
    assert len(list(model.graph)) == nodes


def test_seams_that_cost_too_much_get_fewer_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of few rows would compute most rows of a 5x5 chain twice."""
    monkeypatch.setattr(strips, "LARGE", 2**14)
    monkeypatch.setattr(strips, "STRIP", 2**8)
    chain = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 8, 8, 5, padding=2) for i in range(4)))
    model = _exported(nn.Sequential(chain, nn.Conv2d(8, 1, 3, stride=2)).eval(), 64, 64, outputs=1)
    before = len(list(model.graph))
    strips.compute_in_strips(model)
    assert len(list(model.graph)) <= 3 * before


def _exported(module: nn.Module, height: int, width: int, outputs: int = 2) -> ir.Model:
    image = {"image": torch.zeros(1, 3, height, width)}
    return export_graph(GraphSpec("g", module, image, ("first", "second")[:outputs]))


def _bytes_of(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString())


def _run(data: bytes, image: np.ndarray) -> list[np.ndarray]:
    return list(onnxruntime.InferenceSession(data).run(None, {"image": image}))


def _kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def _largest(model: ir.Model) -> int:
    """Return the bytes of the largest value that is neither an input nor joined from strips."""
    return max(
        int(np.prod(value.shape.numpy())) * 4
        for node in model.graph
        for value in node.outputs
        if value.shape is not None and node.op_type not in {"Concat", "Resize"}
    )
