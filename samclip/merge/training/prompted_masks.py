"""Prompts on a picture and the masks that answer them, from a teacher or from named instances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from samclip.merge.data.annotations import Instances
from samclip.merge.data.mask_prompts import (
    MASK_STRIDE,
    Prompts,
    box_prompts,
    boxes_from_masks,
    jitter_boxes,
    join_prompts,
    point_prompts,
    points_from_masks,
    sample_points,
)
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.teachers.base import MaskAnswer, MaskTeacher


@dataclass(frozen=True)
class PromptedTarget:
    """N prompts on one picture and the teacher's answers to them.

    `valid`: 4Gx4G float32, 1 on the mask's pixels that hold any of the picture.
    """

    prompts: Prompts
    answer: MaskAnswer
    valid: Tensor


def prompt_teacher(
    teacher: MaskTeacher,
    picture: PixelBatch,
    embeddings: Tensor,
    count: int,
    boxes: float,
    generator: Generator,
) -> PromptedTarget:
    """Draw `count` prompts for ONE picture, whose embeddings are 1x256xGxG, and ask the teacher.

    Points are drawn from the whole picture. For the share `boxes` of them the prompt is instead the
    noisy box of the mask that the teacher sees at the point, as SAM's training takes boxes from
    masks; where the teacher sees none, the point stays.
    """
    device = embeddings.device
    height, width = (int(side) for side in picture.sizes[0])
    points = point_prompts(sample_points((height, width), count, generator).to(device))
    valid = picture.token_mask(embeddings.shape[-1] * 4)[0].to(device)
    answer = teacher.masks(embeddings, points)
    seen = answer.best_masks() & (valid > 0)
    boxed = torch.arange(count, device=device) < round(count * boxes)
    boxed &= seen.flatten(1).any(dim=1)
    if not bool(boxed.any()):
        return PromptedTarget(points, answer, valid)
    tight = boxes_from_masks(seen[boxed], MASK_STRIDE)
    corners = box_prompts(jitter_boxes(tight, (height, width), picture.size, generator))
    inside = teacher.masks(embeddings, corners)
    prompts = join_prompts([corners, points.pick(~boxed)])
    both = MaskAnswer(
        torch.cat([inside.logits, answer.logits[~boxed]]),
        torch.cat([inside.iou, answer.iou[~boxed]]),
    )
    return PromptedTarget(prompts, both, valid)


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

    Instances take turns in a random order, so that there are `count` prompts even for few
    instances, as the released code repeats them. The share `boxes` of the prompts are the
    instances' boxes without noise, the others a point drawn from the mask.
    """
    if len(instances) == 0:
        return None
    turns = -(-count // len(instances))
    order = torch.cat([torch.randperm(len(instances), generator=generator) for _ in range(turns)])
    chosen = order[:count].to(instances.masks.device)
    split = round(count * boxes)
    corners = box_prompts(instances.boxes[chosen[:split]])
    points = points_from_masks(instances.masks[chosen[split:]], MASK_STRIDE, generator)
    return PromptedInstances(instances, join_prompts([corners, point_prompts(points)]), chosen)
