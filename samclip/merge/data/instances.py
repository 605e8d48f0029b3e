"""Named instances in a view of a photo, and the prompts that are made of them.

What a mask teacher is asked of a picture, and its answers: one step's prompts and targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from samclip.merge.data.labels import UNNAMED, Labels
from samclip.merge.data.mask_prompts import (
    Prompts,
    box_prompts,
    boxes_from_masks,
    jitter_boxes,
    join,
    point_prompts,
    points_from_masks,
    sample_points,
)
from samclip.merge.teachers.base import MaskAnswer, MaskTeacher
from samclip.merge.teachers.region_teacher import RegionTargets
from samclip.merge.training.losses import MULTIMASK

STRIDE = 4  # pixels of the input along a side of a low-resolution mask's pixel


@dataclass(frozen=True)
class PromptedTarget:
    """N prompts on one picture and the teacher's answers to them.

    `valid`: 4Gx4G float32, 1 on the mask's pixels that hold any of the picture.
    """

    prompts: Prompts
    answer: MaskAnswer
    valid: Tensor


def ask(
    teacher: MaskTeacher,
    embeddings: Tensor,
    size: tuple[int, int],
    count: int,
    boxes: float,
    generator: Generator,
) -> PromptedTarget:
    """Draw `count` prompts for a picture of (height, width) pixels, and ask the teacher.

    `embeddings` is 1x256xGxG. Points are drawn from the whole picture. For the share `boxes` of
    them the prompt is instead the noisy box of the mask that the teacher sees at the point, as
    SAM's training takes boxes from masks; where it sees none, the point stays.
    """
    device, frame = embeddings.device, embeddings.shape[-1] * 16
    points = point_prompts(sample_points(size, count, generator).to(device))
    valid = valid_pixels(size, embeddings.shape[-1] * 4, device)
    answer = teacher.masks(embeddings, points)
    seen = best_masks(answer) & (valid > 0)
    boxed = torch.arange(count, device=device) < round(count * boxes)
    boxed &= seen.flatten(1).any(dim=1)
    if not bool(boxed.any()):
        return PromptedTarget(points, answer, valid)
    around = jitter_boxes(boxes_from_masks(seen[boxed], STRIDE), size, frame, generator)
    corners = box_prompts(around)
    inside = teacher.masks(embeddings, corners)
    prompts = join([corners, points.pick(~boxed)])
    both = MaskAnswer(
        torch.cat([inside.logits, answer.logits[~boxed]]),
        torch.cat([inside.iou, answer.iou[~boxed]]),
    )
    return PromptedTarget(prompts, both, valid)


def best_masks(answer: MaskAnswer) -> Tensor:
    """Take for each prompt the multimask output of the highest predicted IoU: NxHxW bool.

    A model that has but one output is taken at its word.
    """
    if answer.logits.shape[1] == 1:
        only: Tensor = answer.logits[:, 0] > 0
        return only
    best = answer.iou[:, list(MULTIMASK)].argmax(dim=1) + MULTIMASK[0]
    chosen: Tensor = answer.logits[torch.arange(len(best), device=best.device), best] > 0
    return chosen


def valid_pixels(size: tuple[int, int], side: int, device: torch.device) -> Tensor:
    """Say which of side x side mask pixels hold any of a picture of (height, width): 1 or 0."""
    height, width = size
    valid = torch.zeros(side, side, device=device)
    valid[: -(-height // STRIDE), : -(-width // STRIDE)] = 1
    return valid


@dataclass(frozen=True)
class Instances:
    """K instances of a picture in its square of S pixels; K may be 0.

    `masks`: KxHxW bool over the whole square, H = W = S / 4, none of them empty. `boxes`: Kx4
    float32, (x0, y0, x1, y1) in pixels of the square. `labels`: K int64, -1 for those unnamed.
    """

    masks: Tensor
    boxes: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.masks)

    def to(self, device: torch.device) -> Instances:
        """Move the tensors to a device."""
        return Instances(self.masks.to(device), self.boxes.to(device), self.labels.to(device))


def named_regions(regions: RegionTargets, size: int, labels: Labels) -> Instances:
    """Turn what the teachers found and named in a square of `size` pixels into instances.

    A region's class is the one whose text lies nearest to the name teacher's embedding of it.
    """
    if len(regions) == 0:
        return no_instances(size).to(regions.masks.device)
    boxes = boxes_from_masks(regions.masks, size / regions.masks.shape[-1])
    return Instances(regions.masks, boxes, labels.nearest(regions.targets))


def no_instances(size: int) -> Instances:
    """Make the instances of a picture without any, in a square of `size` pixels."""
    side = size // STRIDE
    return Instances(
        torch.zeros(0, side, side, dtype=torch.bool),
        torch.zeros(0, 4),
        torch.full((0,), UNNAMED, dtype=torch.int64),
    )


@dataclass(frozen=True)
class PromptedInstances:
    """N prompts on a picture's K instances; `chosen`: N int64, the instance of each."""

    instances: Instances
    prompts: Prompts
    chosen: Tensor

    @property
    def masks(self) -> Tensor:
        """The mask of each prompt's instance: NxHxW bool."""
        return self.instances.masks[self.chosen]

    @property
    def boxes(self) -> Tensor:
        """The box of each prompt's instance: Nx4."""
        return self.instances.boxes[self.chosen]

    @property
    def labels(self) -> Tensor:
        """The label of each prompt's instance: N."""
        return self.instances.labels[self.chosen]


def prompt_instances(
    instances: Instances, count: int, boxes: float, generator: Generator
) -> PromptedInstances | None:
    """Draw `count` prompts; None for a picture without instances.

    Instances take turns in a random order, so that `count` prompts there are even where instances
    are few, as the released code repeats them. The share `boxes` of the prompts are their boxes as
    they are, the others a point drawn from the mask.
    """
    if len(instances) == 0:
        return None
    turns = -(-count // len(instances))
    order = torch.cat([torch.randperm(len(instances), generator=generator) for _ in range(turns)])
    chosen = order[:count].to(instances.masks.device)
    split = round(count * boxes)
    corners = box_prompts(instances.boxes[chosen[:split]])
    points = points_from_masks(instances.masks[chosen[split:]], STRIDE, generator)
    return PromptedInstances(instances, join([corners, point_prompts(points)]), chosen)
