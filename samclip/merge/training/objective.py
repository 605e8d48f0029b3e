"""The loss of a batch: what the student says of its pictures against what the teachers say.

Every term has one number for each photo: the mean over the photo's prompts, regions or places. The
loss of a step is the sum over terms of weight x mean over the global batch, so it does not matter
how the batch is cut into processes and micro-batches.

The losses of prompted instances: Open-Vocabulary SAM's three, one number for each prompt.

Yuan et al., "Open-Vocabulary SAM", arXiv 2401.02955v2, section 3.3; repository HarborYuan/ovsam,
`seg/models/heads/ovsam_head.py`, for what the paper leaves open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from samclip.errors import ConfigError
from samclip.merge.config.stages import InstanceLossConfig, TrainStage
from samclip.merge.data.instances import PromptedInstances, PromptedTarget
from samclip.merge.data.labels import UNNAMED, Labels
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.students.merged_student import Learner, Named, Names
from samclip.merge.students.ovsam_student import OvsamEncoded, OvsamStudent
from samclip.merge.teachers.base import MaskAnswer
from samclip.merge.teachers.region_teacher import RegionTargets
from samclip.merge.training import losses

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


TERMS = ("clip", "region", "sam", "embed", "mask", "dice", "label")

PerPhoto = dict[str, Tensor]  # term -> B float32


@dataclass(frozen=True)
class NameTargets:
    """What teachers say of B pictures of the names' stream; None for what no loss asks.

    `embeds`: BxD. `regions`: one for each picture.
    """

    embeds: Tensor | None = None
    regions: Sequence[RegionTargets] | None = None


@dataclass(frozen=True)
class MaskTargets:
    """What teachers say of B pictures of the masks' stream; None for what no loss asks.

    `embeddings`: Bx256xGxG. `prompted` and `regions`: one for each picture.
    """

    embeddings: Tensor | None = None
    prompted: Sequence[PromptedTarget] | None = None
    regions: Sequence[RegionTargets] | None = None


@dataclass(frozen=True)
class InstanceTargets:
    """The prompted instances of B pictures, None for a picture without any.

    `seeds`: one for each picture, from which the points that are compared are drawn.
    """

    prompted: Sequence[PromptedInstances | None]
    labels: Labels
    seeds: Sequence[int]


def name_terms(student: Learner, batch: PixelBatch, targets: NameTargets) -> PerPhoto:
    """Compute the terms of the names' stream."""
    named = student.names(student.encode(batch), batch)
    terms: PerPhoto = {}
    if targets.embeds is not None:
        terms["clip"] = losses.cosine_loss(named.image, targets.embeds)
    if targets.regions is not None:
        terms["region"] = region_terms(_with_patches(named), targets.regions)
    return terms


def mask_terms(
    student: Learner, batch: PixelBatch, targets: MaskTargets, stage: TrainStage
) -> PerPhoto:
    """Compute the terms of the masks' stream."""
    encoded = student.encode(batch)
    terms: PerPhoto = {}
    if targets.embeddings is not None:
        terms["embed"] = losses.embedding_loss(
            encoded.embeddings,
            targets.embeddings,
            batch.token_mask(encoded.embeddings.shape[-1]),
            stage.embed_loss.cosine,
            stage.embed_loss.smooth_l1,
            stage.embed_loss.squared,
        )
    if targets.prompted is not None:
        terms["sam"] = torch.stack(
            [
                _prompted_loss(student, encoded, index, target, stage)
                for index, target in enumerate(targets.prompted)
            ]
        )
    if targets.regions is not None:
        named = _with_patches(student.names(encoded, batch))
        terms["region"] = region_terms(named, targets.regions)
    return terms


def instance_terms(
    student: Learner, batch: PixelBatch, targets: InstanceTargets, stage: TrainStage
) -> PerPhoto:
    """Compute the terms of the instances' stream; a picture without instances has 0.

    Raises ConfigError for a student that is no Open-Vocabulary SAM.
    """
    if not isinstance(student, OvsamStudent):
        raise ConfigError(
            f"stage {stage.name!r} has instances, on which Open-Vocabulary SAMs alone are trained; "
            "leave them out, or give the student a model_type of those"
        )
    encoded = student.encode(batch)
    each = [
        _instance_terms(student, encoded, index, batch, targets, stage)
        for index in range(len(batch))
    ]
    return {term: torch.stack([one[term] for one in each]) for term in each[0]}


def _instance_terms(
    student: OvsamStudent,
    encoded: OvsamEncoded,
    index: int,
    batch: PixelBatch,
    targets: InstanceTargets,
    stage: TrainStage,
) -> dict[str, Tensor]:
    """Compute the terms of one picture, each a number: the means over its prompts."""
    asked = [term for term in ("mask", "dice", "label") if getattr(stage.losses, term)]
    prompted = targets.prompted[index]
    if prompted is None:
        return {term: torch.zeros((), device=batch.pixels.device) for term in asked}
    terms = {}
    if stage.losses.mask or stage.losses.dice:
        logits = student.masks(encoded, index, prompted.prompts).logits[:, 0]  # NxHxW
        height, width = (batch.sizes[index] / batch.size).tolist()
        generator = torch.Generator().manual_seed(targets.seeds[index])
        shares, config = (height, width), stage.instance_loss
        entropy, dice = mask_losses(logits, prompted.masks, shares, config, generator)
        terms = {"mask": entropy.mean(), "dice": dice.mean()}
    if stage.losses.label:
        embeds = encoded.region_embeds(index, prompted.boxes)
        terms["label"] = label_loss(embeds, prompted.labels, targets.labels)
    return {term: terms[term] for term in asked}


def region_terms(named: Named, regions: Sequence[RegionTargets]) -> Tensor:
    """Average the region loss of each picture, by the regions' weights: B.

    A picture without regions has 0.
    """
    terms = []
    for patches, region, token_mask in zip(named.patches, regions, named.token_mask, strict=True):
        if len(region) == 0:
            terms.append(patches.sum() * 0.0)
            continue
        each = losses.region_loss(patches, region.masks, region.targets, token_mask)  # K
        terms.append((each * region.weights).sum() / region.weights.sum().clamp(min=1e-6))
    return torch.stack(terms)


def _with_patches(named: Names) -> Named:
    if not isinstance(named, Named):
        raise ConfigError(
            "the loss region compares patches, which an Open-Vocabulary SAM does not have; leave "
            "region out of the stage's losses"
        )
    return named


def _prompted_loss(
    student: Learner, encoded: Any, index: int, target: PromptedTarget, stage: TrainStage
) -> Tensor:
    """L_SAM of one picture: the mean over its prompts."""
    ours = student.masks(encoded, index, target.prompts)
    return prompted_loss(ours, target, stage).mean()


def prompted_loss(ours: MaskAnswer, target: PromptedTarget, stage: TrainStage) -> Tensor:
    """L_SAM of each of N prompts, as the stage's `mask_loss` says: N."""
    config = stage.mask_loss
    weights = losses.MaskLossWeights(config.focal, config.dice)
    soft = config.targets == "soft"
    each = losses.mask_loss(ours.logits, target.answer.logits, target.valid, weights, soft)  # Nx4
    if config.outputs == "best":
        chosen = losses.best_output(each, target.prompts.is_point)
    else:
        chosen = losses.every_output(each)
    return chosen + config.iou * losses.iou_loss(ours.iou, target.answer.iou)
