"""The losses of prompted instances: Open-Vocabulary SAM's three, one number for each prompt.

Yuan et al., "Open-Vocabulary SAM", arXiv 2401.02955v2, section 3.3; repository HarborYuan/ovsam,
`seg/models/heads/ovsam_head.py`, for what the paper leaves open.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from samclip.merge.labels import UNNAMED, Labels
from samclip.merge.stages import InstanceLossConfig

DICE_EPS = 1.0


def mask_losses(
    logits: Tensor,
    targets: Tensor,
    size: tuple[float, float],
    config: InstanceLossConfig,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Cross entropy and dice loss of each mask, NxHxW logits and NxHxW bool: N and N.

    `size` is the share of the square's (height, width) that the picture fills; padding does not
    count. With `config.points` both losses are of points between pixels, else of the pixels.
    """
    logits, targets = logits.float(), targets.float()
    if config.points is None:
        height, width = _filled(size, logits.shape[-2:])
        ours, theirs = (x[:, :height, :width].flatten(1) for x in (logits, targets))
    else:
        points = uncertain_points(logits.detach(), size, config, generator)
        ours, theirs = sample(logits, points), sample(targets, points)
    entropy = F.binary_cross_entropy_with_logits(ours, theirs, reduction="none").mean(dim=1)
    return entropy, linear_dice(ours.sigmoid(), theirs)


def linear_dice(p: Tensor, y: Tensor) -> Tensor:
    """Dice loss of NxP probabilities and targets: N; sums, not squares, below the line.

    What mmdet calls the naive dice loss, 1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1).
    """
    overlap = (p * y).sum(dim=1)
    return 1 - (2 * overlap + DICE_EPS) / (p.sum(dim=1) + y.sum(dim=1) + DICE_EPS)


def label_loss(embeds: Tensor, wanted: Tensor, labels: Labels) -> Tensor:
    """Cross entropy of NxD region embeddings over the classes and the background, averaged: ().

    `wanted`: N int64, those of -1 do not count; 0 where none does. The released code weighs the
    background by 0.1, which no instance is of.
    """
    named = wanted != UNNAMED
    if not bool(named.any()):
        return embeds.sum() * 0.0
    return F.cross_entropy(labels.logits(embeds[named].float()), wanted[named])


def uncertain_points(
    logits: Tensor, size: tuple[float, float], config: InstanceLossConfig, generator: Generator
) -> Tensor:
    """Draw the points at which NxHxW logits are compared: NxPx2, (x, y) as shares of the square.

    PointRend (Kirillov et al., 2020, section 3.1, "Training"): of many random points the ones
    nearest to the decision, and some from anywhere.
    """
    count, height_width = config.points or 1, torch.tensor([size[1], size[0]])
    masks = len(logits)
    hard = round(config.uncertain * count)
    many = max(hard, round(config.oversample * count))
    drawn = (torch.rand(masks, many, 2, generator=generator) * height_width).to(logits.device)
    nearest = (-sample(logits, drawn).abs()).topk(hard, dim=1).indices  # NxP'
    kept = drawn.gather(1, nearest.unsqueeze(-1).expand(-1, -1, 2))
    rest = torch.rand(masks, count - hard, 2, generator=generator) * height_width
    return torch.cat([kept, rest.to(logits.device)], dim=1)


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Interpolate NxHxW maps at NxPx2 points, (x, y) in [0, 1] of the square: NxP.

    Points beyond the outermost pixels' centres take those pixels; PointRend's code fades to 0.
    """
    grid = (2 * points - 1).unsqueeze(2)  # NxPx1x2
    read = F.grid_sample(maps.unsqueeze(1), grid, padding_mode="border", align_corners=False)
    return read[:, 0, :, 0]


def _filled(size: tuple[float, float], shape: torch.Size) -> tuple[int, int]:
    """Count the rows and columns of a map that hold any of the picture, rounded up."""
    height, width = (math.ceil(share * side) for share, side in zip(size, shape, strict=True))
    return height, width
