"""Region targets: the regions that a mask teacher finds in a picture, named by a name teacher.

The embedding of a whole photo says little about its parts; masks and crops add some twenty targets.
The mask teacher finds the regions from a grid of points. The name teacher sees each region with
some of its surroundings, at several margins, as open-vocabulary detectors crop their proposals (Gu
et al. 2022, "ViLD", section 3.2: 1x and 1.5x the box).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samclip.errors import InputError
from samclip.merge.data.mask_prompts import point_prompts
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.teachers.base import (
    MULTIMASK,
    ClassTeacher,
    MaskTeacher,
    NameTeacher,
    fingerprint_of,
)

VERSION = 1  # of the recipe, part of the fingerprint
MARGINS = (1.1, 1.5)
NARROWEST = 0.75  # the short side of a crop as a share of the long one, where the picture allows
CROPS_AT_ONCE = 8


@dataclass(frozen=True)
class RegionOptions:
    """The choice of masks: SAM's automatic masks, without its crops and stability test.

    The prompts are a grid of `points_per_side` squared points. Masks with a predicted IoU of at
    least `least_iou` and an area between the shares `least_area` and `most_area` of the picture are
    candidates. The best come first; a mask whose IoU with a better one is above `overlap` is
    dropped, and at most `most` are kept. Raises InputError for numbers out of range.
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
class RegionMasks:
    """K masks over the whole square, KxHxW bool, with H = W = 4G, and their predicted IoU, K."""

    masks: Tensor
    iou: Tensor

    def __len__(self) -> int:
        return len(self.masks)


def find_regions(
    teacher: MaskTeacher, picture: PixelBatch, embeddings: Tensor, options: RegionOptions
) -> RegionMasks:
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
    masks = (logits > 0) & inside
    area = masks.flatten(1).sum(dim=1) / int(inside.sum())
    fits = (iou >= options.least_iou) & (area >= options.least_area) & (area <= options.most_area)
    masks, iou = masks[fits], iou[fits]
    order = iou.argsort(descending=True, stable=True)
    masks, iou = masks[order], iou[order]
    kept: list[int] = []
    for index, overlaps in enumerate(mask_iou(masks).cpu()):
        if len(kept) < options.most and not bool((overlaps[kept] > options.overlap).any()):
            kept.append(index)
    return RegionMasks(masks[kept], iou[kept])


def grid_points(per_side: int) -> Tensor:
    """Spread n x n points evenly over the unit square, row by row: n*n x 2 float32, (x, y)."""
    places = (torch.arange(per_side) + 0.5) / per_side
    y, x = torch.meshgrid(places, places, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)  # n, n, 2 -> n*n x 2


def mask_iou(masks: Tensor) -> Tensor:
    """Compute the IoU of all pairs of K masks, KxHxW bool: KxK float32; 0 between empty masks.

    Exact: areas are whole numbers far below 2**24.
    """
    flat = masks.flatten(1).float()
    shared = flat @ flat.T  # KxHW @ HWxK
    area = flat.sum(dim=1)
    union = area[:, None] + area[None, :] - shared
    return shared / union.clamp(min=1)


