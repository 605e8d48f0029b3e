"""How well a student does on photos held back: masks and names against the teachers' own.

Three figures, each 1 for a student that equals its teachers:

- mask IoU: the boxes of the teacher's regions, and a point inside each, as prompts to both; the IoU
  of the two answers (output 0 for a box, the output of the best predicted IoU for a point);
- region names: the share of regions for which the student's embedding (of the patches inside the
  mask, or of its box) lies nearest to the same name of the vocabulary as the teacher's of the crop;
- image names: the same for whole photos, top-1, and top-5 (the teacher's name among five).

The score is the geometric mean of mask IoU and region names: neither makes up for the other.
Nothing is drawn but the points, each from a seed of its own, so a student has one score.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from samclip.disk.partial_files import result_file
from samclip.errors import TrainingError
from samclip.merge.config.run import EvaluationConfig
from samclip.merge.data.batches import Sample, ViewBatch
from samclip.merge.data.instances import STRIDE, best_masks, valid_pixels
from samclip.merge.data.mask_prompts import (
    box_prompts,
    boxes_from_masks,
    point_prompts,
    points_from_masks,
)
from samclip.merge.data.photo_sources import PhotoSource
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.data.seeds import derive_seed
from samclip.merge.data.views import ViewOptions, draw_view, render
from samclip.merge.students.merged_student import Learner, Names
from samclip.merge.teachers.region_teacher import RegionTargets
from samclip.merge.training.targets import Teachers

TOP = 5


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of this module's title, and on how much they rest.

    `stage` and `step` tell when; `step` None is the stage's end. The names of records of older
    versions have no chance beside them. `region_chance` and `image_chance`: how often the student's
    answers, given to the wrong regions and photos, would agree with the teacher's.
    `region_commonest`: how often the best answer that is always the same would.
    """

    stage: str
    step: int | None
    score: float
    mask_iou: float
    box_iou: float
    point_iou: float
    region_names: float
    image_names: float
    image_names_top5: float
    photos: int
    regions: int
    region_chance: float = 0.0
    region_commonest: float = 0.0
    image_chance: float = 0.0

    def line(self) -> str:
        """Say it in a line."""
        return (
            f"held-back photos after {self.stage!r}"
            + ("" if self.step is None else f" step {self.step}")
            + f": score {self.score:.4f}  mask IoU {self.mask_iou:.4f} (boxes {self.box_iou:.4f}, "
            f"points {self.point_iou:.4f})  region names {self.region_names:.4f} (chance "
            f"{self.region_chance:.4f}, always the commonest {self.region_commonest:.4f})  image "
            f"names {self.image_names:.4f} (chance {self.image_chance:.4f}, top 5 "
            f"{self.image_names_top5:.4f})  [{self.photos} photos, {self.regions} regions]"
        )


@dataclass(frozen=True)
class PhotoFigures:
    """Of one photo: IoUs of its K regions' boxes and points, and who named what how.

    Names are places in the vocabulary, pairs of the student's and the teacher's. `image_top_hit`
    is 1 where the teacher's name of the photo is among the student's first five, else 0.
    """

    box_ious: Sequence[float]
    point_ious: Sequence[float]
    region_names: Sequence[tuple[int, int]]
    image_names: tuple[int, int]
    image_top_hit: float


