from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_export import operators, run_onnx
from reference_roi_align import reference_roi_align
from torch import Tensor, nn

from samclip.export.graphs import GraphSpec, export_graph
from samclip.export.models.ovsam.roi_classifier import axis_weights, roi_align

SIZE = 12
SIDE = 256  # of the image, pixels

# In pixels of an image of 256 x 256.
CASES = {
    "inside": [[20.0, 30.0, 120.0, 90.0], [3.3, 200.1, 77.7, 251.9]],
    "the whole image": [[0.0, 0.0, 256.0, 256.0]],
    "partly outside": [[-40.0, -9.0, 60.0, 70.0], [200.0, 180.0, 300.0, 290.0]],
    "on both sides": [[-100.0, 100.0, 400.0, 130.0]],
    "outside": [[300.0, 300.0, 400.0, 380.0], [-90.0, -90.0, -50.0, -40.0]],
    "one pixel": [[100.0, 100.0, 101.0, 101.0]],
    "a sliver": [[10.0, 50.0, 250.0, 50.5]],
    "a corner": [[255.0, 255.0, 256.0, 256.0]],
    "without area": [[40.0, 40.0, 40.0, 90.0], [128.0, 128.0, 128.0, 128.0]],
}


class Aligned(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, feature: Tensor, boxes: Tensor) -> Tensor:
        return roi_align(feature, boxes, SIZE, self.scale)


def feature(stride: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(stride)
    return torch.randn(1, channels, SIDE // stride, SIDE // stride, generator=generator)


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * 1.3 * SIDE - 0.15 * SIDE
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def expected(maps: Tensor, boxes: Tensor, stride: int) -> Tensor:
    found = reference_roi_align(maps[0].numpy(), boxes.numpy(), SIZE, 1 / stride)
    return torch.from_numpy(found)


def worst(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found.double() - wanted).abs().max())


@pytest.fixture(scope="module")
def graphs() -> dict[int, bytes]:
    """The module exported at two strides."""
    return {stride: exported(stride, opset=20) for stride in (8, 32)}


def exported(stride: int, opset: int) -> bytes:
    inputs = {"feature": feature(stride), "boxes": random_boxes(2, seed=0)}
    spec = GraphSpec(
        "roi_align", Aligned(1 / stride), inputs, ("regions",), {"boxes": {0: "regions"}}
    )
    data: bytes = ir.to_proto(export_graph(spec, opset)).SerializeToString()
    return data


@torch.no_grad()
@pytest.mark.parametrize("stride", [8, 32])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case: str, stride: int, graphs: dict[int, bytes]) -> None:
    maps, boxes = feature(stride), torch.tensor(CASES[case])
    wanted = expected(maps, boxes, stride)
    assert worst(roi_align(maps, boxes, SIZE, 1 / stride), wanted) < 1e-5  # features of size 1
    (found,) = run_onnx(graphs[stride], feature=maps, boxes=boxes)
    assert worst(found, wanted) < 2e-5  # ONNX Runtime places its points in float32


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 40])
def test_any_number_of_boxes(count: int, graphs: dict[int, bytes]) -> None:
    maps, boxes = feature(32), random_boxes(count, seed=count)
    wanted = expected(maps, boxes, 32)
    assert worst(roi_align(maps, boxes, SIZE, 1 / 32), wanted) < 1e-5
    (found,) = run_onnx(graphs[32], feature=maps, boxes=boxes)
    assert worst(found, wanted) < 2e-5


@torch.no_grad()
def test_no_boxes(graphs: dict[int, bytes]) -> None:
    maps, boxes = feature(8), torch.zeros(0, 4)
    assert roi_align(maps, boxes, SIZE, 1 / 8).shape == (0, 3, SIZE, SIZE)
    (found,) = run_onnx(graphs[8], feature=maps, boxes=boxes)
    assert found.shape == (0, 3, SIZE, SIZE)


@pytest.mark.parametrize("opset", [18, 21])
def test_the_operator_is_onnx_own(opset: int) -> None:
    graph = exported(32, opset)
    assert operators(graph)["RoiAlign"] == 1
    (node,) = [n for n in ir.from_proto(_proto(graph)).graph if n.op_type == "RoiAlign"]
    assert node.domain == ""
    shown = node.inputs[1].producer()
    assert shown is not None
    assert shown.op_type == "Where"  # backends never see a box without area
    assert node.attributes["coordinate_transformation_mode"].as_string() == "half_pixel"
    assert (
        node.attributes["output_height"].as_int(),
        node.attributes["sampling_ratio"].as_int(),
    ) == (
        SIZE,
        0,
    )


def _proto(graph: bytes) -> object:
    import onnx

    return onnx.load_from_string(graph)


@torch.no_grad()
def test_the_mean_of_a_plane_is_its_middle() -> None:
    """Interpolation keeps a slope, so each bin's average is the value at the bin's centre."""
    maps = torch.arange(32.0).expand(1, 1, 32, 32)  # x
    found = roi_align(maps, torch.tensor([[40.0, 40.0, 136.0, 88.0]]), SIZE, 1 / 8)
    centres = 5 - 0.5 + (torch.arange(SIZE) + 0.5)  # 40 / 8, half a cell less, a cell a bin
    assert np.allclose(found[0, 0], centres.expand(SIZE, SIZE), atol=1e-5)


@torch.no_grad()
def test_weights_of_a_bin_inside_sum_to_one() -> None:
    weights = axis_weights(torch.tensor([2.2]), torch.tensor([29.7]), SIZE, 32)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(1, SIZE), atol=1e-6)


def test_gradients_reach_the_cells_inside_only() -> None:
    maps = feature(8).requires_grad_()
    roi_align(maps, torch.tensor([[64.0, 64.0, 128.0, 128.0]]), SIZE, 1 / 8).sum().backward()
    assert maps.grad is not None
    touched = (maps.grad[0, 0] != 0).nonzero()
    assert (int(touched.min()), int(touched.max())) == (7, 16)  # cells 8 to 15, and neighbours
    assert float(maps.grad.sum()) == pytest.approx(3 * SIZE**2, rel=1e-4)
