"""The loss terms of a batch: the student's outputs compared with the teachers' targets.

Every term has one number for each photo: the mean over the photo's prompts, regions or positions.
The loss of a step is the sum over terms of weight x mean over the global batch, so it does not
depend on how the batch is divided among processes and micro-batches.

The terms of prompted instances are those of Open-Vocabulary SAM: Yuan et al., arXiv 2401.02955v2,
section 3.3; where the paper leaves details open, repository HarborYuan/ovsam,
`seg/models/heads/ovsam_head.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from samclip.errors import ConfigError
from samclip.merge.config.stages import InstanceLossConfig, TrainStage
from samclip.merge.data.labels import UNNAMED, Labels
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.students.base import Learner, Names
from samclip.merge.students.merged_student import MergedNames
from samclip.merge.students.ovsam_student import OvsamEncoded, OvsamStudent
from samclip.merge.teachers.base import MaskAnswer
from samclip.merge.teachers.region_teacher import RegionTargets
from samclip.merge.training import losses
from samclip.merge.training.prompted_masks import PromptedTarget
from samclip.merge.training.targets import InstanceTargets, MaskTargets, NameTargets

TERMS = ("clip", "region", "sam", "embed", "mask", "dice", "label")
DICE_EPS = 1.0

PerPhoto = dict[str, Tensor]  # term -> B float32


def name_terms(student: Learner, batch: PixelBatch, targets: NameTargets) -> PerPhoto:
    """Compute the terms of the names' stream."""
    names = student.names(student.encode(batch), batch)
    terms: PerPhoto = {}
    if targets.embeds is not None:
        terms["clip"] = losses.cosine_loss(names.image, targets.embeds)
    if targets.regions is not None:
        terms["region"] = region_terms(names, targets.regions)
    return terms


def mask_terms(
    student: Learner, batch: PixelBatch, targets: MaskTargets, stage: TrainStage
) -> PerPhoto:
    """Compute the terms of the masks' stream."""
    encoded = student.encode(batch)
    terms: PerPhoto = {}
    if targets.embeddings is not None:
        valid = batch.token_mask(encoded.embeddings.shape[-1])
        terms["embed"] = losses.embedding_loss(
            encoded.embeddings, targets.embeddings, valid, stage.embed_loss
        )
    if targets.prompted is not None:
        each = [
            prompted_loss(student.masks(encoded, index, target.prompts), target, stage).mean()
            for index, target in enumerate(targets.prompted)
        ]
        terms["sam"] = torch.stack(each)
    if targets.regions is not None:
        terms["region"] = region_terms(student.names(encoded, batch), targets.regions)
    return terms


def instance_terms(
    student: Learner, batch: PixelBatch, targets: InstanceTargets, stage: TrainStage
) -> PerPhoto:
    """Compute the terms of the instances' stream; 0 for a picture without instances.

    Raises ConfigError for a student that is not an Open-Vocabulary SAM.
    """
    if not isinstance(student, OvsamStudent):
        raise ConfigError(
            f"stage {stage.name!r} has instances, on which only Open-Vocabulary SAMs are trained; "
            "leave them out, or give the student one of their model types"
        )
    encoded = student.encode(batch)
    each = [
        _terms_of_picture(student, encoded, index, batch, targets, stage)
        for index in range(len(batch))
    ]
    return {term: torch.stack([one[term] for one in each]) for term in each[0]}


def _terms_of_picture(
    student: OvsamStudent,
    encoded: OvsamEncoded,
    index: int,
    batch: PixelBatch,
    targets: InstanceTargets,
    stage: TrainStage,
) -> dict[str, Tensor]:
    """Compute the instance terms of one picture, each a scalar: the mean over its prompts."""
    wanted = [term for term in ("mask", "dice", "label") if getattr(stage.losses, term)]
    prompted = targets.prompted[index]
    if prompted is None:
        return {term: torch.zeros((), device=batch.pixels.device) for term in wanted}
    terms = {}
    if stage.losses.mask or stage.losses.dice:
        height, width = (batch.sizes[index] / batch.size).tolist()
        entropy, dice = mask_losses(
            logits=student.masks(encoded, index, prompted.prompts).logits[:, 0],  # NxHxW
            targets=prompted.masks,
            size=(height, width),
            config=stage.instance_loss,
            generator=torch.Generator().manual_seed(targets.seeds[index]),
        )
        terms = {"mask": entropy.mean(), "dice": dice.mean()}
    if stage.losses.label:
        embeds = encoded.region_embeds(index, prompted.boxes)
        terms["label"] = label_loss(embeds, prompted.labels, targets.labels)
    return {term: terms[term] for term in wanted}


