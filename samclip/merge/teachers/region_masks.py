"""The regions of a picture: what a mask teacher finds from a grid of points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samclip.errors import InputError
from samclip.merge.losses import MULTIMASK
from samclip.merge.pixels import PixelBatch
from samclip.merge.prompts import point_prompts
from samclip.merge.teachers.base import MaskTeacher


@dataclass(frozen=True)
class RegionOptions:
    """Which masks are kept: SAM's automatic masks in small, without its crops and stability test.

    A grid of `points_per_side` squared points asks for masks. Those of a predicted IoU of
    `least_iou` and an area between `least_area` and `most_area` of the picture stay, the best
    first; one whose IoU with a better mask is above `overlap` goes, and beyond `most` the rest go.
    Raises InputError for numbers out of range.
    """

    points_per_side: int = 8
    least_iou: float = 0.8
    least_area: float = 0.001
    most_area: float = 0.6
    overlap: float = 0.7
    most: int = 24

    def __post_init__(self) -> None:
        if self.points_per_side < 1 or self.most < 1:
            raise InputError(f"{self}: points_per_side and most must be at least 1")
        if not 0 <= self.least_area < self.most_area <= 1:
            raise InputError(f"{self}: areas are shares of the picture, the least below the most")
        if not 0 < self.overlap <= 1:
            raise InputError(f"{self}: overlap is an IoU above 0 and at most 1")


@dataclass(frozen=True)
class Regions:
    """K masks over the whole square, KxHxW bool, with H = W = 4G, and their predicted IoU, K."""

    masks: Tensor
    iou: Tensor

    def __len__(self) -> int:
        return len(self.masks)


def find_regions(
    teacher: MaskTeacher, picture: PixelBatch, embeddings: Tensor, options: RegionOptions
) -> Regions:
    """Find the regions of ONE picture, whose embeddings are 1x256xGxG, the best first.

    There may be none. Raises InputError for a batch of several pictures.
    """
    if len(picture) != 1:
        raise InputError(f"regions of {len(picture)} pictures were asked for; give one at a time")
    sizes = picture.sizes[0].to(embeddings.device, torch.float32)
    size = sizes * (teacher.image_size / picture.size)  # (h, w) in pixels of the teacher's square
    points = grid_points(options.points_per_side) * size.flip(0)
    answer = teacher.masks(embeddings, point_prompts(points))
    multi = list(MULTIMASK)
    logits, iou = answer.logits[:, multi].flatten(0, 1), answer.iou[:, multi].flatten()  # 3N each
    inside = picture.token_mask(logits.shape[-1])[0].to(embeddings.device) > 0  # HxW
    return _chosen((logits > 0) & inside, iou, int(inside.sum()), options)


def grid_points(per_side: int) -> Tensor:
    """Spread n x n points evenly over the unit square, row by row: n*n x 2 float32, (x, y)."""
    places = (torch.arange(per_side) + 0.5) / per_side
    y, x = torch.meshgrid(places, places, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)  # n, n, 2 -> n*n x 2


def mask_iou(masks: Tensor) -> Tensor:
    """Compute the IoU of each of K masks, KxHxW bool, with each: KxK float32; 0 between empty ones.

    Exact: areas are whole numbers far below 2**24.
    """
    flat = masks.flatten(1).float()
    shared = flat @ flat.T  # KxHW @ HWxK
    area = flat.sum(dim=1)
    union = area[:, None] + area[None, :] - shared
    return shared / union.clamp(min=1)


def _chosen(masks: Tensor, iou: Tensor, pixels: int, options: RegionOptions) -> Regions:
    """Filter candidates and drop the duplicates; `pixels` is the picture's area in the masks."""
    area = masks.flatten(1).sum(dim=1) / pixels
    fits = (iou >= options.least_iou) & (area >= options.least_area) & (area <= options.most_area)
    masks, iou = masks[fits], iou[fits]
    order = iou.argsort(descending=True, stable=True)
    masks, iou = masks[order], iou[order]
    kept = _without_duplicates(mask_iou(masks).cpu(), options)
    return Regions(masks[kept], iou[kept])


def _without_duplicates(overlaps: Tensor, options: RegionOptions) -> list[int]:
    """Go through KxK overlaps, the best mask first, and keep what overlaps no kept one too much."""
    kept: list[int] = []
    for index, row in enumerate(overlaps):
        if len(kept) < options.most and not bool((row[kept] > options.overlap).any()):
            kept.append(index)
    return kept
