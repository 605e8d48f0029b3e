import math

import numpy as np
import pytest
import torch

from samclip.merge.config.stages import EmbedLossConfig, MaskLossConfig
from samclip.merge.students.merged_student import pool_regions, region_weights
from samclip.merge.training.losses import (
    best_output,
    cosine_loss,
    dice_loss,
    embedding_loss,
    every_output,
    focal_loss,
    iou_loss,
    mask_loss,
    region_loss,
)
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.tasks.token_naming import TokenSpread

EVERYWHERE = torch.ones(1, 2)


def close(a: torch.Tensor, *values: float) -> bool:
    """Equal within 1e-6, float32's rounding of numbers of this size."""
    return torch.allclose(a.flatten(), torch.tensor(values, dtype=torch.float32), atol=1e-6)


def test_cosine_loss_by_hand() -> None:
    student = torch.tensor([[3.0, 4.0], [1.0, 0.0], [-2.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, 5.0], [1.0, 0.0]])
    assert close(cosine_loss(student, teacher), 0.4, 1.0, 2.0)


def test_focal_loss_by_hand() -> None:
    # p = 1/2 everywhere: 0.25 * 0.5^2 * ln 2 on the foreground, 0.75 * 0.5^2 * ln 2 elsewhere.
    logits, targets = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    assert close(focal_loss(logits, targets, EVERYWHERE), 0.5 * 0.25 * math.log(2))
    assert close(focal_loss(logits, targets, torch.tensor([[1.0, 0.0]])), 0.0625 * math.log(2))
    # p = 3/4 on the foreground: 0.25 * (1/4)^2 * ln 4/3.
    logits = torch.full((1, 1), math.log(3.0))
    expected = 0.25 / 16 * math.log(4 / 3)
    assert close(focal_loss(logits, torch.ones(1, 1), torch.ones(1, 1)), expected)


def test_dice_loss_by_hand() -> None:
    logits, targets = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    # overlap 1/2, squares 1/4 + 1/4 + 1: 1 - (1 + 1) / (1.5 + 1)
    assert close(dice_loss(logits, targets, EVERYWHERE), 0.2)
    # without the second pixel: 1 - (1 + 1) / (1.25 + 1)
    assert close(dice_loss(logits, targets, torch.tensor([[1.0, 0.0]])), 1 - 2 / 2.25)


def test_mask_loss_is_least_where_student_and_teacher_agree() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(3, 4, 8, 8)
    valid = torch.ones(8, 8)
    weights = MaskLossConfig(focal=1.0, dice=1.0)
    student = teacher.clone().requires_grad_()
    loss = mask_loss(student, teacher, valid, weights)
    assert loss.shape == (3, 4)
    assert close(loss.amax(), 0.0)
    loss.sum().backward()
    assert student.grad is not None
    assert student.grad.abs().amax() < 1e-6
    assert (mask_loss(teacher + 0.5, teacher, valid, weights) > 0).all()


def test_hard_targets_are_the_teachers_decisions() -> None:
    logits, teacher = torch.zeros(1, 1, 2), torch.tensor([[[0.2, -0.1]]])
    both = MaskLossConfig(focal=2.0, dice=3.0, targets="hard")
    loss = mask_loss(logits, teacher, EVERYWHERE, both)
    assert close(loss, 2 * 0.125 * math.log(2) + 3 * 0.2)


def test_padding_does_not_count() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 8, 8), torch.randn(1, 8, 8)
    valid = torch.zeros(8, 8)
    valid[:5, :6] = 1
    weights = MaskLossConfig()
    padded = mask_loss(student, teacher, valid, weights)
    cropped = mask_loss(student[:, :5, :6], teacher[:, :5, :6], torch.ones(5, 6), weights)
    assert close(padded, cropped.item())


def test_outputs_are_averaged_or_chosen_as_sam_does() -> None:
    losses = torch.tensor([[1.0, 4.0, 2.0, 3.0], [1.0, 4.0, 2.0, 3.0]])
    assert close(every_output(losses), 2.5, 2.5)
    assert close(best_output(losses, torch.tensor([True, False])), 2.0, 1.0)


def test_iou_loss_by_hand() -> None:
    assert close(iou_loss(torch.tensor([[1.0, 0.5]]), torch.tensor([[0.5, 0.5]])), 0.125)


def test_embedding_loss_by_hand() -> None:
    student = torch.tensor([[3.0, 0.0], [4.0, 1.0]]).reshape(1, 2, 1, 2)  # (3, 4), (0, 1)
    teacher = torch.tensor([[1.0, 0.0], [0.0, 9.0]]).reshape(1, 2, 1, 2)  # (1, 0), (0, 9)
    both = torch.ones(1, 1, 2)
    first = torch.tensor([[[1.0, 0.0]]])
    assert close(
        embedding_loss(student, teacher, both, EmbedLossConfig(cosine=1, smooth_l1=0)), 0.2
    )
    assert close(
        embedding_loss(student, teacher, first, EmbedLossConfig(cosine=1, smooth_l1=0)), 0.4
    )
    # smooth L1 at the first place: (1.5 + 3.5) / 2
    assert close(
        embedding_loss(student, teacher, first, EmbedLossConfig(cosine=0, smooth_l1=2)), 5.0
    )


def test_region_weights_are_areas_inside_tokens_of_the_image() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 0:4, 2:8] = True  # half of token 0, all of token 1 of a 2 x 2 grid
    assert close(region_weights(mask, torch.ones(2, 2)), 1 / 3, 2 / 3, 0, 0)
    left = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert close(region_weights(mask, left), 1, 0, 0, 0)
    assert close(region_weights(~mask & False, torch.ones(2, 2)), 0, 0, 0, 0)


def test_region_weights_are_the_runtimes() -> None:
    letterbox = Letterbox((48, 64), (48, 64), 64)  # nothing resized: pixels of the input
    token_mask = letterbox.token_mask(4)
    mask = np.random.default_rng(0).random((48, 64)) > 0.7
    expected = TokenSpread(letterbox, token_mask[0]).weights(mask, None)
    padded = torch.zeros(1, 64, 64, dtype=torch.bool)
    padded[0, :48] = torch.from_numpy(mask)
    ours = region_weights(padded, torch.from_numpy(token_mask[0]))
    assert np.allclose(ours[0].numpy(), expected, atol=1e-6)


def test_region_loss_by_hand() -> None:
    patches = torch.zeros(2, 2, 2)
    patches[0, 0, 0], patches[1, 0, 1] = 5, 0.1  # unit vectors (1, 0) and (0, 1)
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 0:4] = True  # both tokens alike: (1/2, 1/2); the second mask is empty
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    pooled = pool_regions(patches, region_weights(mask, torch.ones(2, 2)))
    assert close(pooled[0], 0.5, 0.5)
    loss = region_loss(patches, mask, targets, torch.ones(2, 2))
    assert close(loss, 1 - math.sqrt(0.5), 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_are_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = torch.ones(1, 4, dtype=dtype), torch.ones(1, 4)
    assert cosine_loss(student, teacher).dtype == torch.float32
    logits = torch.full((1, 64, 64), -8.0, dtype=dtype)
    valid = torch.ones(64, 64)
    loss = mask_loss(logits, logits.float(), valid, MaskLossConfig())
    assert loss.dtype == torch.float32
    assert loss.item() < 1e-6
