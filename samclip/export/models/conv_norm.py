"""A convolution followed by batch normalisation, and the exact folding of the two for export."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm: BxCxHxW -> BxC'xH'xW'.

    The padding keeps the size at stride 1 (`kernel_size` is odd). The children are called `c` and
    `bn` as in TinyViT's checkpoints. `bn_weight` is the batch norm's initial scale: 0 makes a
    residual branch start as nothing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        bn_weight: float = 1.0,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.c = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )
        self.bn: nn.Module = nn.BatchNorm2d(out_channels)
        nn.init.constant_(self.bn.weight, bn_weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map BxCxHxW features to BxC'xH'xW' ones."""
        out: Tensor = self.bn(self.c(x))
        return out


def fold_batch_norms(model: ModuleT) -> ModuleT:
    """Return a copy of `model`, in eval mode, whose batch norms are merged into the convolutions.

    In eval mode a batch norm is the affine map y = w (x - mean) / sqrt(var + eps) + b, so scaling
    the convolution's filters and giving it a bias computes the same; this is done in float64 and
    rounded once. Convolutions gain a `bias` and the `bn` entries leave the state dict. `model`
    itself is not changed.
    """
    folded = copy.deepcopy(model).eval()
    for module in folded.modules():
        if isinstance(module, ConvNorm) and isinstance(module.bn, nn.BatchNorm2d):
            module.c = _fold(module.c, module.bn)
            module.bn = nn.Identity()
    return folded


def _fold(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """Fold `bn` into `conv` in float64 and return a convolution of the old dtype."""
    dtype = conv.weight.dtype
    with torch.no_grad():
        return fuse_conv_bn_eval(conv.double(), bn.double()).to(dtype).requires_grad_(True)
