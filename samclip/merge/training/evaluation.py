"""The evaluation of a student on held-back photos: its masks and names against its teachers'.

Three figures, each 1 for a student that equals its teachers:

- mask IoU: student and teacher get the same prompts, the box of each of the teacher's regions and
  a point inside it; the IoU of the two answers (output 0 for a box, the output of the best
  predicted IoU for a point);
- region names: the share of regions whose embedding by the student (of the patches inside the mask,
  or of its box) and by the teacher (of the crop) lie nearest to the same name of the vocabulary;
- image names: the same for whole photos, top-1, and top-5 (the teacher's name among five).

The score is the geometric mean of mask IoU and region names, so that neither compensates for the
other. Only the points are random, and their seeds depend on the photo, so the score is
reproducible.
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
from samclip.disk.user_files import read_user_file
from samclip.errors import TrainingError
from samclip.merge.config.tables import EvaluationConfig
from samclip.merge.data.batches import PhotoView, ViewBatch
from samclip.merge.data.mask_prompts import (
    MASK_STRIDE,
    box_prompts,
    boxes_from_masks,
    point_prompts,
    points_from_masks,
)
from samclip.merge.data.photo_sources import PhotoSource
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.data.seeds import derive_seed
from samclip.merge.data.views import WHOLE_PHOTO, draw_view, render
from samclip.merge.students.base import Learner
from samclip.merge.teachers.cached_teachers import Teachers
from samclip.merge.teachers.region_teacher import RegionTargets

MAX_FILE_BYTES = 2**26  # of a run's evaluations; one has 1 kB
TOP = 5


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one evaluation, with the numbers of photos and regions that they rest on.

    It was made in `stage` after `step`, or at the stage's end for None. `region_chance` and
    `image_chance`: how often the student's answers would agree with the teacher's if they were
    assigned to regions and photos at random. `region_commonest`: how often the best constant answer
    would. Records of older versions lack these three, which are then 0.
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
        """Format the figures in one line."""
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
    """The figures of one photo: IoUs for the boxes and points of its K regions, and names.

    Names are indices in the vocabulary, in pairs of the student's and the teacher's.
    `image_top_hit` is 1 where the teacher's name of the photo is among the student's first five,
    else 0.
    """

    box_ious: Sequence[float]
    point_ious: Sequence[float]
    region_names: Sequence[tuple[int, int]]
    image_names: tuple[int, int]
    image_top_hit: float


class Evaluator:
    """Evaluates students on the photos of `source` that come first by SHA-256.

    `vocabulary` is KxD, the names' embeddings. Records go to the JSON file `file`, one for each
    stage and step; None writes none.
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
        self._config = config
        self._teachers = teachers
        self._source = source
        self._vocabulary = F.normalize(vocabulary.float(), dim=1)
        self._size = size
        self._file = file
        order = sorted(range(len(source)), key=source.key)
        self._photos = order[: config.photos]

    def has_record(self, stage: str, step: int | None) -> bool:
        """Return whether the file holds a record of this stage and step."""
        records = [] if self._file is None else read_records(self._file)
        return (stage, step) in {(record.stage, record.step) for record in records}

    @torch.no_grad()
    def evaluate(self, student: Learner, stage: str, step: int | None) -> Evaluation:
        """Evaluate a student, and add the record to the file."""
        figures = [self._compare_photo(student, index) for index in self._photos]
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

    def _compare_photo(self, student: Learner, index: int) -> PhotoFigures:
        """Compare student and teachers on one photo, whole and unchanged."""
        photo = self._source.photo(index)
        view = draw_view(WHOLE_PHOTO, self._size, (photo.shape[0], photo.shape[1]), 0)
        square, size = render(view, photo)
        pixels = PixelBatch(square[None], torch.tensor([size]))
        batch = ViewBatch((PhotoView(self._source.key(index), view),), pixels)
        teachers = self._teachers
        embeddings = teachers.embeddings(batch, keep=True)
        [regions] = teachers.regions(batch, self._config.regions, True, embeddings)
        pixels = pixels.to(student.device)
        encoded = student.encode(pixels)
        names = student.names(encoded, pixels)
        wanted = self._nearest(teachers.embeds(batch, keep=True), 1)[0, 0]
        top = self._nearest(names.image, TOP)[0]
        box_ious, point_ious = self._compare_masks(student, encoded, embeddings, batch, regions)
        region_names: list[tuple[int, int]] = []
        if len(regions):
            ours = self._nearest(names.regions(0, regions.masks), 1)[:, 0]
            theirs = self._nearest(regions.targets, 1)[:, 0]
            region_names = list(zip(ours.tolist(), theirs.tolist(), strict=True))
        return PhotoFigures(
            box_ious=box_ious,
            point_ious=point_ious,
            region_names=region_names,
            image_names=(int(self._nearest(names.image, 1)[0, 0]), int(wanted)),
            image_top_hit=float(bool((top == wanted).any())),
        )

    def _nearest(self, embeds: Tensor, count: int) -> Tensor:
        """Return the nearest names of the vocabulary, the nearest first: BxD -> B x count."""
        cosines = F.normalize(embeds.float(), dim=1).cpu() @ self._vocabulary.T.cpu()
        return cosines.topk(count, dim=1).indices

    def _compare_masks(
        self,
        student: Learner,
        encoded: Any,
        embeddings: Tensor,
        batch: ViewBatch,
        regions: RegionTargets,
    ) -> tuple[list[float], list[float]]:
        """Return the IoUs of student and teacher for K boxes and for K points."""
        if len(regions) == 0:
            return [], []
        teacher = self._teachers.masks(self._size)
        generator = torch.Generator().manual_seed(
            derive_seed("evaluation points", batch.samples[0].photo)
        )
        boxes = box_prompts(boxes_from_masks(regions.masks, MASK_STRIDE))
        points = point_prompts(points_from_masks(regions.masks, MASK_STRIDE, generator))
        valid = batch.pixels.token_mask(4 * embeddings.shape[-1])[0].to(embeddings.device) > 0
        ours, theirs = student.masks(encoded, 0, boxes), teacher.masks(embeddings, boxes)
        of_boxes = ious((ours.logits[:, 0] > 0) & valid, (theirs.logits[:, 0] > 0) & valid)
        ours, theirs = student.masks(encoded, 0, points), teacher.masks(embeddings, points)
        of_points = ious(ours.best_masks() & valid, theirs.best_masks() & valid)
        return of_boxes.tolist(), of_points.tolist()


