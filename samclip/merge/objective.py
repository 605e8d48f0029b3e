"""The loss of a batch: what the student says of its pictures against what the teachers say.

Every term has one number for each photo: the mean over the photo's prompts, regions or places. The
loss of a step is the sum over terms of weight x mean over the global batch, so it does not matter
how the batch is cut into processes and micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from samclip.errors import ConfigError
from samclip.merge import losses
from samclip.merge.instance_losses import label_loss, mask_losses
from samclip.merge.instances import PromptedInstances
from samclip.merge.labels import Labels
from samclip.merge.learner import Learner, Names
from samclip.merge.ovsam_student import OvsamEncoded, OvsamStudent
from samclip.merge.pixels import PixelBatch
from samclip.merge.prompting import PromptedTarget
from samclip.merge.stages import TrainStage
from samclip.merge.student import Named
from samclip.merge.teachers.base import MaskAnswer
from samclip.merge.teachers.regions import RegionTargets

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