def region_terms(names: Names, regions: Sequence[RegionTargets]) -> Tensor:
    """Average the region loss of each picture, by the regions' weights: B.

    A picture without regions has 0. Raises ConfigError for the names of an Open-Vocabulary SAM.
    """
    if not isinstance(names, MergedNames):
        raise ConfigError(
            "the loss region compares patches, which an Open-Vocabulary SAM does not have; leave "
            "region out of the stage's losses"
        )
    terms = []
    for patches, region, token_mask in zip(names.patches, regions, names.token_mask, strict=True):
        if len(region) == 0:
            terms.append(patches.sum() * 0.0)
            continue
        each = losses.region_loss(patches, region.masks, region.targets, token_mask)  # K
        terms.append((each * region.weights).sum() / region.weights.sum().clamp(min=1e-6))
    return torch.stack(terms)


def prompted_loss(ours: MaskAnswer, target: PromptedTarget, stage: TrainStage) -> Tensor:
    """L_SAM of each of N prompts, by the stage's `mask_loss`: N."""
    config = stage.mask_loss
    each = losses.mask_loss(ours.logits, target.answer.logits, target.valid, config)  # Nx4
    if config.outputs == "best":
        chosen = losses.best_output(each, target.prompts.is_point)
    else:
        chosen = losses.every_output(each)
    return chosen + config.iou * losses.iou_loss(ours.iou, target.answer.iou)


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
        # Rows and columns that hold any of the picture.
        height, width = (
            math.ceil(s * side) for s, side in zip(size, logits.shape[-2:], strict=True)
        )
        ours, theirs = (x[:, :height, :width].flatten(1) for x in (logits, targets))
    else:
        points = uncertain_points(logits.detach(), size, config, generator)
        ours, theirs = sample_maps(logits, points), sample_maps(targets, points)
    entropy = F.binary_cross_entropy_with_logits(ours, theirs, reduction="none").mean(dim=1)
    return entropy, linear_dice(ours.sigmoid(), theirs)


def linear_dice(p: Tensor, y: Tensor) -> Tensor:
    """Dice loss of NxP probabilities and targets: N. The denominator sums values, not squares.

    This is mmdet's naive dice loss, 1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1).
    """
    overlap = (p * y).sum(dim=1)
    return 1 - (2 * overlap + DICE_EPS) / (p.sum(dim=1) + y.sum(dim=1) + DICE_EPS)


def label_loss(embeds: Tensor, wanted: Tensor, labels: Labels) -> Tensor:
    """Cross entropy of NxD region embeddings over the classes and the background, averaged: ().

    `wanted`: N int64, where -1 does not count; 0 where none counts. The released code weights the
    background class by 0.1, which has no effect, since no instance belongs to it.
    """
    named = wanted != UNNAMED
    if not bool(named.any()):
        return embeds.sum() * 0.0
    return F.cross_entropy(labels.logits(embeds[named].float()), wanted[named])


def uncertain_points(
    logits: Tensor, size: tuple[float, float], config: InstanceLossConfig, generator: Generator
) -> Tensor:
    """Draw the points at which NxHxW logits are compared: NxPx2, (x, y) as shares of the square.

    PointRend (Kirillov et al., 2020, section 3.1, "Training"): the most uncertain of many random
    points, and some from anywhere.
    """
    count = config.points or 1
    width_height = torch.tensor([size[1], size[0]])
    masks = len(logits)
    hard = round(config.uncertain * count)
    many = max(hard, round(config.oversample * count))
    drawn = (torch.rand(masks, many, 2, generator=generator) * width_height).to(logits.device)
    nearest = (-sample_maps(logits, drawn).abs()).topk(hard, dim=1).indices  # NxP'
    kept = drawn.gather(1, nearest.unsqueeze(-1).expand(-1, -1, 2))
    rest = torch.rand(masks, count - hard, 2, generator=generator) * width_height
    return torch.cat([kept, rest.to(logits.device)], dim=1)


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Interpolate NxHxW maps at NxPx2 points, (x, y) in [0, 1] of the square: NxP.

    Points beyond the centres of the outermost pixels take those pixels' values; in PointRend's code
    they fade to 0.
    """
    grid = (2 * points - 1).unsqueeze(2)  # NxPx1x2
    values = F.grid_sample(maps.unsqueeze(1), grid, padding_mode="border", align_corners=False)
    return values[:, 0, :, 0]