@dataclass(frozen=True)
class RegionTargets:
    """K regions of a picture, the best mask first; K may be 0.

    `masks`: KxHxW bool over the whole square, H = W = 4G. `targets`: KxD float32 of unit length.
    `weights`: K float32 in [0, 1], the mask's predicted IoU times how well the crops agree (the
    length of the mean of their unit embeddings). `probabilities`: KxC float32, the mean over the
    crops, where the name teacher has classes.
    """

    masks: Tensor
    targets: Tensor
    weights: Tensor
    probabilities: Tensor | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to store; masks are packed, eight pixels a byte."""
        bits = np.packbits(self.masks.cpu().numpy(), axis=-1)  # KxHx(W/8)
        stored = {
            "masks": torch.from_numpy(bits),
            "width": torch.tensor(self.masks.shape[-1]),
            "targets": self.targets,
            "weights": self.weights,
        }
        if self.probabilities is not None:
            stored["probabilities"] = self.probabilities
        return stored

    @classmethod
    def from_tensors(cls, stored: Mapping[str, Tensor]) -> RegionTargets:
        """Restore region targets from the result of `tensors`."""
        width = int(stored["width"])
        masks = np.unpackbits(stored["masks"].numpy(), axis=-1, count=width)
        return cls(
            torch.from_numpy(masks).bool(),
            stored["targets"],
            stored["weights"],
            stored.get("probabilities"),
        )

    def to(self, device: torch.device | str) -> RegionTargets:
        """Move the tensors to a device."""
        return RegionTargets(
            self.masks.to(device),
            self.targets.to(device),
            self.weights.to(device),
            None if self.probabilities is None else self.probabilities.to(device),
        )


class RegionTeacher:
    """A mask teacher and a name teacher together.

    `margins`: for each crop of a region, its sides as multiples of the box's. Raises InputError for
    no margins, and for one below 1.
    """

    def __init__(
        self,
        masks: MaskTeacher,
        names: NameTeacher,
        options: RegionOptions | None = None,
        margins: tuple[float, ...] = MARGINS,
        crops_at_once: int = CROPS_AT_ONCE,
    ) -> None:
        if not margins or min(margins) < 1:
            raise InputError(f"margins are {margins}; expected one or more, each at least 1")
        self._masks = masks
        self._names = names
        self._options = options or RegionOptions()
        self._margins = margins
        self._crops_at_once = crops_at_once
        self._fingerprint = fingerprint_of(
            "regions", VERSION, masks.fingerprint, names.fingerprint, asdict(self._options), margins
        )

    @property
    def fingerprint(self) -> str:
        """A digest of both teachers and the options, lowercase hexadecimal."""
        return self._fingerprint

    def targets(self, picture: PixelBatch, embeddings: Tensor | None = None) -> RegionTargets:
        """Find the regions of ONE picture and name them.

        `embeddings`: 1x256xGxG, the mask teacher's for this picture; None computes them. Raises
        InputError for a batch of several pictures.
        """
        if embeddings is None:
            embeddings = self._masks.encode(picture)
        regions = find_regions(self._masks, picture, embeddings, self._options)
        if len(regions) == 0:
            empty = regions.iou.new_zeros(0)
            return RegionTargets(regions.masks, empty.reshape(0, self._names.embed_dim), empty)
        return self._name_regions(regions, self._crops(picture, regions))

    def _crops(self, picture: PixelBatch, regions: RegionMasks) -> list[Tensor]:
        """Cut out every region at every margin: K x margins crops, 3xhxw, region by region."""
        whole = picture.picture(0)
        stride = picture.size / regions.masks.shape[-1]
        crops = []
        for mask in regions.masks.cpu():
            box = [edge * stride for edge in mask_edges(mask)]
            for margin in self._margins:
                x0, y0, x1, y1 = crop_box(box, margin, (whole.shape[1], whole.shape[2]))
                crops.append(whole[:, y0:y1, x0:x1])
        return crops

    def _name_regions(self, regions: RegionMasks, crops: list[Tensor]) -> RegionTargets:
        per_crop = len(regions), len(self._margins), -1
        chunks = [
            PixelBatch.of(crops[start : start + self._crops_at_once])
            for start in range(0, len(crops), self._crops_at_once)
        ]
        probabilities = None
        if isinstance(self._names, ClassTeacher):
            logits = torch.cat([self._names.class_logits(chunk) for chunk in chunks])
            each = self._names.class_probabilities(logits)
            embeds = self._names.embed_classes(each).reshape(per_crop)  # KxMxD
            probabilities = each.reshape(per_crop).mean(dim=1)  # KxMxC -> KxC
            targets = self._names.embed_classes(probabilities)
        else:
            embeds = torch.cat([self._names.embed(chunk) for chunk in chunks]).reshape(per_crop)
            targets = F.normalize(embeds.mean(dim=1), dim=1)
        agreement = embeds.mean(dim=1).norm(dim=1)  # K
        weights = regions.iou.to(agreement.device).clamp(0, 1) * agreement.clamp(max=1)
        return RegionTargets(regions.masks, targets, weights, probabilities)

    def _nothing(self, regions: RegionMasks) -> RegionTargets:
        empty = regions.iou.new_zeros(0)
        return RegionTargets(regions.masks, empty.reshape(0, self._names.embed_dim), empty)


def mask_edges(mask: Tensor) -> tuple[int, int, int, int]:
    """Return the box of a mask, HxW bool and not empty: (x0, y0, x1, y1), x1 and y1 exclusive."""
    rows, columns = (mask.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def crop_box(
    box: Sequence[float], margin: float, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Grow a box (x0, y0, x1, y1) about its centre, clipped to a picture of (h, w) pixels.

    Both sides grow by the factor `margin`; a narrow box is widened until its short side is
    `NARROWEST` of the long one, because name teachers see squares. The result has at least one
    pixel.
    """
    x0, y0, x1, y1 = box
    width, height = (x1 - x0) * margin, (y1 - y0) * margin
    width, height = max(width, NARROWEST * height), max(height, NARROWEST * width)
    left, right = _grow_side(x0, x1, width, size[1])
    top, bottom = _grow_side(y0, y1, height, size[0])
    return left, top, right, bottom


def _grow_side(low: float, high: float, length: float, limit: int) -> tuple[int, int]:
    """Centre `length` on the middle of [low, high], clipped to [0, limit], in whole pixels."""
    middle = (low + high) / 2
    start = min(limit - 1, max(0, math.floor(middle - length / 2)))
    return start, max(start + 1, min(limit, math.ceil(middle + length / 2)))
