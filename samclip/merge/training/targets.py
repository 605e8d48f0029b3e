"""The teachers' side of a step: what they say of a batch, kept on disk where views come again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from samclip.errors import ConfigError
from samclip.merge.config.stages import Batch, InstanceBatch, MaskBatch, TrainStage
from samclip.merge.data.annotations import Annotations
from samclip.merge.data.batches import ViewBatch
from samclip.merge.data.instances import (
    Instances,
    PromptedTarget,
    ask,
    named_regions,
    prompt_instances,
)
from samclip.merge.data.labels import Labels
from samclip.merge.data.seeds import derive_seed
from samclip.merge.teachers.base import MaskTeacher, NameTeacher
from samclip.merge.teachers.output_cache import OutputCache, output_key
from samclip.merge.teachers.region_teacher import RegionOptions, RegionTargets, RegionTeacher
from samclip.merge.training.objective import InstanceTargets, MaskTargets, NameTargets

HALVED = ("embeddings",)


class Teachers:
    """The teachers of a run, and the folder that keeps their answers.

    `names` may be None where no stage asks for names. `masks_at` makes the mask teacher for an
    image size in pixels, None where no stage asks for masks; each is made once. `mask_encoder`
    makes its image encoder alone. `labels` are the classes of instances, whose outlines are in the
    `annotations`; without these the teachers find and name them.
    """

    def __init__(
        self,
        names: NameTeacher | None,
        masks_at: Callable[[int], MaskTeacher] | None,
        mask_encoder: Callable[[], nn.Module],
        cache: Path,
        device: torch.device,
        labels: Labels | None = None,
        annotations: Annotations | None = None,
    ) -> None:
        self._names, self._masks_at, self.mask_encoder = names, masks_at, mask_encoder
        self._masks: dict[int, MaskTeacher] = {}
        self._regions: dict[tuple[int, int], RegionTeacher] = {}
        self._cache = OutputCache(cache, half=HALVED)
        self._device = device
        self._labels, self.annotations = labels, annotations

    @property
    def labels(self) -> Labels:
        """The classes of instances; raises ConfigError when the run has none."""
        if self._labels is None:
            raise ConfigError("this stage needs classes; add [labels] to the run's file")
        return self._labels

    @property
    def names(self) -> NameTeacher:
        """The name teacher; raises ConfigError when the run has none."""
        if self._names is None:
            raise ConfigError(
                "this stage needs a teacher of names; add [teachers.names] to the run's file"
            )
        return self._names

    def masks(self, size: int) -> MaskTeacher:
        """Return the mask teacher for squares of `size` pixels; raises ConfigError without one."""
        if self._masks_at is None:
            raise ConfigError(
                "this stage needs a teacher of masks; add [teachers.masks] to the run's file"
            )
        if size not in self._masks:
            self._masks[size] = self._masks_at(size)
        return self._masks[size]

    def embeds(self, batch: ViewBatch, keep: bool) -> Tensor:
        """Embed B pictures by the name teacher: BxD."""

        def make(missing: Sequence[int]) -> list[dict[str, Tensor]]:
            pixels = batch.pick(missing).pixels.to(self._device)
            return [{"embed": row} for row in self.names.embed(pixels)]

        return self._stacked("embed", self.names.fingerprint, batch, keep, make)

    def embeddings(self, batch: ViewBatch, keep: bool) -> Tensor:
        """Encode B pictures by the mask teacher: Bx256xGxG; kept as float16."""
        teacher = self.masks(batch.pixels.size)

        def make(missing: Sequence[int]) -> list[dict[str, Tensor]]:
            pixels = batch.pick(missing).pixels.to(self._device)
            return [{"embeddings": one} for one in teacher.encode(pixels)]

        return self._stacked("embeddings", teacher.fingerprint, batch, keep, make)

    def _stacked(
        self,
        name: str,
        fingerprint: str,
        batch: ViewBatch,
        keep: bool,
        make: Callable[[Sequence[int]], Sequence[Mapping[str, Tensor]]],
    ) -> Tensor:
        """Collect one tensor of each sample, from the cache if `keep`."""
        if keep:
            keys = [output_key(f"{fingerprint} {name}", sample) for sample in batch.samples]
            found: Sequence[Mapping[str, Tensor]] = self._cache.get_or_make_all(keys, make)
        else:
            found = make(range(len(batch.samples)))
        return torch.stack([tensors[name] for tensors in found]).to(self._device)

    def regions(
        self, batch: ViewBatch, most: int, keep: bool, embeddings: Tensor | None = None
    ) -> list[RegionTargets]:
        """Find up to `most` regions of each picture and name them.

        `embeddings`: Bx256xGxG, the mask teacher's for these pictures, where they are at hand.
        """
        teacher = self._region_teacher(batch.pixels.size, most)

        def make(places: Sequence[int]) -> list[dict[str, Tensor]]:
            return [
                teacher.targets(
                    batch.pixels.pick([place]),
                    None if embeddings is None else embeddings[place : place + 1].cpu(),
                ).tensors()
                for place in places
            ]

        if keep:
            keys = [output_key(teacher.fingerprint, sample) for sample in batch.samples]
            found: Sequence[Mapping[str, Tensor]] = self._cache.get_or_make_all(keys, make)
        else:
            found = make(range(len(batch.samples)))
        return [RegionTargets.from_tensors(stored).to(self._device) for stored in found]

    def instances(self, batch: ViewBatch, most: int, keep: bool) -> list[Instances]:
        """List the named instances of each picture; at most `most` where none are annotated."""
        if self.annotations is not None:
            told = [
                self.annotations.shown(sample.photo, sample.view, self.labels)
                for sample in batch.samples
            ]
        else:
            found = self.regions(batch, most, keep)
            told = [named_regions(one, batch.pixels.size, self.labels) for one in found]
        return [one.to(self._device) for one in told]

    def _region_teacher(self, size: int, most: int) -> RegionTeacher:
        if (size, most) not in self._regions:
            options = RegionOptions(most=most)
            self._regions[size, most] = RegionTeacher(self.masks(size), self.names, options)
        return self._regions[size, most]


def name_targets(
    teachers: Teachers, batch: ViewBatch, stage: TrainStage, config: Batch
) -> NameTargets:
    """Ask the teachers what the losses of the names' stream want to know."""
    keep = config.views > 0
    return NameTargets(
        embeds=teachers.embeds(batch, keep) if stage.losses.clip else None,
        regions=_regions(teachers, batch, stage, config, None),
    )


