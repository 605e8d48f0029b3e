"""Prompts for training on masks: random points, and points and boxes drawn from masks.

SAM is trained on prompts simulated from masks (Segment Anything, Kirillov et al., 2023, appendix A,
"Training algorithm"): a point drawn uniformly from the mask, or the mask's box with noise, each
half of the time. Every function here is a pure function of its arguments and a `torch.Generator` on
the CPU, so a repeated training step draws the same prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from samclip.errors import PromptError

FOREGROUND = 1.0
BOX_CORNERS = (2.0, 3.0)
PADDING = -1.0
MASK_STRIDE = 4  # side of a low-resolution mask's pixel, in pixels of the input

# Noise on each coordinate of a box: a normal distribution whose standard deviation is this share
# of the box's side, clipped at this many pixels of the 1024 px frame (SAM, appendix A).
BOX_JITTER = 0.1
BOX_JITTER_PIXELS = 20.0
BOX_JITTER_FRAME = 1024


@dataclass(frozen=True)
class Prompts:
    """N prompts of P points each, on one image, as SAM's prompt encoder takes them.

    `coords` is NxPx2 float32, (x, y) in pixels of the SxS input; `labels` NxP float32: 1
    foreground, 0 background, 2 and 3 the corners of a box, -1 padding. Raises PromptError when
    the shapes do not belong together.
    """

    coords: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.coords.ndim != 3 or self.coords.shape != (*self.labels.shape, 2):
            raise PromptError(
                f"prompts with coords {tuple(self.coords.shape)} and labels "
                f"{tuple(self.labels.shape)}; expected NxPx2 and NxP"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_point(self) -> Tensor:
        """Whether each prompt is a single foreground point, and so ambiguous: N bool."""
        return (self.labels == FOREGROUND).sum(dim=1).eq(1) & (self.labels >= 2).sum(dim=1).eq(0)

    def to(self, device: torch.device) -> Prompts:
        """Return the same prompts on `device`."""
        return Prompts(self.coords.to(device), self.labels.to(device))

    def pick(self, index: Tensor) -> Prompts:
        """Return the prompts at `index`: bool N, or int64 M."""
        return Prompts(self.coords[index], self.labels[index])


def join_prompts(prompts: Sequence[Prompts]) -> Prompts:
    """Concatenate prompts with the same number of points."""
    return Prompts(
        torch.cat([part.coords for part in prompts]), torch.cat([part.labels for part in prompts])
    )


def point_prompts(points: Tensor) -> Prompts:
    """Make a prompt of each point, Nx2 (x, y), as foreground, with SAM's padding point: P is 2."""
    coords = torch.stack([points, torch.zeros_like(points)], dim=1)  # Nx2x2
    labels = points.new_tensor([[FOREGROUND, PADDING]]).expand(len(points), -1)
    return Prompts(coords, labels)


def box_prompts(boxes: Tensor) -> Prompts:
    """Make a prompt of the two corners of each box, Nx4 (x0, y0, x1, y1) in pixels of the input."""
    labels = boxes.new_tensor([BOX_CORNERS]).expand(len(boxes), -1)
    return Prompts(boxes.reshape(-1, 2, 2), labels)


def sample_points(size: tuple[int, int], count: int, generator: Generator) -> Tensor:
    """Draw `count` points uniformly from an image of (height, width) pixels: count x 2, (x, y)."""
    height, width = size
    scale = torch.tensor([width, height], dtype=torch.float32)
    return torch.rand(count, 2, generator=generator) * scale


def boxes_from_masks(masks: Tensor, stride: float) -> Tensor:
    """Return the boxes of N masks, NxHxW bool, none of them empty: Nx4 (x0, y0, x1, y1).

    `stride` is the side of a mask's pixel in pixels of the input (`MASK_STRIDE` for SAM's
    low-resolution masks); a box ends at the far edge of its last pixel. Raises PromptError for an
    empty mask.
    """
    if not bool(masks.flatten(1).any(dim=1).all()):
        raise PromptError("an empty mask has no box; leave such masks out")
    edges = []
    for axis in (1, 2):  # the columns that the mask touches, then the rows
        touched = masks.any(dim=axis).to(torch.uint8)
        first = touched.argmax(dim=1)
        last = touched.shape[1] - touched.flip(1).argmax(dim=1)
        edges.append((first, last))
    (x0, x1), (y0, y1) = edges
    return torch.stack([x0, y0, x1, y1], dim=1).float() * stride


def jitter_boxes(
    boxes: Tensor,
    size: tuple[int, int],
    frame: int,
    generator: Generator,
    share: float = BOX_JITTER,
) -> Tensor:
    """Move each coordinate of Nx4 boxes at random, within an image of (height, width) pixels.

    `frame` is the input's side S; SAM's limit of 20 px scales with it. Boxes keep sides of at least
    one pixel.
    """
    height, width = size
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)  # Nx4: w, h, w, h
    limit = BOX_JITTER_PIXELS * frame / BOX_JITTER_FRAME
    noise = torch.randn(boxes.shape, generator=generator).to(boxes.device) * sides * share
    moved = boxes + noise.clamp(-limit, limit)
    bound = boxes.new_tensor([width, height])
    low = torch.minimum(moved[:, :2].clamp(min=0), bound - 1)
    high = torch.minimum(torch.maximum(moved[:, 2:], low + 1), bound)
    return torch.cat([low, high], dim=1)


def points_from_masks(masks: Tensor, stride: float, generator: Generator) -> Tensor:
    """Draw one point uniformly from each of N masks, NxHxW bool, none of them empty: Nx2 (x, y).

    `stride` as for `boxes_from_masks`; points lie at the centres of the masks' pixels. Raises
    PromptError for an empty mask.
    """
    flat = masks.flatten(1).cpu()
    if not bool(flat.any(dim=1).all()):
        raise PromptError("an empty mask has no point; leave such masks out")
    rank = (torch.rand(len(flat), generator=generator) * flat.sum(dim=1)).long()
    place = (flat.long().cumsum(dim=1) > rank[:, None]).to(torch.uint8).argmax(dim=1)
    x, y = place % masks.shape[2], place // masks.shape[2]
    return ((torch.stack([x, y], dim=1).float() + 0.5) * stride).to(masks.device)