def ious(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of each of N pairs of masks, NxHxW bool: N; 1 where both are empty."""
    both = (a & b).flatten(1).sum(dim=1)
    either = (a | b).flatten(1).sum(dim=1)
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(either).float())


def agreement(names: Sequence[tuple[int, int]]) -> float:
    """Return the share of pairs that are equal; 0 for none."""
    return mean([float(ours == theirs) for ours, theirs in names])


def chance(names: Sequence[tuple[int, int]]) -> float:
    """Return the expected share of equal pairs if one half of them were shuffled."""
    ours = Counter(pair[0] for pair in names)
    theirs = Counter(pair[1] for pair in names)
    return sum(count * theirs[name] for name, count in ours.items()) / max(1, len(names)) ** 2


def commonest(names: Sequence[tuple[int, int]]) -> float:
    """Return the share of the most frequent value among the pairs' second halves; 0 for none."""
    return max(Counter(theirs for _, theirs in names).values(), default=0) / max(1, len(names))


def mean(values: Sequence[float]) -> float:
    """Return the mean of `values`; 0 for none."""
    return math.fsum(values) / len(values) if values else 0.0


def read_records(file: Path) -> list[Evaluation]:
    """Read a run's evaluations; none where there is no file. Raises TrainingError."""
    if not file.exists():
        return []
    try:
        return msgspec.json.decode(
            read_user_file(file, MAX_FILE_BYTES, "the evaluations", TrainingError),
            type=list[Evaluation],
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TrainingError(
            f"{file} is damaged ({error}); move it away, and the run starts a new one"
        ) from error


def add_record(file: Path, record: Evaluation) -> None:
    """Add a record to those of a run; it replaces one of the same stage and step."""
    others = [r for r in read_records(file) if (r.stage, r.step) != (record.stage, record.step)]
    text = msgspec.json.format(msgspec.json.encode([*others, record]), indent=2)
    with result_file(file) as written:
        written.write(text + b"\n")
