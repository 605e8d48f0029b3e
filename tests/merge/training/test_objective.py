"""Terms are 0 where student and teachers agree, and there is one number for each photo."""

from collections.abc import Sequence

import pytest
import torch
from tiny_run import DIM, SIZE, tiny_student
from torch import Tensor

from samclip.merge.config.stages import (
    EmbedLossConfig,
    Losses,
    MaskBatch,
    MaskLossConfig,
    TrainStage,
)
from samclip.merge.data.mask_prompts import Prompts, box_prompts, join_prompts, point_prompts
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.students.merged_student import MergedStudent
from samclip.merge.teachers.base import MaskAnswer
from samclip.merge.teachers.region_teacher import RegionTargets
from samclip.merge.training.losses import iou_loss, mask_loss
from samclip.merge.training.objective import mask_terms, name_terms, prompted_loss
from samclip.merge.training.prompted_masks import PromptedTarget
from samclip.merge.training.targets import MaskTargets, NameTargets

SIDE = SIZE // 4


def stage(mask_loss: MaskLossConfig | None = None) -> TrainStage:
    return TrainStage(
        name="one",
        steps=1,
        learning_rate=1e-3,
        train={"clip_head": 1.0},
        losses=Losses(sam=1),
        masks=MaskBatch(batch=2, size=SIZE),
        mask_loss=mask_loss or MaskLossConfig(),
        embed_loss=EmbedLossConfig(cosine=2.0, smooth_l1=0.5),
    )


@pytest.fixture(scope="module")
def student() -> MergedStudent:
    student = tiny_student()
    student.model.requires_grad_(False)
    return student


@pytest.fixture(scope="module")
def batch() -> PixelBatch:
    pixels = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 255
    pixels[1, :, 40:] = 0
    return PixelBatch(pixels, torch.tensor([[SIZE, SIZE], [40, SIZE]]))


def prompts() -> Prompts:
    points = point_prompts(torch.tensor([[10.0, 20.0], [30.0, 5.0]]))
    return join_prompts([points, box_prompts(torch.tensor([[5.0, 5.0, 30.0, 30.0]]))])


def regions(targets: Tensor, rows: Sequence[slice], weights: Sequence[float]) -> RegionTargets:
    masks = torch.zeros(len(rows), SIDE, SIDE, dtype=torch.bool)
    for mask, part in zip(masks, rows, strict=True):
        mask[part] = True
    return RegionTargets(masks, targets, torch.tensor(weights))


def near(found: Tensor, expected: float) -> bool:
    """Equal within 1e-5: cosines of float32."""
    return bool((found - expected).abs().max() < 1e-5)


def test_names_that_agree_cost_nothing(student: MergedStudent, batch: PixelBatch) -> None:
    named = student.names(student.encode(batch), batch)
    same = name_terms(student, batch, NameTargets(embeds=named.image * 3))
    assert same.keys() == {"clip"}
    assert near(same["clip"], 0)
    assert near(name_terms(student, batch, NameTargets(embeds=-named.image))["clip"], 2)


def test_regions_are_weighed(student: MergedStudent, batch: PixelBatch) -> None:
    named = student.names(student.encode(batch), batch)
    unit = torch.nn.functional.normalize(named.patches[0], dim=0)  # Dx4x4
    upper = unit[:, :2].mean(dim=(1, 2))
    targets = torch.stack([upper, -upper])
    given = [
        regions(targets, [slice(0, 8), slice(0, 8)], [0.75, 0.25]),
        regions(torch.zeros(0, DIM), [], []),
    ]
    terms = name_terms(student, batch, NameTargets(regions=given))
    assert terms["region"].shape == (2,)
    assert near(terms["region"][0], 0.75 * 0 + 0.25 * 2)
    assert near(terms["region"][1], 0)  # a photo without regions
    both = mask_terms(student, batch, MaskTargets(regions=given), stage())
    assert torch.equal(both["region"], terms["region"])


def test_masks_that_agree_cost_nothing(student: MergedStudent, batch: PixelBatch) -> None:
    encoded = student.encode(batch)
    valid = torch.ones(SIDE, SIDE)
    targets = [
        PromptedTarget(prompts(), student.masks(encoded, index, prompts()), valid)
        for index in range(2)
    ]
    given = MaskTargets(embeddings=encoded.embeddings, prompted=targets)
    same = mask_terms(student, batch, given, stage())
    assert same.keys() == {"sam", "embed"}
    assert near(same["sam"], 0)
    assert near(same["embed"], 0)
    opposite = [
        PromptedTarget(t.prompts, MaskAnswer(-100 * t.answer.logits, t.answer.iou), valid)
        for t in targets
    ]
    given = MaskTargets(embeddings=-encoded.embeddings, prompted=opposite)
    other = mask_terms(student, batch, given, stage())
    assert (other["sam"] > 0.1).all()
    assert (other["embed"] > 2 * 1.9).all()  # cosine 2, weighted by 2


def answers(seed: int) -> MaskAnswer:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, SIDE, SIDE, generator=generator)
    return MaskAnswer(logits, torch.rand(3, 4, generator=generator))


def test_every_output_counts_or_the_best() -> None:
    ours, theirs, valid = answers(0), answers(1), torch.ones(SIDE, SIDE)
    target = PromptedTarget(prompts(), theirs, valid)
    weights = MaskLossConfig(focal=2.0, dice=3.0)
    each = mask_loss(ours.logits, theirs.logits, valid, weights)  # 3x4
    rated = 0.5 * iou_loss(ours.iou, theirs.iou)
    config = MaskLossConfig(focal=2.0, dice=3.0, iou=0.5)
    every = prompted_loss(ours, target, stage(config))
    torch.testing.assert_close(every, each.mean(dim=1) + rated)
    config = MaskLossConfig(focal=2.0, dice=3.0, iou=0.5, outputs="best")
    best = prompted_loss(ours, target, stage(config))
    points = each[:2, 1:].amin(dim=1)
    torch.testing.assert_close(best, torch.cat([points, each[2:, 0]]) + rated)


def test_hard_targets() -> None:
    ours, theirs, valid = answers(0), answers(1), torch.ones(SIDE, SIDE)
    target = PromptedTarget(prompts(), theirs, valid)
    config = MaskLossConfig(iou=0.0, targets="hard")
    found = prompted_loss(ours, target, stage(config))
    sure = MaskAnswer(torch.where(theirs.logits > 0, 50.0, -50.0), theirs.iou)
    soft = prompted_loss(
        ours, PromptedTarget(prompts(), sure, valid), stage(MaskLossConfig(iou=0.0))
    )
    torch.testing.assert_close(found, soft)


def test_nothing_asked_is_nothing_computed(student: MergedStudent, batch: PixelBatch) -> None:
    assert name_terms(student, batch, NameTargets()) == {}
    assert mask_terms(student, batch, MaskTargets(), stage()) == {}
