"""The teachers of a run, with their answers on disk where views come again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from samclip.errors import ConfigError
from samclip.merge.data.annotations import Annotations, Instances, no_instances
from samclip.merge.data.batches import ViewBatch
from samclip.merge.data.labels import Labels
from samclip.merge.data.mask_prompts import boxes_from_masks
from samclip.merge.teachers.base import MaskTeacher, NameTeacher
from samclip.merge.teachers.output_cache import OutputCache, output_key
from samclip.merge.teachers.region_teacher import RegionOptions, RegionTargets, RegionTeacher

HALVED = ("embeddings",)

Outputs = Sequence[Mapping[str, Tensor]]  # the tensors of each picture, by name


class Teachers:
    """The teachers of a run, and the folder `cache` that keeps their answers.

    `names` may be None where no stage needs it. `masks_at` makes the mask teacher for an image size
    in pixels, None where no stage needs one; each is made once. `mask_encoder` makes only its image
    encoder. `labels` are the classes of instances, whose outlines are in the `annotations`; without
    annotations the teachers find and name the instances.
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
        self.mask_encoder = mask_encoder
        self.annotations = annotations
        self._names = names
        self._masks_at = masks_at
        self._masks: dict[int, MaskTeacher] = {}
        self._regions: dict[tuple[int, int], RegionTeacher] = {}
        self.cache = cache
        self._cache = OutputCache(cache, half=HALVED)
        self._device = device
        self._labels = labels

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
        names = self.names

        def make(missing: Sequence[int]) -> Outputs:
            pixels = batch.pick(missing).pixels.to(self._device)
            return [{"embed": row} for row in names.embed(pixels)]

        found = self._answers(f"{names.fingerprint} embed", batch, keep, make)
        return torch.stack([tensors["embed"] for tensors in found]).to(self._device)

    def embeddings(self, batch: ViewBatch, keep: bool) -> Tensor:
        """Encode B pictures by the mask teacher: Bx256xGxG; kept as float16."""
        teacher = self.masks(batch.pixels.size)

        def make(missing: Sequence[int]) -> Outputs:
            pixels = batch.pick(missing).pixels.to(self._device)
            return [{"embeddings": one} for one in teacher.encode(pixels)]

        found = self._answers(f"{teacher.fingerprint} embeddings", batch, keep, make)
        return torch.stack([tensors["embeddings"] for tensors in found]).to(self._device)

    def regions(
        self, batch: ViewBatch, most: int, keep: bool, embeddings: Tensor | None = None
    ) -> list[RegionTargets]:
        """Find up to `most` regions of each picture and name them.

        `embeddings`: Bx256xGxG, the mask teacher's for these pictures, where already computed.
        """
        size = batch.pixels.size
        if (size, most) not in self._regions:
            options = RegionOptions(most=most)
            self._regions[size, most] = RegionTeacher(self.masks(size), self.names, options)
        teacher = self._regions[size, most]

        def make(missing: Sequence[int]) -> Outputs:
            return [
                teacher.targets(
                    batch.pixels.pick([index]),
                    None if embeddings is None else embeddings[index : index + 1].cpu(),
                ).tensors()
                for index in missing
            ]

        found = self._answers(teacher.fingerprint, batch, keep, make)
        return [RegionTargets.from_tensors(stored).to(self._device) for stored in found]

    def instances(self, batch: ViewBatch, most: int, keep: bool) -> list[Instances]:
        """Return the named instances of each picture; at most `most` without annotations."""
        if self.annotations is not None:
            found = [
                self.annotations.shown(sample.photo, sample.view, self.labels)
                for sample in batch.samples
            ]
        else:
            regions = self.regions(batch, most, keep)
            found = [instances_of(each, batch.pixels.size, self.labels) for each in regions]
        return [instances.to(self._device) for instances in found]

    def _answers(
        self, key: str, batch: ViewBatch, keep: bool, make: Callable[[Sequence[int]], Outputs]
    ) -> Outputs:
        """Return the outputs for each picture, from the cache if `keep`; `make` computes some."""
        if not keep:
            return make(range(len(batch.samples)))
        keys = [output_key(key, sample) for sample in batch.samples]
        return self._cache.get_or_make_all(keys, make)


def instances_of(regions: RegionTargets, size: int, labels: Labels) -> Instances:
    """Turn named regions of a square of `size` pixels into instances.

    A region's class is the one whose text lies nearest to the name teacher's embedding of it.
    """
    if len(regions) == 0:
        return no_instances(size).to(regions.masks.device)
    boxes = boxes_from_masks(regions.masks, size / regions.masks.shape[-1])
    return Instances(regions.masks, boxes, labels.nearest(regions.targets))
