"""Named instances in a view of a photo, and the prompts that are made of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from samclip.merge.labels import UNNAMED, Labels
from samclip.merge.prompting import STRIDE
from samclip.merge.prompts import (
    Prompts,
    box_prompts,
    boxes_from_masks,
    join,
    point_prompts,
    points_from_masks,
)
from samclip.merge.teachers.regions import RegionTargets


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
