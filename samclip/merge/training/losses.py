"""The losses of the distillation: one number for each photo, prompt or region, never reduced.

A step averages them over its whole batch, which may be divided among processes, so no loss here
takes that mean. SAM-CLIP (Wang et al., arXiv 2310.15308, section 3) has two terms: L_CLIP, the
cosine distance of pooled embeddings, and L_SAM, focal plus dice loss between mask logits and the
teacher's mask scores. The others serve small runs, which need more signal from each photo.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samclip.merge.config.stages import EmbedLossConfig, MaskLossConfig
from samclip.merge.students.merged_student import pool_regions, region_weights
from samclip.merge.teachers.base import MULTIMASK


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine: ...xD and ...xD of any norm -> ... ; SAM-CLIP's L_CLIP."""
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)


def focal_loss(
    logits: Tensor, targets: Tensor, valid: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss (Lin et al., 2017, equation 5), averaged over the valid pixels of each mask.

    `logits` and `targets` are ...xHxW, targets bool or probabilities; `valid` HxW, 0 on padding.
    For targets 0 and 1, |p - y| is the paper's 1 - p_t. In this form a soft target's loss is 0
    where the student agrees with the teacher (Li et al., 2020, "Generalized Focal Loss", equation
    4); `alpha` is interpolated by the target as well.
    """
    logits, targets = logits.float(), targets.float()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    modulation = (logits.sigmoid() - targets).abs() ** gamma
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    return _mean_over_valid(balance * modulation * entropy, valid)


def dice_loss(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Dice loss (Milletari et al., 2016, V-Net, section 3) over the valid pixels of each mask.

    Arguments as for `focal_loss`. The denominator sums squares, as in V-Net, so that the loss is
    0 where the student equals a soft target; 1 is added to numerator and denominator, as in SAM's
    code.
    """
    p = logits.float().sigmoid() * valid
    y = targets.float() * valid
    overlap = (p * y).flatten(-2).sum(dim=-1)
    total = (p * p + y * y).flatten(-2).sum(dim=-1)
    return 1 - (2 * overlap + 1) / (total + 1)


def mask_loss(logits: Tensor, teacher: Tensor, valid: Tensor, config: MaskLossConfig) -> Tensor:
    """L_SAM for each mask: focal + dice between student and teacher logits, both ...xHxW -> ... .

    `valid` is HxW, 0 on padding. SAM-CLIP adds the two and states no weights. SAM takes 20 to 1,
    because focal loss is averaged over pixels most of which are easy.
    """
    targets = teacher.float().sigmoid() if config.targets == "soft" else teacher > 0
    focal = focal_loss(logits, targets, valid)
    return config.focal * focal + config.dice * dice_loss(logits, targets, valid)


def every_output(losses: Tensor) -> Tensor:
    """Average the losses of a prompt's four outputs, Nx4 -> N.

    The default for distilling masks: the student's decoder starts as the teacher's, so their
    outputs correspond one to one and there is no ambiguity to resolve.
    """
    return losses.mean(dim=-1)


def best_output(losses: Tensor, is_point: Tensor) -> Tensor:
    """Choose as in SAM's training: the best of outputs 1 to 3 for a single point, else output 0.

    `losses` is Nx4, `is_point` N bool; the result is N.
    """
    return torch.where(is_point, losses[:, list(MULTIMASK)].amin(dim=1), losses[:, 0])


def iou_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of predicted IoUs, averaged over a prompt's four outputs: Nx4 and Nx4 -> N."""
    return (student.float() - teacher.float()).square().mean(dim=-1)


def embedding_loss(
    student: Tensor, teacher: Tensor, valid: Tensor, config: EmbedLossConfig
) -> Tensor:
    """Compare image embeddings position by position: BxCxGxG and BxCxGxG -> B.

    The cosine distance fits the direction, the smooth L1 loss the scale. Open-Vocabulary SAM (Yuan
    et al., 2024, equation 1) distils SAM by the `squared` error alone. Each is averaged over the
    positions where `valid`, BxGxG, is 1; Open-Vocabulary SAM's released code counts the padding as
    well.
    """
    student, teacher = student.float(), teacher.float()
    distance = 1 - F.cosine_similarity(student, teacher, dim=1)  # BxGxG
    error = F.smooth_l1_loss(student, teacher, reduction="none").mean(dim=1)  # BxGxG
    squares = (student - teacher).square().mean(dim=1)  # BxGxG
    loss = config.cosine * distance + config.smooth_l1 * error + config.squared * squares
    return _mean_over_valid(loss, valid)


def region_loss(patch_embeds: Tensor, masks: Tensor, targets: Tensor, token_mask: Tensor) -> Tensor:
    """Cosine loss of each region's pooled patch embeddings: Dxgxg, KxHxW, KxD, gxg -> K.

    The loss of a region that covers no token of the image is 0.
    """
    weights = region_weights(masks, token_mask)
    covered = weights.flatten(1).sum(dim=1) > 0
    losses = cosine_loss(pool_regions(patch_embeds, weights), targets)
    return torch.where(covered, losses, torch.zeros_like(losses))


def _mean_over_valid(values: Tensor, valid: Tensor) -> Tensor:
    """Average ...xHxW over the positions where `valid`, HxW or of the same shape, is 1."""
    valid = valid.to(values.dtype)
    total = (values * valid).flatten(-2).sum(dim=-1)
    return total / valid.flatten(-2).sum(dim=-1).clamp(min=1)
