"""What a mask teacher is asked of a picture, and its answers: one step's prompts and targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from samclip.merge.losses import MULTIMASK
from samclip.merge.prompts import (
    Prompts,
    box_prompts,
    boxes_from_masks,
    jitter_boxes,
    join,
    point_prompts,
    sample_points,
)
from samclip.merge.teachers.base import MaskAnswer, MaskTeacher

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
