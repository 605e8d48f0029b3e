from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from photo_sources import ListSource
from tiny_run import DIM, SIZE, tiny_student
from torch import Tensor

from samclip.errors import TrainingError
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.merge.config.tables import EvaluationConfig
from samclip.merge.data.batches import ViewBatch
from samclip.merge.data.mask_prompts import Prompts
from samclip.merge.students.base import run_decoder
from samclip.merge.students.merged_student import MergedStudent, pool_regions, region_weights
from samclip.merge.teachers.base import MaskAnswer
from samclip.merge.teachers.region_teacher import RegionTargets
from samclip.merge.training.evaluation import (
    Evaluator,
    add_record,
    agreement,
    chance,
    commonest,
    ious,
    mean,
    read_records,
)

SIDE = SIZE // 4
VOCABULARY = torch.cat([torch.eye(DIM), -torch.eye(DIM)])
BLOCKS = ((slice(0, 6), slice(0, 6)), (slice(6, 12), slice(2, 12)))


class Agreeing:
    """Teachers that agree with the student, except for `wrong` names."""

    def __init__(self, student: MergedStudent, wrong: int = 0, other_masks: bool = False) -> None:
        self.student, self.wrong, self.other_masks = student, wrong, other_masks
        self.shown: list[str] = []

    def embeddings(self, batch: ViewBatch, keep: bool) -> Tensor:
        self.shown += [sample.photo for sample in batch.samples]
        return self.student.encode(batch.pixels).embeddings

    def embeds(self, batch: ViewBatch, keep: bool) -> Tensor:
        return self.student.names(self.student.encode(batch.pixels), batch.pixels).image

    def regions(
        self, batch: ViewBatch, most: int, keep: bool, embeddings: Tensor
    ) -> list[RegionTargets]:
        masks = torch.zeros(len(BLOCKS), SIDE, SIDE, dtype=torch.bool)
        for mask, block in zip(masks, BLOCKS, strict=True):
            mask[block] = True
        named = self.student.names(self.student.encode(batch.pixels), batch.pixels)
        targets = pool_regions(named.patches[0], region_weights(masks, named.token_mask[0]))
        targets[: self.wrong] *= -1
        return [RegionTargets(masks, F.normalize(targets, dim=1), torch.ones(len(masks)))]

    def masks(self, size: int) -> Masks:
        return Masks(self.student, -1 if self.other_masks else 1)


class Masks:
    """The student as the teacher of masks, its logits times `sign`."""

    def __init__(self, student: MergedStudent, sign: int) -> None:
        model = student.model
        self.decoder = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder)
        self.sign = sign

    def masks(self, embeddings: Tensor, prompts: Prompts) -> MaskAnswer:
        answer = run_decoder(self.decoder, embeddings, prompts)
        return MaskAnswer(answer.logits * self.sign, answer.iou)


@pytest.fixture(scope="module")
def student() -> MergedStudent:
    return tiny_student()


def evaluator(
    teachers: Agreeing, file: Path | None = None, photos: int = 3
) -> tuple[Evaluator, ListSource]:
    source = ListSource(5, (40, 64))
    config = EvaluationConfig(photos=photos)
    return Evaluator(config, teachers, source, VOCABULARY, SIZE, file), source  # type: ignore[arg-type]


def test_a_student_that_equals_its_teachers_has_one_everywhere(student: MergedStudent) -> None:
    teachers = Agreeing(student)
    judge, source = evaluator(teachers)
    record = judge.evaluate(student, "head", None)
    assert (record.photos, record.regions) == (3, 6)
    figures = (record.score, record.mask_iou, record.region_names, record.image_names)
    assert figures == pytest.approx((1, 1, 1, 1))
    assert teachers.shown == sorted(source.key(index) for index in range(5))[:3]
    assert "score 1.0000" in record.line()
    assert "after 'head':" in record.line()


def test_names_that_differ_count(student: MergedStudent) -> None:
    judge, _ = evaluator(Agreeing(student, wrong=1))
    record = judge.evaluate(student, "head", 5)
    assert record.region_names == pytest.approx(0.5)
    assert record.score == pytest.approx(math.sqrt(0.5))
    assert record.mask_iou == pytest.approx(1)
    assert "step 5" in record.line()


def test_masks_that_differ_count(student: MergedStudent) -> None:
    judge, _ = evaluator(Agreeing(student, other_masks=True))
    record = judge.evaluate(student, "head", None)
    assert record.mask_iou < 0.3  # inverted masks share next to nothing
    assert record.score == pytest.approx(math.sqrt(record.mask_iou))
    assert record.mask_iou == pytest.approx((record.box_iou + record.point_iou) / 2)


def test_a_student_has_one_score(student: MergedStudent) -> None:
    judge, _ = evaluator(Agreeing(student, wrong=1))
    assert judge.evaluate(student, "a", None) == judge.evaluate(student, "a", None)


def test_records_are_kept_one_for_each_stage_and_step(
    student: MergedStudent, tmp_path: Path
) -> None:
    file = tmp_path / "evaluation.json"
    judge, _ = evaluator(Agreeing(student), file, photos=1)
    for stage, step in (("a", 2), ("a", None), ("b", 2), ("a", 2)):
        judge.evaluate(student, stage, step)
    assert [(r.stage, r.step) for r in read_records(file)] == [("a", None), ("b", 2), ("a", 2)]
    add_record(file, read_records(file)[0])
    assert len(read_records(file)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
    assert read_records(tmp_path / "none.json") == []


@pytest.mark.parametrize("data", [b"", b"[{", b"{}", b"[1]", b'["\xff"]', b"[" * 100_000])
def test_damaged_records_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "evaluation.json").write_bytes(data)
    with pytest.raises(TrainingError, match=r"evaluation\.json is damaged .*move it away"):
        read_records(tmp_path / "evaluation.json")


def squares(*sides: int) -> Tensor:
    masks = torch.zeros(len(sides), 8, 8, dtype=torch.bool)
    for mask, side in zip(masks, sides, strict=True):
        mask[:side, :side] = True
    return masks


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [((4, 0, 2), (4, 0, 4), (1, 1, 0.25)), ((8,), (0,), (0,)), ((), (), ())],
)
def test_ious_by_hand(
    ours: Sequence[int], theirs: Sequence[int], expected: Sequence[float]
) -> None:
    assert ious(squares(*ours), squares(*theirs)).tolist() == pytest.approx(list(expected))


def test_the_mean_of_nothing_is_nothing() -> None:
    assert mean([]) == 0
    assert mean([1.0, 0.5]) == 0.75


def test_chance_by_hand() -> None:
    names = [(0, 0), (0, 1), (1, 0), (2, 0)]
    assert agreement(names) == 1 / 4
    # name 0: 1/2 of our names and 3/4 of theirs; name 1: 1/4 of each; name 2: 0 of theirs
    assert chance(names) == pytest.approx(1 / 2 * 3 / 4 + 1 / 4 * 1 / 4)
    assert commonest(names) == 3 / 4
    assert (agreement([]), chance([]), commonest([])) == (0, 0, 0)
