"""The losses of the distillation: one number for each photo, prompt or region, never reduced.

A step averages them over its whole batch, which may be spread over processes; so the mean is taken
there and not here. SAM-CLIP (Wang et al., arXiv 2310.15308, section 3) has two terms: L_CLIP, the
cosine distance of pooled embeddings, and L_SAM, focal plus dice loss between mask logits and the
teacher's mask scores. The others serve small runs, which need more signal from each photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MULTIMASK = (1, 2, 3)  # the outputs for ambiguous prompts; output 0 is the single mask


@dataclass(frozen=True)
class MaskLossWeights:
    """What goes into `mask_loss`.

    SAM-CLIP adds focal and dice and states no weights; SAM itself takes 20 to 1, because focal
    loss is averaged over pixels of which most are easy. `iou` weighs the error of the predicted
    IoU, 1 in SAM.
    """

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine: ...xD and ...xD of any length -> ... ; SAM-CLIP's L_CLIP."""
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)


def focal_loss(
    logits: Tensor, targets: Tensor, valid: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss (Lin et al., 2017, equation 5), averaged over the valid pixels of each mask.

    `logits` and `targets` are ...xHxW, targets bool or probabilities; `valid` HxW, 0 on padding.
    For targets 0 and 1, |p - y| is the paper's 1 - p_t. Written so, a soft target's loss is 0
    where the student agrees with the teacher (Li et al., 2020, "Generalized Focal Loss", equation
    4); `alpha` is weighted by the target as well.
    """
    logits, targets = logits.float(), targets.float()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    modulation = (logits.sigmoid() - targets).abs() ** gamma
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    return _mean_over(balance * modulation * entropy, valid)


def dice_loss(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Dice loss (Milletari et al., 2016, V-Net, section 3) over the valid pixels of each mask.

    Arguments as for `focal_loss`. The denominator sums squares, as in V-Net, so that the loss is
    0 where the student equals a soft target; 1 is added above and below, as SAM's code does.
    """
    p = logits.float().sigmoid() * valid
    y = targets.float() * valid
    overlap = (p * y).flatten(-2).sum(dim=-1)
    total = (p * p + y * y).flatten(-2).sum(dim=-1)
    return 1 - (2 * overlap + 1) / (total + 1)


def mask_loss(
    logits: Tensor,
    teacher: Tensor,
    valid: Tensor,
    weights: MaskLossWeights,
    soft: bool = True,
) -> Tensor:
    """L_SAM for each mask: focal + dice between student and teacher logits, both ...xHxW -> ... .

    `valid` is HxW, 0 on padding. The target is the teacher's probability, or with `soft` False its
    decision.
    """
    targets = teacher.float().sigmoid() if soft else teacher > 0
    focal = focal_loss(logits, targets, valid)
    return weights.focal * focal + weights.dice * dice_loss(logits, targets, valid)


def every_output(losses: Tensor) -> Tensor:
    """Average the losses of a prompt's four outputs, Nx4 -> N.

    The default when masks are distilled: the teacher says what each of its outputs is, and the
    student's decoder starts as the teacher's, so outputs correspond and nothing is ambiguous.
    """
    return losses.mean(dim=-1)


def best_output(losses: Tensor, is_point: Tensor) -> Tensor:
    """Choose as SAM's training does: the best of outputs 1 to 3 for a single point, else output 0.

    `losses` is Nx4, `is_point` N bool; the result N.
    """
    return torch.where(is_point, losses[:, list(MULTIMASK)].amin(dim=1), losses[:, 0])


def iou_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of predicted IoUs, averaged over a prompt's four outputs: Nx4 and Nx4 -> N."""
    return (student.float() - teacher.float()).square().mean(dim=-1)


def embedding_loss(
    student: Tensor,
    teacher: Tensor,
    valid: Tensor,
    cosine: float = 1.0,
    smooth_l1: float = 1.0,
    squared: float = 0.0,
) -> Tensor:
    """Distil image embeddings position by position: BxCxGxG and BxCxGxG -> B.

    The cosine distance gives the direction, the smooth L1 loss the scale; the `squared` error alone
    is what Open-Vocabulary SAM (Yuan et al., 2024, equation 1) distils SAM by. Each is averaged
    over the positions where `valid`, BxGxG, is 1; its released code counts the padding as well.
    """
    student, teacher = student.float(), teacher.float()
    distance = 1 - F.cosine_similarity(student, teacher, dim=1)  # BxGxG
    error = F.smooth_l1_loss(student, teacher, reduction="none").mean(dim=1)  # BxGxG
    squares = (student - teacher).square().mean(dim=1)  # BxGxG
    return _mean_over(cosine * distance + smooth_l1 * error + squared * squares, valid)


def region_weights(masks: Tensor, token_mask: Tensor) -> Tensor:
    """Spread masks, KxHxW bool over the whole input, over the tokens of `token_mask`, gxg: Kxgxg.

    Each token weighs by the area of the mask inside it, as in samclip.runtime.tasks.token_naming,
    and the weights of a mask add up to 1; a mask outside the image gets zeros. g divides H.
    """
    tokens = len(token_mask)
    shares = F.avg_pool2d(masks.float().unsqueeze(1), masks.shape[-1] // tokens).squeeze(1)  # Kxgxg
    shares = shares * token_mask
    total = shares.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, shares / total.clamp(min=1e-12), torch.zeros_like(shares))


def pool_regions(patch_embeds: Tensor, weights: Tensor) -> Tensor:
    """Average the unit embeddings of patches, Dxgxg, by Kxgxg `weights`: KxD."""
    unit = F.normalize(patch_embeds.float(), dim=0)
    return weights.flatten(1) @ unit.flatten(1).T  # Kxgg @ ggxD


def region_loss(patch_embeds: Tensor, masks: Tensor, targets: Tensor, token_mask: Tensor) -> Tensor:
    """Cosine loss of each region's pooled patch embeddings: Dxgxg, KxHxW, KxD, gxg -> K.

    Regions that cover no token of the image count nothing, 0.
    """
    weights = region_weights(masks, token_mask)
    covered = weights.flatten(1).sum(dim=1) > 0
    losses = cosine_loss(pool_regions(patch_embeds, weights), targets)
    return torch.where(covered, losses, torch.zeros_like(losses))


def _mean_over(values: Tensor, valid: Tensor) -> Tensor:
    """Average ...xHxW over the places where `valid`, HxW or of the same shape, is 1."""
    valid = valid.to(values.dtype)
    total = (values * valid).flatten(-2).sum(dim=-1)
    return total / valid.flatten(-2).sum(dim=-1).clamp(min=1)