def mask_targets(
    teachers: Teachers,
    batch: ViewBatch,
    stage: TrainStage,
    config: MaskBatch,
    seeds: Sequence[int],
) -> MaskTargets:
    """Ask the teachers what the losses of the masks' stream want to know.

    `seeds`: one for each picture, from which its prompts are drawn.
    """
    embeddings = None
    if stage.losses.sam or stage.losses.embed:
        embeddings = teachers.embeddings(batch, config.views > 0)
    prompted = None
    if stage.losses.sam and embeddings is not None:
        prompted = _prompted(teachers, batch, config, embeddings, seeds)
    return MaskTargets(
        embeddings=embeddings if stage.losses.embed else None,
        prompted=prompted,
        regions=_regions(teachers, batch, stage, config, embeddings),
    )


def instance_targets(
    teachers: Teachers, batch: ViewBatch, config: InstanceBatch, seeds: Sequence[int]
) -> InstanceTargets:
    """Prompt the instances of a batch; `seeds` as for `mask_targets`."""
    prompted = [
        prompt_instances(one, config.prompts, config.boxes, torch.Generator().manual_seed(seed))
        for one, seed in zip(
            teachers.instances(batch, config.regions, config.views > 0), seeds, strict=True
        )
    ]
    return InstanceTargets(prompted, teachers.labels, [derive_seed("points", s) for s in seeds])


def _prompted(
    teachers: Teachers,
    batch: ViewBatch,
    config: MaskBatch,
    embeddings: Tensor,
    seeds: Sequence[int],
) -> list[PromptedTarget]:
    teacher = teachers.masks(batch.pixels.size)
    return [
        ask(
            teacher,
            embeddings[index : index + 1],
            (int(height), int(width)),
            config.prompts,
            config.boxes,
            torch.Generator().manual_seed(seed),
        )
        for index, ((height, width), seed) in enumerate(
            zip(batch.pixels.sizes.tolist(), seeds, strict=True)
        )
    ]


def _regions(
    teachers: Teachers,
    batch: ViewBatch,
    stage: TrainStage,
    config: Batch,
    embeddings: Tensor | None,
) -> list[RegionTargets] | None:
    if not (stage.losses.region and config.regions):
        return None
    return teachers.regions(batch, config.regions, config.views > 0, embeddings)


def prompt_seed(seed: int, stage: str, step: int, place: int) -> int:
    """Seed the prompts of the picture at `place` in the global batch of a step."""
    return derive_seed("prompts", seed, stage, step, place)
