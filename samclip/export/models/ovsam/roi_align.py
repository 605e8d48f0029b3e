"""RoIAlign: a fixed grid of averages inside each box, differentiable, and as ONNX's operator.

Mask R-CNN (He et al., 2017), section 3, in the half-pixel form ("aligned") of detectron2, mmcv and
ONNX's `RoiAlign` from opset 16 on: the point (x, y) of a map lies at the centre of a cell when both
are integers, a box's corner c lies at c * scale - 0.5. Each bin of the grid is averaged over
ceil(bin) x ceil(bin) points, each interpolated between four cells. Points up to one cell outside
the map take its border; points farther out count as 0, and so does a box without area.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALF_CELL = 0.5


def roi_align(feature: Tensor, boxes: Tensor, size: int, scale: float) -> Tensor:
    """Average N boxes of one image's map in grids of `size` x `size`: NxCxPxP.

    `feature` is 1xCxHxW; `boxes` Nx4 (x0, y0, x1, y1) in pixels, x0 <= x1 and y0 <= y1; `scale`
    makes cells of pixels, 1 / stride. While a graph is exported this is ONNX's `RoiAlign`.
    """
    if torch.compiler.is_exporting():
        return _operator(feature, boxes, size, scale)
    height, width = feature.shape[-2:]
    corners = boxes.detach().float() * scale - HALF_CELL  # Nx4, in cells
    rows = axis_weights(corners[:, 1], corners[:, 3], size, height).to(feature.dtype)  # NxPxH
    columns = axis_weights(corners[:, 0], corners[:, 2], size, width).to(feature.dtype)  # NxPxW
    # Interpolation and mean act on each axis alone, so two products do all of it.
    inside = torch.einsum("nph,chw->ncpw", rows, feature[0])
    return inside @ columns.mT.unsqueeze(1)  # NxCxPxP


def axis_weights(start: Tensor, end: Tensor, bins: int, cells: int) -> Tensor:
    """Say how much of each cell of an axis enters each bin between `start` and `end`: NxPxH.

    `start` and `end` are N float, in cells, an integer being a cell's centre.
    """
    step = (end - start) / bins  # N, a bin
    points = step.ceil().clamp(min=0)  # N, in each bin
    place = torch.arange(cells, device=start.device).to(start)
    first = torch.arange(bins, device=start.device).to(start) * step[:, None] + start[:, None]
    weights = start.new_zeros(len(start), bins, cells)
    for point in range(int(points.max()) if len(points) else 0):
        offset = (point + 0.5) * step / points.clamp(min=1)  # N
        position = (first + offset[:, None]).unsqueeze(-1)  # NxPx1
        counts = (point < points)[:, None, None] & (position >= -1) & (position <= cells)
        near = 1 - (position.clamp(0, cells - 1) - place).abs()  # NxPxH, of 1 at the cell's centre
        weights = weights + torch.where(counts, near.clamp(min=0), 0.0)
    return weights / points.clamp(min=1)[:, None, None]


def _operator(feature: Tensor, boxes: Tensor, size: int, scale: float) -> Tensor:
    """Put ONNX's operator into the graph that is being exported.

    Backends differ on boxes without area, where nothing is to be averaged (OpenVINO: NaN), so they
    are shown a box of one cell instead, and what they say of it is not used.
    """
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # N
    cell = boxes.new_tensor([0.0, 0.0, 1 / scale, 1 / scale])
    image = torch.zeros_like(boxes[:, 0], dtype=torch.int64)  # N, each box's place in the batch
    found = torch.onnx.ops.symbolic(
        "RoiAlign",
        (feature, torch.where(has_area[:, None], boxes, cell), image),
        {
            "coordinate_transformation_mode": "half_pixel",
            "mode": "avg",
            "output_height": size,
            "output_width": size,
            "sampling_ratio": 0,
            "spatial_scale": scale,
        },
        dtype=feature.dtype,
        shape=(boxes.shape[0], feature.shape[1], size, size),
    )
    return torch.where(has_area[:, None, None, None], found, torch.zeros_like(found))
