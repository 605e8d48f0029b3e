"""The targets of a step: what the teachers answer for a batch, as far as the losses need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from samclip.merge.config.stages import Batch, InstanceBatch, MaskBatch, TrainStage
from samclip.merge.data.batches import ViewBatch
from samclip.merge.data.labels import Labels
from samclip.merge.data.seeds import derive_seed
from samclip.merge.teachers.cached_teachers import Teachers
from samclip.merge.teachers.region_teacher import RegionTargets
from samclip.merge.training.prompted_masks import (
    PromptedInstances,
    PromptedTarget,
    prompt_instances,
    prompt_teacher,
)


@dataclass(frozen=True)
class NameTargets:
    """The targets for B pictures of the names' stream; None where no loss needs them.

    `embeds`: BxD. `regions`: one for each picture.
    """

    embeds: Tensor | None = None
    regions: Sequence[RegionTargets] | None = None


@dataclass(frozen=True)
class MaskTargets:
    """The targets for B pictures of the masks' stream; None where no loss needs them.

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


def name_targets(
    teachers: Teachers, batch: ViewBatch, stage: TrainStage, config: Batch
) -> NameTargets:
    """Ask the teachers for the targets of a batch of the names' stream."""
    return NameTargets(
        embeds=teachers.embeds(batch, config.views > 0) if stage.losses.clip else None,
        regions=_region_targets(teachers, batch, stage, config, None),
    )


def mask_targets(
    teachers: Teachers,
    batch: ViewBatch,
    stage: TrainStage,
    config: MaskBatch,
    seeds: Sequence[int],
) -> MaskTargets:
    """Ask the teachers for the targets of a batch of the masks' stream.

    `seeds`: one for each picture, from which its prompts are drawn.
    """
    embeddings = None
    if stage.losses.sam or stage.losses.embed:
        embeddings = teachers.embeddings(batch, config.views > 0)
    prompted = None
    if stage.losses.sam and embeddings is not None:
        teacher = teachers.masks(batch.pixels.size)
        prompted = [
            prompt_teacher(
                teacher=teacher,
                picture=batch.pixels.pick([index]),
                embeddings=embeddings[index : index + 1],
                count=config.prompts,
                boxes=config.boxes,
                generator=torch.Generator().manual_seed(seed),
            )
            for index, seed in enumerate(seeds)
        ]
    return MaskTargets(
        embeddings=embeddings if stage.losses.embed else None,
        prompted=prompted,
        regions=_region_targets(teachers, batch, stage, config, embeddings),
    )


def instance_targets(
    teachers: Teachers, batch: ViewBatch, config: InstanceBatch, seeds: Sequence[int]
) -> InstanceTargets:
    """Prompt the instances of a batch; `seeds` as for `mask_targets`."""
    found = teachers.instances(batch, config.regions, config.views > 0)
    prompted = [
        prompt_instances(
            instances, config.prompts, config.boxes, torch.Generator().manual_seed(seed)
        )
        for instances, seed in zip(found, seeds, strict=True)
    ]
    point_seeds = [derive_seed("points", seed) for seed in seeds]
    return InstanceTargets(prompted, teachers.labels, point_seeds)


def prompt_seed(seed: int, stage: str, step: int, place: int) -> int:
    """Return the seed of the prompts of the picture at `place` in a step's global batch."""
    return derive_seed("prompts", seed, stage, step, place)


def _region_targets(
    teachers: Teachers,
    batch: ViewBatch,
    stage: TrainStage,
    config: Batch,
    embeddings: Tensor | None,
) -> list[RegionTargets] | None:
    if not (stage.losses.region and config.regions):
        return None
    return teachers.regions(batch, config.regions, config.views > 0, embeddings)
