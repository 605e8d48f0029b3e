"""MobileSAM's original predictor and mask generator, with what they take of torchvision stubbed.

The stubs follow torchvision's definitions: `resize` of a PIL image, `box_area`, and `batched_nms`
for boxes of one category.
"""

from __future__ import annotations

import importlib
import types
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from reference_mobile_sam import PACKAGE, load_reference, stubbed
from torch import Tensor


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Suppress as torchvision's CPU kernel does, box by box."""
    assert not idxs.any(), "one category only"
    x0, y0, x1, y1 = boxes.unbind(1)
    areas = (x1 - x0) * (y1 - y0)
    order = scores.sort(stable=True, descending=True).indices.tolist()
    keep: list[int] = []
    while order:
        best, order = order[0], order[1:]
        keep.append(best)
        width = (torch.minimum(x1[best], x1[order]) - torch.maximum(x0[best], x0[order])).clamp(0)
        height = (torch.minimum(y1[best], y1[order]) - torch.maximum(y0[best], y0[order])).clamp(0)
        inter = width * height
        over = inter / (areas[best] + areas[order] - inter) > iou_threshold
        order = [index for index, drop in zip(order, over.tolist(), strict=True) if not drop]
    return torch.tensor(keep, dtype=torch.long)


def torchvision_stubs() -> dict[str, types.ModuleType]:
    names = (
        "torchvision",
        "torchvision.ops",
        "torchvision.ops.boxes",
        "torchvision.transforms",
        "torchvision.transforms.functional",
    )
    stubs = {name: types.ModuleType(name) for name in names}
    boxes: Any = stubs["torchvision.ops.boxes"]
    boxes.batched_nms = batched_nms
    boxes.box_area = lambda b: (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    functional: Any = stubs["torchvision.transforms.functional"]
    functional.to_pil_image = Image.fromarray
    functional.resize = lambda image, size: image.resize(
        (size[1], size[0]), Image.Resampling.BILINEAR
    )
    return stubs


@cache
def load_generator(segment_any: Path) -> types.SimpleNamespace:
    """Import the originals: `.SamPredictor`, `.SamAutomaticMaskGenerator`."""
    load_reference(segment_any)
    with stubbed(torchvision_stubs()):
        predictor = importlib.import_module(f"{PACKAGE}.predictor")
        generator = importlib.import_module(f"{PACKAGE}.automatic_mask_generator")
    return types.SimpleNamespace(
        SamPredictor=predictor.SamPredictor,
        SamAutomaticMaskGenerator=generator.SamAutomaticMaskGenerator,
    )
