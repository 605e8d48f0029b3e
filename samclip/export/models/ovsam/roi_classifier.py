"""CLIP2SAM's head: names for boxes, from the feature pyramid.

Open-Vocabulary SAM (Yuan et al., 2024), "CLIP2SAM"; repository HarborYuan/ovsam,
`seg/models/heads/ovsam_head.py`. A box is read from one level of the pyramid by RoIAlign, and its
embedding is compared with those of texts.

The level. Feature Pyramid Networks (Lin et al., 2017), equation 1, in the form of mmdet's
`SingleRoIExtractor`: a box of area a belongs to level floor(log2(sqrt(a) / 56 + 1e-6)), clipped to
the levels that exist. The released code calls it four-level RoIAlign, but reads each box from one
level.

RoIAlign. Mask R-CNN (He et al., 2017), section 3, in the half-pixel form ("aligned") of detectron2,
mmcv and ONNX's `RoiAlign` from opset 16 on: the point (x, y) of a map lies at the centre of a cell
when both are integers, a box's corner c lies at c * scale - 0.5. Each bin of the grid is averaged
over ceil(bin) x ceil(bin) points, each interpolated between four cells. Points up to one cell
outside the map take its border; points farther out count as 0, and so does a box without area.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)
REGION_SIZE = 12  # cells along a side of a region
FINEST_SCALE = 56  # pixels: boxes of a side below twice this belong to level 0
MARGIN = 1e-6
HALF_CELL = 0.5
# The end of CLIP's training, as the released code writes it down: exp of four decimals, 100.0017.
LOGIT_SCALE = math.exp(4.6052)


class Levels(NamedTuple):
    """Feature maps BxCxS/sxS/s at the strides s of `STRIDES`, S being the image's side."""

    stride4: Tensor
    stride8: Tensor
    stride16: Tensor
    stride32: Tensor


class RoiClassifier(nn.Module):
    """Boxes to logits for any texts.

    After the convolution comes a ReLU, which the paper does not mention: the released code uses
    mmcv's `ConvModule`, which has one by default. The paper adds the decoder's label token to the
    region's vector; the released code multiplies the token by 0 first, so that names come from the
    box alone, whatever the mask. This module follows the code.
    """

    def __init__(self, channels: int, embed_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, embed_dim, kernel_size=1, bias=False)

    def forward(
        self,
        fpn_4: Tensor,
        fpn_8: Tensor,
        fpn_16: Tensor,
        fpn_32: Tensor,
        boxes: Tensor,
        text: Tensor,
    ) -> Tensor:
        """Score N `boxes` of one image against K texts: NxK logits.

        `fpn_<stride>` is 1xCxS/stridexS/stride, of `Fpn`; `boxes` Nx4 float (x0, y0, x1, y1) in
        pixels of the input frame; `text` KxD, rows of unit length.
        """
        return text_logits(self.embed(Levels(fpn_4, fpn_8, fpn_16, fpn_32), boxes), text)

    def embed(self, levels: Levels, boxes: Tensor) -> Tensor:
        """Embed N boxes of one image in the text space, NxD, not normalised."""
        features = region_features(levels, boxes, REGION_SIZE)
        return F.relu(self.conv(features)).mean(dim=(-2, -1))


def level_of(boxes: Tensor) -> Tensor:
    """Return the level, 0 to 3, of Nx4 boxes in pixels: N int64.

    The logarithm is replaced by thresholds on the area in units of 56 x 56 pixels, which half
    precision can hold, unlike the area in pixels.
    """
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = (width / FINEST_SCALE) * (height / FINEST_SCALE)
    levels = torch.zeros_like(area, dtype=torch.int64)
    for level in range(1, len(STRIDES)):
        levels = levels + (area >= (2**level - MARGIN) ** 2).to(torch.int64)
    return levels


def region_features(levels: Levels, boxes: Tensor, size: int) -> Tensor:
    """Read N boxes, Nx4 in pixels, from their levels of one image, in grids: NxCxPxP.

    A graph cannot drop boxes level by level, so every box is read from every level, but without
    area where it does not belong: there it counts as 0 and costs next to nothing, whereas a large
    box would be sampled densely on the finest map.
    """
    own = level_of(boxes).unsqueeze(1)  # Nx1
    parts = []
    for index, (level, stride) in enumerate(zip(levels, STRIDES, strict=True)):
        asked = torch.where(own == index, boxes, torch.zeros_like(boxes))
        parts.append(roi_align(level, asked, size, 1 / stride))
    return functools.reduce(torch.add, parts)


def roi_align(feature: Tensor, boxes: Tensor, size: int, scale: float) -> Tensor:
    """Average N boxes of one image's map in grids of `size` x `size`: NxCxPxP.

    `feature` is 1xCxHxW; `boxes` Nx4 (x0, y0, x1, y1) in pixels, x0 <= x1 and y0 <= y1; `scale` is
    that of cells to pixels, 1 / stride. While a graph is exported this is ONNX's `RoiAlign`.
    """
    if torch.compiler.is_exporting():
        return _export_roi_align(feature, boxes, size, scale)
    height, width = feature.shape[-2:]
    corners = boxes.detach().float() * scale - HALF_CELL  # Nx4, in cells
    rows = axis_weights(corners[:, 1], corners[:, 3], size, height).to(feature.dtype)  # NxPxH
    columns = axis_weights(corners[:, 0], corners[:, 2], size, width).to(feature.dtype)  # NxPxW
    # Interpolation and mean act on each axis alone, so two products do all of it.
    inside = torch.einsum("nph,chw->ncpw", rows, feature[0])
    return inside @ columns.mT.unsqueeze(1)  # NxCxPxP


def axis_weights(start: Tensor, end: Tensor, bins: int, cells: int) -> Tensor:
    """Return the weight of each cell of an axis in each bin between `start` and `end`: NxPxH.

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


def _export_roi_align(feature: Tensor, boxes: Tensor, size: int, scale: float) -> Tensor:
    """Put ONNX's operator into the graph that is being exported.

    Backends differ on boxes without area, where there is nothing to average (OpenVINO: NaN), so
    they get a box of one cell instead, and its result is replaced by zeros.
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


def text_logits(embeddings: Tensor, text: Tensor) -> Tensor:
    """Score N embeddings, NxD, against K unit rows `text`, KxD: NxK, scaled cosines.

    The background class has no row: its text is the zero vector, so its logit is 0 for any region;
    `samclip.runtime.tasks.region_naming` adds it. Each synonym has a row, and the host takes the
    best.
    """
    return LOGIT_SCALE * (F.normalize(embeddings, dim=-1) @ text.mT)