class Evaluator:
    """Judges students on the photos of `source`, the first ones by their SHA-256.

    `vocabulary` is KxD, the names' embeddings. Records go to the JSON file `file`, one for each
    stage and step.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        teachers: Teachers,
        source: PhotoSource,
        vocabulary: Tensor,
        size: int,
        file: Path | None,
    ) -> None:
        self._config, self._teachers, self._source = config, teachers, source
        self._vocabulary = F.normalize(vocabulary.float(), dim=1)
        self._size, self._file = size, file
        order = sorted(range(len(source)), key=source.key)
        self._photos = order[: config.photos]

    def has_record(self, stage: str, step: int | None) -> bool:
        """Tell whether the file holds a record of this stage and step."""
        records = [] if self._file is None else read_records(self._file)
        return (stage, step) in {(record.stage, record.step) for record in records}

    @torch.no_grad()
    def evaluate(self, student: Learner, stage: str, step: int | None) -> Evaluation:
        """Judge a student as it is now."""
        figures = [self._photo(student, index) for index in self._photos]
        boxes = mean([iou for one in figures for iou in one.box_ious])
        points = mean([iou for one in figures for iou in one.point_ious])
        regions = [pair for one in figures for pair in one.region_names]
        images = [one.image_names for one in figures]
        names = agreement(regions)
        masks = (boxes + points) / 2
        record = Evaluation(
            stage=stage,
            step=step,
            score=math.sqrt(masks * names),
            mask_iou=masks,
            box_iou=boxes,
            point_iou=points,
            region_names=names,
            image_names=agreement(images),
            image_names_top5=mean([one.image_top_hit for one in figures]),
            photos=len(figures),
            regions=len(regions),
            region_chance=chance(regions),
            region_commonest=commonest(regions),
            image_chance=chance(images),
        )
        if self._file is not None:
            add_record(self._file, record)
        return record

    def _photo(self, student: Learner, index: int) -> PhotoFigures:
        """Judge one photo, whole and unchanged."""
        batch = self._batch(index)
        teachers = self._teachers
        embeddings = teachers.embeddings(batch, keep=True)
        [regions] = teachers.regions(batch, self._config.regions, True, embeddings)
        pixels = batch.pixels.to(student.device)
        encoded = student.encode(pixels)
        named = student.names(encoded, pixels)
        told = self._nearest(named.image, 1)[0, 0]
        wanted = self._nearest(teachers.embeds(batch, keep=True), 1)[0, 0]
        top = self._nearest(named.image, TOP)[0]
        boxes, points = self._ious(student, encoded, embeddings, batch, regions)
        return PhotoFigures(
            boxes,
            points,
            self._region_names(named, regions),
            (int(told), int(wanted)),
            float(bool((top == wanted).any())),
        )

    def _batch(self, index: int) -> ViewBatch:
        photo = self._source.photo(index)
        view = draw_view(ViewOptions.plain(self._size), (photo.shape[0], photo.shape[1]), 0)
        square, size = render(view, photo)
        pixels = PixelBatch(square[None], torch.tensor([size]))
        return ViewBatch((Sample(self._source.key(index), view),), pixels)

    def _nearest(self, embeds: Tensor, count: int) -> Tensor:
        """Name the nearest names of the vocabulary, the nearest first: BxD -> B x count."""
        cosines = F.normalize(embeds.float(), dim=1).cpu() @ self._vocabulary.T.cpu()
        return cosines.topk(count, dim=1).indices

    def _region_names(self, named: Names, regions: RegionTargets) -> list[tuple[int, int]]:
        if len(regions) == 0:
            return []
        ours = self._nearest(named.regions(0, regions.masks), 1)[:, 0]
        theirs = self._nearest(regions.targets, 1)[:, 0]
        return list(zip(ours.tolist(), theirs.tolist(), strict=True))

    def _ious(
        self,
        student: Learner,
        encoded: Any,
        embeddings: Tensor,
        batch: ViewBatch,
        regions: RegionTargets,
    ) -> tuple[list[float], list[float]]:
        """Compare the masks of student and teacher: IoUs of K boxes and of K points."""
        if len(regions) == 0:
            return [], []
        teacher = self._teachers.masks(self._size)
        generator = torch.Generator().manual_seed(
            derive_seed("evaluation points", batch.samples[0].photo)
        )
        boxes = box_prompts(boxes_from_masks(regions.masks, STRIDE))
        points = point_prompts(points_from_masks(regions.masks, STRIDE, generator))
        height, width = batch.pixels.sizes[0].tolist()
        valid = valid_pixels((height, width), 4 * embeddings.shape[-1], embeddings.device) > 0
        ours, theirs = student.masks(encoded, 0, boxes), teacher.masks(embeddings, boxes)
        of_boxes = ious((ours.logits[:, 0] > 0) & valid, (theirs.logits[:, 0] > 0) & valid)
        ours, theirs = student.masks(encoded, 0, points), teacher.masks(embeddings, points)
        of_points = ious(best_masks(ours) & valid, best_masks(theirs) & valid)
        return of_boxes.tolist(), of_points.tolist()


def ious(a: Tensor, b: Tensor) -> Tensor:
    """IoU of each of N pairs of masks, NxHxW bool: N; 1 where both are empty."""
    both = (a & b).flatten(1).sum(dim=1)
    either = (a | b).flatten(1).sum(dim=1)
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(either).float())


def agreement(names: Sequence[tuple[int, int]]) -> float:
    """Tell the share of pairs that are equal; 0 for none."""
    return mean([float(ours == theirs) for ours, theirs in names])


def chance(names: Sequence[tuple[int, int]]) -> float:
    """Tell the share that would be equal if either half of the pairs were in another order."""
    ours = Counter(pair[0] for pair in names)
    theirs = Counter(pair[1] for pair in names)
    return sum(count * theirs[name] for name, count in ours.items()) / max(1, len(names)) ** 2


def commonest(names: Sequence[tuple[int, int]]) -> float:
    """Tell the share of the second halves that the most frequent one of them has; 0 for none."""
    return max(Counter(theirs for _, theirs in names).values(), default=0) / max(1, len(names))


def mean(values: Sequence[float]) -> float:
    """Average `values`; 0 for none."""
    return math.fsum(values) / len(values) if values else 0.0


def read_records(file: Path) -> list[Evaluation]:
    """Read a run's evaluations; none where there is no file. Raises TrainingError."""
    if not file.exists():
        return []
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[Evaluation])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TrainingError(
            f"{file} is damaged ({error}); move it away, and the run begins a new one"
        ) from error


def add_record(file: Path, record: Evaluation) -> None:
    """Put a record among those of a run, in the place of one of the same stage and step."""
    others = [r for r in read_records(file) if (r.stage, r.step) != (record.stage, record.step)]
    text = msgspec.json.format(msgspec.json.encode([*others, record]), indent=2)
    with result_file(file) as written:
        written.write(text + b"\n")
